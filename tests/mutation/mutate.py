"""Runs mutmut in the present folder, a copy of the tree, and writes what became of each mutant to ``outcome.json``.

Started by ``run``; never in a checkout, since mutmut writes beside what it mutates.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from mutmut import __main__ as mutmut
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

from tests.mutation import rules

OUTCOME = Path("outcome.json")
SECOND_PATIENCE = 2.5
# pytest's answer when a test module cannot even be imported: the mutant broke it.
COLLECTION_FAILED = 2


@dataclass(frozen=True)
class Mutant:
    """One change and what the tests said to it: killed, survived, timeout or another word of mutmut."""

    name: str
    file: str
    function: str
    line: int
    status: str
    was: str
    now: str
    diff: str


def main(jobs: int, *names: str) -> None:
    """Mutates, tests (all mutants, or ``names``), looks at timeouts again with more patience, and writes the outcome."""
    with rules.installed():
        mutmut._run(names, jobs)
        hung = [mutant.name for mutant in _mutants() if mutant.status == "timeout"]
        if hung:  # on a busy machine a slow test looks like one that hangs
            mutmut.config().timeout_multiplier *= SECOND_PATIENCE
            mutmut._run(hung, jobs)
    found = {
        "tool": f"mutmut {version('mutmut')}",
        "mutants": [asdict(mutant) for mutant in _mutants() if not names or mutant.name in names],
    }
    OUTCOME.write_text(json.dumps(found) + "\n", encoding="utf-8")


def _mutants() -> Iterator[Mutant]:
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        starts = _function_starts(path)
        for name, code in data.exit_code_by_key.items():
            function, owner = orig_function_and_class_names_from_key(name)
            qualified = f"{owner}.{function.rpartition('.')[2]}" if owner else function.rpartition(".")[2]
            diff = get_diff_for_mutant(name, path=path)
            was, now, offset = _change(diff)
            status = "killed" if code == COLLECTION_FAILED else status_by_exit_code[code]
            yield Mutant(name, str(path), qualified, starts[qualified] + offset, status, was, now, diff)


def _function_starts(path: Path) -> dict[str, int]:
    """The line of each function's first decorator or ``def``, by qualified name."""
    starts = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            starts[node.name] = node.lineno
        elif isinstance(node, ast.ClassDef):
            starts |= {f"{node.name}.{inner.name}": inner.lineno for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return starts


def _change(diff: str) -> tuple[str, str, int]:
    """The lines taken away, those put in, and how far below ``def`` the first of them is."""
    lines = diff.splitlines()[2:]
    was = "\n".join(line[1:].strip() for line in lines if line.startswith("-"))
    now = "\n".join(line[1:].strip() for line in lines if line.startswith("+"))
    at = -1
    for line in lines:
        if line.startswith("@@"):
            at = int(line.split("-")[1].split(",")[0].split(" ")[0]) - 1
        elif line.startswith("-"):
            break
        else:
            at += 1
    return was, now, max(at, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
