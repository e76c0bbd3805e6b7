"""What every benchmark writes: the machine, every goal with its value, and rows; and the table that people read.

A goal that was not measured is there with ``met`` null and the reason; none is ever left out.
"""

from __future__ import annotations

import json
import operator
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Goal:
    """One goal; ``value`` is None where it was not measured, and ``reason`` says why."""

    id: str
    what: str
    value: float | None
    op: str
    goal: float
    unit: str
    reason: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value meets the goal; None where it was not measured."""
        return None if self.value is None else _OPERATORS[self.op](self.value, self.goal)


@dataclass
class Results:
    """What one benchmark found."""

    name: str
    goals: list[Goal] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> Path:
        """Writes ``results/<name>.json``."""
        document = {"machine": machine(), "goals": [{**asdict(goal), "met": goal.met} for goal in self.goals], "rows": self.rows}
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return path

    def table(self) -> str:
        """Goals, then rows, as text."""
        words = {True: "met", False: "MISSED", None: "not measured"}
        goals = [
            (goal.what, _number(goal.value), f"{goal.op} {goal.goal:g} {goal.unit}".strip(), words[goal.met]) for goal in self.goals
        ]
        lines = _columns(("goal", "value", "wanted", ""), goals)
        for head, rows in groupby(self.rows, key=tuple):  # rows with the same columns that follow each other are one table
            lines += ["", *_columns(head, [tuple(_number(value) for value in row.values()) for row in rows])]
        return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The machine that the numbers belong to."""
    return {
        "system": platform.platform(),
        "arch": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
