"""The trust issue's figures, all in one run: rows survived, signed repositories, mutants, cost of a refresh, walker, fuzzing.

    make bench-trust

Mutation and fuzzing take an hour and more: `make mutation` and `make fuzz` leave their results beside this one's. They count
here only if the sources are still those that they ran on; else the goal stays unmeasured and says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import trust_refresh, trust_walker
from benchmarks.acceptance import answer, rows_of
from benchmarks.results_file import RESULTS, Goal, Results
from tests.conformance.play import as_process
from tests.conformance.repositories import CASES, play_all
from tests.fuzz.run import sources_digest
from tests.fuzz.target import NAMES
from tests.mutation.run import ROOT
from tests.mutation.run import digest as mutated_digest

_RANGES = "A01-A17 A21-A24 K01-K05 K07-K13 D06 B01-B09 T01 R01-R09 R11"  # rows of the acceptance list that trust owns
_FUZZ_SECONDS = 600


def main() -> None:
    """Runs everything, prints the table, writes ``results/trust.json``."""
    results = Results("trust")
    for part in (_acceptance, _repositories, _mutation, _refresh, _walker, _fuzzing):
        goals, rows = part()
        results.goals += goals
        results.rows += rows
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


def _acceptance() -> tuple[list[Goal], list[dict[str, Any]]]:
    """T1: each row names tests, and they pass; or says why it cannot occur."""
    found = answer(rows_of(_RANGES), slow=True)
    what = "acceptance rows of trust with passing tests, or why they cannot occur"
    goal = Goal("T1", what, found.count, ">=", len(found.rows), "rows")
    missing = ", ".join(sorted(found.missing)) or "none"
    return [goal], [{"part": "T1", "what": "rows not answered", "value": missing, "tests run": found.tests}]


def _repositories() -> tuple[list[Goal], list[dict[str, Any]]]:
    """T2: signed repositories through the executable of the public suite's protocol, one process for each step."""
    played = [outcome.to_json() for outcome in play_all(CASES, client=as_process, workers=2)]
    right = sum(bool(row["as_expected"]) for row in played)
    wrong = [{"part": "T2", "what": row["name"], "value": row["disagreement"]} for row in played if not row["as_expected"]]
    kinds = ", ".join(f"{sum(row['kind'] == kind for row in played)} {kind}" for kind in ("good", "bad"))
    goal = Goal("T2", "signed repositories that end as expected, through processes", right, ">=", max(40, len(played)), "")
    return [goal], [{"part": "T2", "what": "repositories", "value": kinds}, *wrong]


def _mutation() -> tuple[list[Goal], list[dict[str, Any]]]:
    """T3, from `make mutation`."""
    goal = ("T3", "mutants of trust and policy that the tests kill", ">=", 95.0, "%")
    found = _kept(RESULTS / "mutation.json", "sources_and_tests_sha256", mutated_digest(ROOT))
    if isinstance(found, str):
        return [_unmeasured(goal, f"{found}; run `make mutation`")], []
    rows = [{"part": "T3", "what": row["module"], "value": f"{row['percent']} % of {row['mutants']}"} for row in found["modules"]]
    rows.append({"part": "T3", "what": "survivors without a reason", "value": str(len(found["unexplained"]))})
    return [Goal(goal[0], goal[1], float(found["total"]["percent"]), *goal[2:])], rows


def _refresh() -> tuple[list[Goal], list[dict[str, Any]]]:
    rows = trust_refresh.rows()
    return trust_refresh.goals(rows), [{"part": "T4", **row} for row in rows]


def _walker() -> tuple[list[Goal], list[dict[str, Any]]]:
    rows = trust_walker.rows()
    return list(trust_walker.goals(rows)), [{"part": "T5", **row} for row in rows]


def _fuzzing() -> tuple[list[Goal], list[dict[str, Any]]]:
    """T6, from `make fuzz`: the least time that any target had, and whatever was found."""
    goal = ("T6", "shortest clean fuzzing of a target", ">=", float(_FUZZ_SECONDS), "s")
    rows, seconds, reasons = [], [], []
    for target in NAMES:
        found = _kept(RESULTS / "fuzz" / f"{target}.json", "sources", sources_digest(target))
        if isinstance(found, str):
            reasons.append(f"{target}: {found}")
            continue
        is_clean = not found["findings"] and not found["exit_status"]
        seconds.append(float(found["seconds"]) if is_clean else 0.0)
        told = f"{found['seconds']} s, {found['executions']} runs, {found['peak_memory_mb']} MiB, {len(found['findings'])} findings"
        rows.append({"part": "T6", "what": target, "value": told})
    if reasons:
        return [_unmeasured(goal, f"{'; '.join(reasons)}; run `make fuzz`")], rows
    return [Goal(goal[0], goal[1], min(seconds), *goal[2:])], rows


def _kept(path: Path, key: str, sources: str) -> dict[str, Any] | str:
    """A result that was measured earlier, or why it does not count."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "not run"
    return found if found[key] == sources else "the sources have changed since"


def _unmeasured(goal: tuple[str, str, str, float, str], reason: str) -> Goal:
    return Goal(goal[0], goal[1], None, goal[2], goal[3], goal[4], reason)


if __name__ == "__main__":
    main()
