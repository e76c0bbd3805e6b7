"""The mutation run over what decides: ``python -m tests.mutation.run``. See README.md beside this file.

Works in a copy under a temporary folder; the checkout is only read. Writes ``benchmarks/results/mutation.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS, machine
from tests.mutation.report import summary, table
from tests.mutation.survivors import accepted

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("device_client/trust", "device_client/policy")
TESTS = ("tests/unit/trust", "tests/unit/policy")
COPIED = ("device_client", "tests", "docs", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*_cache", ".hypothesis")
# What the verdicts depend on.
HASHED = ("device_client", "tests/conftest.py", "tests/simulator.py", "tests/unit/bundle", *TESTS)
HASHED_TOO = ("tests/mutation/rules.py", "tests/mutation/mutate.py", "tests/mutation/run.py")
# A failing example is a kill; making it small would only take time.
NO_SHRINKING = """

from hypothesis import Phase

settings.register_profile("mutation", settings.get_profile("sealift"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("mutation")
"""
CONFIGURATION = """
[tool.mutmut]
source_paths = ["device_client"]
only_mutate = {modules}
also_copy = ["docs"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
timeout_multiplier = 5.0
timeout_constant = 1.5
use_git_change_detection = false
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; the exit status is 0 if the goal is met, every control behaved and every survivor is explained."""
    options = _options(arguments)
    path = Path(options.output)
    if options.check:
        return _check(path)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sealift-mutation-") as folder:
        copy = Path(folder)
        _copy(copy)
        ran_on = digest(copy)
        again = _survivors_of(options.again)
        modules = sorted({mutant["file"] for mutant in again}) or _modules(options.only)
        found = _mutate(copy, modules, again=[mutant["name"] for mutant in again], jobs=options.jobs)
    part = options.only or sorted(mutant["name"] for mutant in again)
    head = {"machine": machine(), "tool": found["tool"], "seconds": round(time.monotonic() - begin), "only": part}
    results = {**head, "sources_and_tests_sha256": ran_on, **summary(found["mutants"], reasons=accepted())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    return 0 if results["met"] and not results["unexplained"] else 1


def digest(root: Path) -> str:
    """SHA-256 over names and bytes of the sources and tests that a run depends on."""
    whole = hashlib.sha256()
    for path in sorted({*_sources(root, HASHED), *(root / name for name in HASHED_TOO)}):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def _check(path: Path) -> int:
    results = json.loads(path.read_text(encoding="utf-8"))
    current = results["sources_and_tests_sha256"] == digest(ROOT) and not results["only"]
    print(
        f"{results['total']['percent']} % of {results['total']['mutants']} mutants;",
        "as it is now" if current else "of another state",
    )
    return 0 if current and results["met"] and not results["unexplained"] else 1


def _copy(copy: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=LEFT_OUT, symlinks=True)
        else:
            shutil.copy2(source, copy / name)


def _survivors_of(path: str | None) -> list[dict[str, Any]]:
    survivors: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))["survivors"] if path else []
    return survivors


def _mutate(copy: Path, modules: Sequence[str], *, again: Sequence[str], jobs: int) -> dict[str, Any]:
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(modules=json.dumps(modules), tests=json.dumps(TESTS)))
    with (copy / "tests" / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(NO_SHRINKING)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "tests.mutation.mutate", str(jobs), *again]
    progress = None if sys.stdout.isatty() else subprocess.PIPE  # mutmut draws its progress on a terminal
    done = subprocess.run(command, cwd=copy, env=environment, stdout=progress, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stdout or "").splitlines() if line and not line.endswith(("mutants", "stats", "tests"))]
        raise SystemExit("\n".join([*said[-60:], "error: the run did not end well"]))
    found: dict[str, Any] = json.loads((copy / "outcome.json").read_text(encoding="utf-8"))
    return found


def _modules(only: Sequence[str]) -> list[str]:
    files = sorted(path.relative_to(ROOT).as_posix() for path in _sources(ROOT, PACKAGES))
    chosen = [name for name in files if not only or any(name.endswith(f"/{module}.py") for module in only)]
    if not chosen:
        raise SystemExit(f"error: no such module: {' '.join(only)}\nhint: --only trust/keys policy/memory")
    return chosen


def _sources(root: Path, names: Sequence[str]) -> set[Path]:
    paths = [root / name for name in names]
    return {path for path in paths if path.is_file()}.union(*(path.rglob("*.py") for path in paths if path.is_dir()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="MODULE", help="trust/keys, policy/memory, ...; default: all")
    parser.add_argument("--again", metavar="RESULTS", help="only the survivors of an earlier run, to see which ones new tests kill")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", default=str(RESULTS / "mutation.json"))
    parser.add_argument("--check", action="store_true", help="run nothing; say whether the results are of the tree as it is")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
