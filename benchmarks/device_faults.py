"""Goals D8 and D9 of the device: power cuts and random faults survived, as `make faults` counted them.

    make faults && python -m benchmarks.device_faults

A result counts only if the sources are still those that it ran on; else the goal stays unmeasured and says so. Only points that a
device was booted from count: where every n-th was taken, a row says so, and of how many. Disk errors and kills are told as rows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.results_file import RESULTS, Goal, Results
from tests.faults.run import PARTS, sources_digest

_D8 = ("D8", "distinct power-cut points that a device came back from, over all scenarios", ">=", 2000.0, "")
_D8_SCENARIOS = ("D8s", "scenarios in which the power was cut", ">=", 6.0, "")
_D9 = ("D9", "devices that came back after polls under random faults", ">=", 500.0, "")


def main() -> None:
    """Prints the table, writes ``results/device_faults.json``."""
    goals, rows = measured()
    results = Results("device_faults", goals, rows)
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in goals):
        sys.exit(1)


def measured() -> tuple[list[Goal], list[dict[str, Any]]]:
    """The goals, and a row for each scenario."""
    kept = {part: _kept(part) for part in PARTS}
    rows = [row for part, found in kept.items() if not isinstance(found, str) for row in _rows(part, found)]
    return [*_power(kept["power"]), _random(kept["random"])], rows


def _power(found: dict[str, Any] | str) -> list[Goal]:
    if isinstance(found, str):
        return [_unmeasured(_D8, found), _unmeasured(_D8_SCENARIOS, found)]
    if found["findings"]:  # a point that was not survived makes all of it count for nothing
        return [_goal(_D8, 0), _goal(_D8_SCENARIOS, 0)]
    return [_goal(_D8, sum(row["booted"] for row in found["rows"])), _goal(_D8_SCENARIOS, len(found["rows"]))]


def _random(found: dict[str, Any] | str) -> Goal:
    if isinstance(found, str):
        return _unmeasured(_D9, found)
    return _goal(_D9, 0 if found["findings"] else sum(row["recovered"] for row in found["rows"]))


def _rows(part: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What each scenario went through, with how long the part took as a whole."""
    told = {
        "power": lambda row: f"{row['booted']} of {row['distinct']} disks, from {row['events']} events",
        "errors": lambda row: f"{row['failure']}: {row['runs']} runs",
        "kills": lambda row: f"killed in {row['killed']} of {row['runs']} runs",
        "random": lambda row: f"{row['recovered']} of {row['runs']} runs; {sum(row['ends'].values())} polls under faults",
    }[part]
    rows = [{"part": part, "what": row.get("scenario", "all"), "value": told(row)} for row in found["rows"]]
    if part == "power":
        booted, distinct = (sum(row[each] for row in found["rows"]) for each in ("booted", "distinct"))
        taken = "all" if found["every"] == 1 else f"sampled, every {found['every']}th:"
        rows.append({"part": part, "what": "points", "value": f"{taken} {booted} of {distinct}"})
    elif part == "errors" and found["every"] != 1:
        rows.append({"part": part, "what": "points", "value": f"sampled, every {found['every']}th"})
    return [*rows, {"part": part, "what": "findings", "value": f"{len(found['findings'])} in {found['seconds']:.0f} s"}]


def _kept(part: str) -> dict[str, Any] | str:
    """A part's result, or why it does not count."""
    try:
        found: dict[str, Any] = json.loads((RESULTS / "faults" / f"{part}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "not run; run `make faults`"
    if found["sources"] != sources_digest():
        return "the sources have changed since; run `make faults`"
    return found


def _goal(goal: tuple[str, str, str, float, str], value: float) -> Goal:
    return Goal(goal[0], goal[1], float(value), *goal[2:])


def _unmeasured(goal: tuple[str, str, str, float, str], reason: str) -> Goal:
    return Goal(goal[0], goal[1], None, *goal[2:], reason=reason)


if __name__ == "__main__":
    main()
