"""Acceptance rows that one issue answers for: each names tests in ``docs/threat-model.md``, and they pass.

Used by the benchmarks that report on an issue. A row counts if all tests that it names pass, in every one of their cases, or if
it says that there is no such part; a row that is open, or answered in part, does not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_ROW = re.compile(r"^\| ([A-Z][0-9]{2}|[a-z]+(?: [a-z]+)*) \| (.*?) \| (.*) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_UNANSWERED = ("**open**", "in part")


@dataclass(frozen=True)
class Answered:
    """How the rows stand.

    Attributes:
        rows: all that were asked for.
        missing: those of them that are not answered.
        tests: how many tests were named and passed.
    """

    rows: tuple[str, ...]
    missing: tuple[str, ...]
    tests: int

    @property
    def count(self) -> int:
        """Rows that are answered."""
        return len(self.rows) - len(self.missing)


def rows_of(ranges: str) -> list[str]:
    """Ids of rows such as ``A01-A03 B07``, one by one."""
    found = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        found += [f"{part[0]}{n:02d}" for n in range(int(first[1:]), int(last[1:] or 0 if last else first[1:]) + 1)]
    return found


def answer(rows: list[str], *, slow: bool) -> Answered:
    """Runs every test that the rows name, once, and says which rows hold; those that take minutes only if ``slow``."""
    text = (_ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    told = {row: what for row, _, what in _ROW.findall(text)}
    tests = {row: [f"{file}::{name}" if name else file for file, name in _TEST.findall(told.get(row, ""))] for row in rows}
    passed = _passing(sorted({test for named in tests.values() for test in named}), slow=slow)
    missing = [row for row, named in tests.items() if not _is_answered(told.get(row, "**open**"), set(named), passed)]
    return Answered(tuple(rows), tuple(missing), len(passed))


def _is_answered(told: str, named: set[str], passed: set[str]) -> bool:
    if any(word in told for word in _UNANSWERED):
        return False
    return named <= passed if named else "no such part" in told


def _passing(tests: list[str], *, slow: bool) -> set[str]:
    """Those of ``tests`` that pass, each in its own right."""
    marked = "slow or not slow" if slow else "not slow"  # either way those in tests/e2e too
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-m", marked, *tests],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    good, bad = set(), set()
    for line in done.stdout.splitlines():
        word, _, name = line.partition(" ")
        if word in {"PASSED", "FAILED", "ERROR", "SKIPPED"}:
            (good if word == "PASSED" else bad).add(name.split("[")[0].split(" - ")[0])
    return {test for test in tests if any(_covers(test, name) for name in good) and not any(_covers(test, name) for name in bad)}


def _covers(test: str, name: str) -> bool:
    return name == test or name.startswith(f"{test}::")
