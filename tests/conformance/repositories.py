"""A catalogue of complete signed TUF repositories, good and bad, each with steps and the outcome that must come of them.

    python -m tests.conformance.repositories --processes            # the executable, a process for each step; a table
    python -m tests.conformance.repositories --json rows.json -k root

``tests/conformance/test_repositories.py`` plays all but the slow ones in the default run. ``play_all`` is for programs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conformance import (
    chapter_artifacts,
    chapter_cache,
    chapter_delegations,
    chapter_forms,
    chapter_keys,
    chapter_rollback,
    chapter_roots,
    chapter_signatures,
    chapter_transport,
    chapter_workflow,
)
from tests.conformance.loopback import Loopback
from tests.conformance.play import Case, Client, Outcome, as_process, in_process, play_case

CHAPTERS: dict[str, tuple[Case, ...]] = {
    "workflow": chapter_workflow.CASES,
    "roots": chapter_roots.CASES,
    "keys": chapter_keys.CASES,
    "signatures": chapter_signatures.CASES,
    "rollback": chapter_rollback.CASES,
    "forms": chapter_forms.CASES,
    "transport": chapter_transport.CASES,
    "delegations": chapter_delegations.CASES,
    "artifacts": chapter_artifacts.CASES,
    "cache": chapter_cache.CASES,
}
CASES: tuple[Case, ...] = tuple(one for chapter in CHAPTERS.values() for one in chapter)

# Where the client does not yet do what TUF and the design ask for, with the reason: strict expected failures of the tests.
OPEN: dict[str, str] = {}


def play_all(
    cases: Sequence[Case] = CASES, *, client: Client = as_process, workers: int = 2, folder: Path | None = None
) -> Iterator[Outcome]:
    """Plays ``cases``, slow ones first, and yields each outcome as it comes.

    Args:
        client: how the client under test is started; ``in_process()`` allows one worker only.
        workers: how many cases at once.
        folder: where the clients keep their files; a temporary one if not given.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made, Loopback() as server, ThreadPoolExecutor(workers) as pool:
        ordered = sorted(cases, key=lambda one: not one.is_slow)
        yield from pool.map(lambda one: play_case(one, folder=Path(made, one.name), server=server, client=client), ordered)


def main() -> int:
    """Plays the catalogue; the exit status says whether all was as expected."""
    parser = argparse.ArgumentParser(prog="repositories", description="Plays the catalogue of repositories against the client.")
    parser.add_argument("--processes", action="store_true", help="start the executable for each step, as a stranger would")
    parser.add_argument("--slow", action="store_true", help="also those that wait for the client's real time limits")
    parser.add_argument("--json", type=Path, help="write a row for each repository to this file")
    parser.add_argument("-k", default="", help="only those with this in their name")
    args = parser.parse_args()
    chosen = [one for one in CASES if args.k in one.name and (args.slow or not one.is_slow)]
    client, workers = (as_process, 2) if args.processes else (in_process(), 1)
    rows = []
    for outcome in play_all(chosen, client=client, workers=workers):
        row = outcome.to_json()
        rows.append(row)
        print(f"{'ok ' if row['as_expected'] else 'NOT'} {row['kind']:4} {row['name']:55} {row['disagreement'] or ''}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = sum(not row["as_expected"] for row in rows)
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in ("good", "bad")}
    steps = sum(len(row["steps"]) for row in rows)
    print(f"{len(rows)} repositories ({kinds['good']} good, {kinds['bad']} bad), {steps} steps, {wrong} not as expected")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
