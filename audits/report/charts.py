"""Smaller drawings: a null distribution, planted leaks by strength, accuracy against leakage, a record as lines or as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audits.report.svg import (
    COLOURS,
    Scale,
    axis_below,
    axis_left,
    circle,
    drawing,
    line,
    padded,
    polygon,
    polyline,
    rectangle,
    shortened,
    words,
)

_WIDTH = 480.0


@dataclass(frozen=True)
class Planted:
    """A planted leak and whether it was caught."""

    strength: float
    caught: bool


@dataclass(frozen=True)
class Point:
    """One model in a scatter plot; ``interval`` is of ``y``."""

    label: str
    x: float
    y: float
    interval: tuple[float, float] | None
    is_original: bool


def null_histogram(counts: Sequence[int], *, low: float, high: float, observed: float, threshold: float | None) -> str:
    """The null distribution of one statistic, what was observed, and the threshold."""
    first, last = padded([low, high, observed, *([] if threshold is None else [threshold])])
    x = Scale(first, last, 8.0, _WIDTH - 8.0)
    step, tallest = (high - low) / max(1, len(counts)), max([*counts, 1])
    parts = []
    for index, count in enumerate(counts):
        left, right = x(low + index * step), x(low + (index + 1) * step)
        size = count / tallest * 100
        parts.append(rectangle(left, 142 - size, max(1.0, right - left - 0.6), size, "bar"))
    if threshold is not None:
        parts += [
            line(x(threshold), 24, x(threshold), 142, "bound"),
            _beside(x(threshold), 14, "threshold", first=threshold < observed),
        ]
    left_of = threshold is None or observed <= threshold
    parts += [line(x(observed), 34, x(observed), 142, "observed"), _beside(x(observed), 32, "observed", first=left_of)]
    limit = "" if threshold is None else f", threshold {threshold:.4f}"
    return drawing(_WIDTH, 166, f"null distribution: observed {observed:.4f}{limit}", [*parts, *axis_below(x, 142)])


def planted_strip(planted: Sequence[Planted], *, required: float | None, unit: str) -> str:
    """Planted leaks from weak to strong: filled dots were caught, crosses were missed; right of the line all must be caught.

    Leaks of one strength, such as one in several compressed models, stand above each other.
    """
    low, high = padded([0.0, *(item.strength for item in planted), *([] if required is None else [required])])
    x = Scale(low, high, 14.0, _WIDTH - 14.0)
    stacked = [sum(other.strength == item.strength for other in planted[:index]) for index, item in enumerate(planted)]
    floor = 34.0 + 14.0 * max(stacked, default=0)
    parts = []
    if required is not None:
        parts += [
            line(x(required), 18, x(required), floor + 14, "required"),
            _beside(x(required), 12, "must be caught", first=False),
        ]
    for item, place in zip(planted, stacked, strict=True):
        at, height = x(item.strength), floor - 14.0 * place
        parts.append(circle(at, height, 5.5, "caught") if item.caught else _cross(at, height))
    seen = ", ".join(f"{item.strength:g} {'caught' if item.caught else 'missed'}" for item in planted)
    axis = axis_below(x, floor + 16, title=shortened(unit, 80))
    return drawing(_WIDTH, floor + 54, f"planted leaks by strength: {seen}", [*parts, *axis])


def scatter(points: Sequence[Point], *, across: str, up: str) -> str:
    """Models by two figures; labels are moved apart, a hollow diamond is the original."""
    x = Scale(*padded([point.x for point in points], share=0.15), 56.0, 330.0)
    heights = [value for point in points for value in (point.y, *(point.interval or ()))]
    y = Scale(*padded([*heights, 0.0]), 214.0, 30.0)
    parts = []
    ordered = sorted(points, key=lambda point: (-point.y, point.x, point.label))
    for point, label_y in zip(ordered, _apart([y(point.y) for point in ordered], gap=14.0, last=214.0), strict=True):
        at, height = x(point.x), y(point.y)
        if point.interval is not None:
            parts.append(line(at, y(point.interval[0]), at, y(point.interval[1]), "spread"))
        diamond = [(at - 5.5, height), (at, height - 5.5), (at + 5.5, height), (at, height + 5.5)]
        parts.append(polygon(diamond, "hollow") if point.is_original else circle(at, height, 4.5, "dot"))
        parts.append(line(at + 6, height, 340, label_y, "leader"))
        parts.append(words(343, label_y + 4, shortened(point.label, 20), kind="name"))
    seen = "; ".join(f"{point.label}: {across} {point.x:.3f}, {up} {point.y:.4f}" for point in points)
    return drawing(_WIDTH, 254, seen, [*parts, *axis_below(x, 214, title=across), *axis_left(y, 56, title=up)])


def lines(channels: Sequence[Sequence[float]], *, low: float, high: float, label: str) -> str:
    """One record or reconstruction as a line for each channel."""
    y = Scale(low, high if high > low else low + 1.0, 56.0, 4.0)
    parts = []
    for index, values in enumerate(channels):
        step = 142.0 / max(1, len(values) - 1)
        parts.append(polyline([(4 + place * step, y(value)) for place, value in enumerate(values)], f"curve s{index % COLOURS}"))
    return drawing(150, 60, label, parts, kind="record")


def bars(values: Sequence[float], *, high: float, label: str) -> str:
    """One record or reconstruction as bars from the middle, for inputs whose order means nothing."""
    y = Scale(-high, high, 57.0, 3.0)
    width = 142.0 / max(1, len(values))
    parts = [
        rectangle(4 + place * width, min(y(value), 30.0), max(0.8, width * 0.84), abs(y(value) - 30.0), "value")
        for place, value in enumerate(values)
    ]
    return drawing(150, 60, label, [*parts, line(4, 30, 146, 30, "axis")], kind="record")


def _apart(heights: Sequence[float], *, gap: float, last: float) -> list[float]:
    """Growing heights with at least ``gap`` between neighbours, shifted up again where the lowest would lie below ``last``."""
    placed: list[float] = []
    for height in heights:
        placed.append(height if not placed else max(height, placed[-1] + gap))
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], last - gap * (len(placed) - 1 - index))
    return placed


def _cross(x: float, y: float) -> str:
    return line(x - 5, y - 5, x + 5, y + 5, "missed") + line(x - 5, y + 5, x + 5, y - 5, "missed")


def _beside(x: float, y: float, text: str, *, first: bool) -> str:
    ends = (first and x > 70) or x > _WIDTH - 60
    return words(x + (-5 if ends else 5), y, text, side="end" if ends else "start")
