"""What a mutation run found, as figures: pure functions on its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.mutation.survivors import GOAL_PERCENT, Change

# A timeout is a mutant that hung where the code does not: noticed, and counted apart.
NOTICED = frozenset({"killed", "timeout"})
COLUMNS = ("module", "mutants", "killed", "timeout", "survived", "percent")

Mutant = dict[str, Any]


def summary(outcome: Sequence[Mutant], *, reasons: Mapping[Change, str]) -> dict[str, Any]:
    """Figures for each module, and every mutant that no test noticed. An accepted survivor counts like any other."""
    controls = [mutant for mutant in outcome if is_control(mutant)]
    mutants = [mutant for mutant in outcome if not is_control(mutant)]
    survivors = [{**mutant, "reason": reasons.get(_change(mutant))} for mutant in mutants if mutant["status"] not in NOTICED]
    failed = [control["name"] for control in controls if control["status"] not in {"survived", "no tests"}]
    files = sorted({mutant["file"] for mutant in mutants})
    total = _figures("all", mutants)
    return {
        "goal_percent": GOAL_PERCENT,
        "met": bool(mutants) and total["percent"] >= GOAL_PERCENT and not failed,
        "controls": len(controls),
        "failed_controls": failed,
        "total": total,
        "modules": [_figures(file, [mutant for mutant in mutants if mutant["file"] == file]) for file in files],
        "unexplained": [mutant["name"] for mutant in survivors if mutant["reason"] is None],
        "timeouts": [mutant for mutant in mutants if mutant["status"] == "timeout"],
        "survivors": survivors,
    }


def is_control(mutant: Mutant) -> bool:
    """A mutant that changes nothing: where the tests noticed one, they notice something else than mutants."""
    return (mutant["was"], mutant["now"]) == ("", "pass")


def table(results: Mapping[str, Any]) -> str:
    """The figures as text, controls that failed, and the survivors that nobody has explained."""
    rows = [COLUMNS, *(tuple(str(row[key]) for key in COLUMNS) for row in [*results["modules"], results["total"]])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"a control, which changes nothing, was noticed: {name}" for name in results["failed_controls"]]
    for mutant in results["survivors"]:
        if mutant["reason"] is None:
            lines += ["", f"{mutant['status']}: {mutant['file']}:{mutant['line']} {mutant['function']}"]
            lines += [f"  {sign} {line}" for sign, side in (("-", "was"), ("+", "now")) for line in mutant[side].splitlines()]
    return "\n".join(lines)


def _figures(module: str, mutants: Sequence[Mutant]) -> dict[str, Any]:
    found = Counter(mutant["status"] for mutant in mutants)
    noticed = sum(found[status] for status in NOTICED)
    return {
        "module": module,
        "mutants": len(mutants),
        "killed": found["killed"],
        "timeout": found["timeout"],
        "survived": len(mutants) - noticed,
        "percent": round(100 * noticed / len(mutants), 2) if mutants else 0.0,
    }


def _change(mutant: Mutant) -> Change:
    return mutant["file"], mutant["function"], mutant["was"], mutant["now"]
