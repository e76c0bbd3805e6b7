"""All the faults, not the slice that the tests take: ``python -m tests.faults.run {power,errors,kills,random}``.

Writes ``benchmarks/results/faults/PART.json``, with a digest of the sources that it belongs to. What does not come back is a
finding, and exit status 1; the others are still counted. ``make faults`` runs all parts, two at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS, machine
from device_client.install.machine import State
from tests.faults import disk_errors, kills, power, random_faults
from tests.faults.aftermath import InvariantError
from tests.faults.conftest import MEMORY
from tests.faults.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
PARTS = ("power", "errors", "kills", "random")
_USED = (  # by the scenarios, besides the device and this folder
    "simulator.py",
    "unit/bundle/archives.py",
    "unit/device/offline_files.py",
    "unit/device/world.py",
    "unit/inference/models.py",
)
RANDOM_RUNS = 500
RANDOM_SCENARIOS = ("first install", "update", "withdrawal", "resumed download", "garbage collection", "probation committed")
Row = dict[str, Any]


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--every", type=int, default=1, help="take every n-th point only")
    parser.add_argument("--runs", type=int, default=RANDOM_RUNS, help="of random faults")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begun, before = time.monotonic(), sources_digest()
    rows: list[Row] = []
    findings: list[str] = []
    for row in _rows(arguments.part, every=arguments.every, runs=arguments.runs, findings=findings):
        rows.append(row)
        print(arguments.part, json.dumps(row), flush=True)
    document = {
        "part": arguments.part,
        "every": arguments.every,
        "seconds": round(time.monotonic() - begun, 1),
        "rows": rows,
        "findings": findings,
        "sources": before if before == sources_digest() else "changed while it ran",
        "machine": machine(),
    }
    folder = RESULTS / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{arguments.part}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for finding in findings:
        print(f"finding: {finding}", file=sys.stderr)
    sys.exit(1 if findings else 0)


def sources_digest() -> str:
    """SHA-256 over names and bytes of all that a result depends on."""
    total = hashlib.sha256()
    named = [ROOT / "tests" / name for name in _USED]
    for path in sorted([*named, *(ROOT / "device_client").rglob("*.py"), *(ROOT / "tests" / "faults").glob("*.py")]):
        total.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _rows(part: str, *, every: int, runs: int, findings: list[str]) -> Iterator[Row]:
    """One row for each scenario; a scenario that fails is a finding and has no row."""
    if part == "random":
        yield from _guarded(lambda folder: _random(folder, runs, findings), findings)
        return
    for name in SCENARIOS:
        if part == "power":
            yield from _guarded(lambda folder, name=name: _power(name, folder, every), findings)
        elif part == "kills":
            yield from _guarded(lambda folder, name=name: _kills(name, folder), findings)
        else:
            for failure in disk_errors.Failure:
                yield from _guarded(lambda folder, name=name, failure=failure: _errors(name, folder, failure, every), findings)


def _guarded(action: Callable[[Path], Row], findings: list[str]) -> Iterator[Row]:
    folder = Path(tempfile.mkdtemp(prefix="sealift-faults-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield action(folder)
    except InvariantError as error:
        findings.append(str(error)[-2000:])
    finally:
        shutil.rmtree(folder)


def _power(name: str, folder: Path, every: int) -> Row:
    report = power.play(name, folder, every=every)
    return {"scenario": name, "booted": report.booted, "distinct": report.distinct, "events": report.events, "calls": report.calls}


def _errors(name: str, folder: Path, failure: disk_errors.Failure, every: int) -> Row:
    report = disk_errors.disturb(name, folder, failure, every=every)
    return {"scenario": name, "failure": failure.value, "runs": report.runs, "ends": dict(report.ends)}


def _kills(name: str, folder: Path) -> Row:
    done = [kills.kill(name, folder / f"{state}-{moment.name}", state, moment) for state in State for moment in kills.Moment]
    return {"scenario": name, "runs": len(done), "killed": sum(each.killed for each in done)}


def _random(folder: Path, runs: int, findings: list[str]) -> Row:
    recovered: Counter[str] = Counter()
    with random_faults.Faulty(folder, scenarios=RANDOM_SCENARIOS) as faulty:
        for seed in range(runs):
            name = RANDOM_SCENARIOS[seed % len(RANDOM_SCENARIOS)]
            try:
                faulty.run(name, seed=seed)
            except InvariantError as error:
                findings.append(str(error)[-2000:])
                faulty.clear()
            else:
                recovered[name] += 1
        return {"runs": runs, "recovered": recovered.total(), "by scenario": dict(recovered), "ends": dict(faulty.ends)}


if __name__ == "__main__":
    main()
