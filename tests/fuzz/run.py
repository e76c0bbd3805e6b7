"""Fuzzes one target for a time: ``python -m tests.fuzz.run TARGET --seconds N``. Needs atheris (``requirements/proofs.lock``).

Begins with the target's seeds and the kept corpus, in a folder of its own. Writes ``benchmarks/results/fuzz/TARGET.json``; what it
finds lies beside it. Exit status 1 if there was a crash, a hang (``HANG_S``) or memory above ``MEMORY_MB``. With ``--keep`` new
inputs that reach new code are put into the kept corpus, smallest first, within ``KEPT_BYTES``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results_file import RESULTS, machine
from tests.fuzz.target import CORPUS, NAMES, ROOT, Target, kept, load

HANG_S = 5  # for one input of at most 64 KiB; the slowest good ones take milliseconds
MEMORY_MB = 1024  # of the whole process, most of it imports
KEPT_BYTES = 60_000  # of one target's kept corpus
_ALWAYS = ("errors", "limits", "text")  # and all of device_client/bundle
_MODULES = {
    "custom": ("trust/custom", "trust/refs", "trust/times"),
    "channel": ("trust/channel",),
    "walker": ("inference/walker", "inference/protobuf", "inference/onnx_schema"),
    "attestation": ("trust/attestation", "trust/custom", "trust/dsse", "trust/keys", "trust/refs", "trust/times"),
    "codebook": ("install/codebook_decoder",),
    "role": ("trust/rules", "trust/keys", "trust/times"),
}
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True)
class Result:
    """What one run did. ``coverage`` and ``features`` are libFuzzer's counts; ``sources`` names the code that was run."""

    target: str
    seconds: float
    executions: int
    executions_per_s: float
    inputs: int
    coverage: int
    features: int
    slowest_s: int
    peak_memory_mb: int
    memory_bound_mb: int
    hang_bound_s: int
    findings: list[str]
    exit_status: int
    sources: str
    machine: dict[str, object]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", action="store_true", help="put new inputs into the kept corpus")
    options = parser.parse_args()
    result = fuzz(options.target, seconds=options.seconds, keep=options.keep)
    print(json.dumps(asdict(result), indent=2))
    sys.exit(1 if result.findings or result.exit_status else 0)


def fuzz(name: str, *, seconds: int, keep: bool = False) -> Result:
    """Runs libFuzzer in a process of its own and returns what it said at its end."""
    target = load(name)
    out = RESULTS / "fuzz"
    found = out / f"{name}.findings"
    found.mkdir(parents=True, exist_ok=True)
    for old in found.iterdir():
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "corpus")
        _fill(work, target, name)
        words = Path(folder, "words")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.WORDS), encoding="ascii")
        options = [
            f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={target.MAX_BYTES}",
            f"-artifact_prefix={found}/", f"-dict={words}", "-print_final_stats=1", "-verbosity=1",
        ]  # fmt: skip
        log = Path(folder, "log")
        started = time.monotonic()
        with log.open("wb") as stream:
            status = _child(name, [*options, str(work)], stream)
        elapsed = time.monotonic() - started
        text = log.read_text(errors="replace")
        if keep and not status:
            _keep(name, target, work)
    result = _result(name, text, elapsed=elapsed, status=status, found=found)
    (out / f"{name}.json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    if status:
        (found / "log.txt").write_text(text[-20_000:], encoding="utf-8")
        print(text[-4000:], file=sys.stderr)
    return result


def sources_digest(target: str) -> str:
    """SHA-256 over names and bytes of the modules that do the target's work: which code a result belongs to."""
    total = hashlib.sha256()
    named = {ROOT / "device_client" / f"{name}.py" for name in (*_ALWAYS, *_MODULES.get(target, ()))}
    for path in sorted({*named, *(ROOT / "device_client" / "bundle").glob("*.py")}):
        total.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _child(name: str, options: list[str], stream: object) -> int:
    command = [sys.executable, "-m", "tests.fuzz.child", name, *options]
    return subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, check=False).returncode  # type: ignore[call-overload,no-any-return]


def _fill(work: Path, target: Target, name: str) -> None:
    work.mkdir()
    for data in [*target.seeds(), *(path.read_bytes() for path in kept(name))]:
        (work / _label(data)).write_bytes(data)


def _keep(name: str, target: Target, work: Path) -> None:
    """What libFuzzer has in its folder at the end reaches code that nothing smaller there does; seeds are made, not kept."""
    known = {_label(data) for data in target.seeds()} | {path.name for path in kept(name)}
    home = CORPUS / name
    home.mkdir(parents=True, exist_ok=True)
    total = sum(path.stat().st_size for path in kept(name))
    for path in sorted(work.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        data = path.read_bytes()
        total += 0 if _label(data) in known else len(data)
        if total > KEPT_BYTES:
            break
        if _label(data) not in known:
            (home / _label(data)).write_bytes(data)


def _label(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _result(name: str, text: str, *, elapsed: float, status: int, found: Path) -> Result:
    statistics = {key: int(value) for key, value in _STATISTIC.findall(text)}
    coverage = _COVERAGE.findall(text)
    edges, features, inputs = (int(part) for part in coverage[-1]) if coverage else (0, 0, 0)
    executions = statistics.get("number_of_executed_units", 0)
    return Result(
        target=name,
        seconds=round(elapsed, 1),
        executions=executions,
        executions_per_s=round(executions / elapsed, 1),
        inputs=inputs,
        coverage=edges,
        features=features,
        slowest_s=statistics.get("slowest_unit_time_sec", -1),
        peak_memory_mb=statistics.get("peak_rss_mb", -1),
        memory_bound_mb=MEMORY_MB,
        hang_bound_s=HANG_S,
        findings=sorted(path.name for path in found.iterdir()),
        exit_status=status,
        sources=sources_digest(name),
        machine=machine(),
    )


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
