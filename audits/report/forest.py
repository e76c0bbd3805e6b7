"""Estimates with intervals, one line each, around a line of no effect; groups have axes of their own, since their units differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audits.report.svg import Scale, axis_below, circle, drawing, line, padded, polygon, shortened, words

_WIDTH, _LEFT, _RIGHT = 680.0, 216.0, 490.0
_ROW = 24.0


@dataclass(frozen=True)
class ForestRow:
    """One line of the plot.

    Attributes:
        bound: what the policy or the null distribution allows; None where there is no such number.
        comparison: drawn hollow: it is compared with, and not judged.
    """

    label: str
    estimate: float
    interval: tuple[float, float] | None = None
    bound: float | None = None
    comparison: bool = False


def forest(title: str, rows: Sequence[ForestRow], *, zero: float = 0.0, signed: bool = True) -> str:
    """One group.

    Args:
        title: of the axis: what is measured, and its unit.
        rows: at least one.
        zero: where nothing leaks, or nothing changed.
        signed: write the numbers with their sign, as differences are.
    """
    values = [value for row in rows for value in (row.estimate, *(row.interval or ()), *([] if row.bound is None else [row.bound]))]
    low, high = padded([*values, zero])
    x = Scale(low, high, _LEFT, _RIGHT)
    bottom = 12 + _ROW * len(rows)
    parts = [line(x(zero), 4, x(zero), bottom, "zero")]
    for index, row in enumerate(rows):
        y = 18 + _ROW * index
        parts.append(words(0, y + 4, shortened(row.label, 34), kind="name"))
        if row.bound is not None:
            parts.append(line(x(row.bound), y - 9, x(row.bound), y + 9, "bound"))
        if row.interval is not None:
            parts.append(line(x(row.interval[0]), y, x(row.interval[1]), y, "spread"))
        parts.append(_mark(x(row.estimate), y, comparison=row.comparison))
        parts.append(words(_WIDTH, y + 4, _told(row, signed=signed), side="end"))
    seen = "; ".join(f"{row.label} {_told(row, signed=signed)}" for row in rows)
    return drawing(_WIDTH, bottom + 40, f"{title}: {seen}", [*parts, *axis_below(x, bottom, title=title)], kind="plot forest")


def _mark(x: float, y: float, *, comparison: bool) -> str:
    if comparison:
        return polygon([(x - 5.5, y), (x, y - 5.5), (x + 5.5, y), (x, y + 5.5)], "hollow")
    return circle(x, y, 4.5, "dot")


def _told(row: ForestRow, *, signed: bool) -> str:
    form = "+.4f" if signed else ".4f"
    estimate, *ends = (f"{round(value, 4) + 0.0:{form}}" for value in (row.estimate, *(row.interval or ())))  # no minus zero
    return (estimate + (f" [{', '.join(ends)}]" if ends else "")).replace("-", "\N{MINUS SIGN}")
