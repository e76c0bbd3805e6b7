"""The device issue's figures, D1 to D11, all in one run: an agent's requests and memory, download, load, call, faults survived.

    make bench-device

Faults take long: `make faults` leaves its results beside this one's, and they count here only if the sources are still those that
they ran on; else the goal stays unmeasured and says so. The figures of time and memory come first, and the tests behind the
acceptance rows last, so that nothing else runs beside what is timed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import device_agent, device_download, device_faults, device_inference
from benchmarks.acceptance import answer, rows_of
from benchmarks.results_file import Goal, Results

IDS = tuple(f"D{number}" for number in range(1, 12))
_RANGES = "A18-A20 B10-B11 D01 T02-T04 F01-F09 R10 R12-R14"  # rows of the acceptance list that the device owns
_POWER_CUTS = "power cuts"  # a row of the threat model without a number
Found = tuple[list[Goal], list[dict[str, Any]]]


def main() -> None:
    """Runs everything, prints each part's table, writes ``results/device.json``."""
    goals: dict[str, Goal] = {}
    rows: list[dict[str, Any]] = []
    for part in (agent, download, inference, faults, acceptance):
        made, told = part()
        goals |= {goal.id: goal for goal in made}
        rows += told
        print(Results("device", made, told).table(), end="\n\n", flush=True)
    results = Results("device", [goals[name] for name in sorted(goals, key=_order)], rows)
    print(results.write())
    missing = set(IDS) - set(goals)
    if missing:
        raise RuntimeError(f"no goal says anything about {', '.join(sorted(missing, key=_order))}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


def agent() -> Found:
    """D2, D6, D7."""
    return _part("agent", device_agent.rows, device_agent.goals)


def download() -> Found:
    """D3, D4, D5."""
    return _part("download", device_download.rows, device_download.goals)


def inference() -> Found:
    """D10, D11; D11 is about models that other people made, which ``SEALIFT_DATA`` leads to."""
    return _part("inference", lambda: device_inference.rows(os.environ.get("SEALIFT_DATA")), device_inference.goals)


def faults() -> Found:
    """D8, D9, from `make faults`."""
    goals, rows = device_faults.measured()
    return goals, [{**row, "part": f"faults: {row['part']}"} for row in rows]


def acceptance() -> Found:
    """D1: each row names tests, and they pass; of the faults a slice, since D8 and D9 are about all of them."""
    found = answer([*rows_of(_RANGES), _POWER_CUTS], slow=False)
    what = "acceptance rows of the device with passing tests, or why they cannot occur"
    missing = ", ".join(found.missing) or "none"
    goal = Goal("D1", what, found.count, ">=", len(found.rows), "rows")
    return [goal], [{"part": "acceptance", "what": "rows not answered", "value": missing, "tests named": found.tests}]


def _part(name: str, measure: Callable[[], list[dict[str, Any]]], judge: Callable[[list[dict[str, Any]]], list[Goal]]) -> Found:
    rows = measure()
    return judge(rows), [{"part": name, **row} for row in rows]


def _order(identity: str) -> tuple[int, str]:
    """``D2`` before ``D10``; ``D2-api`` behind ``D2``."""
    number = re.match(r"D(\d+)", identity)
    return int(number[1]) if number else 0, identity


if __name__ == "__main__":
    main()
