"""The report's drawings as inline SVG: gaps with intervals, a null distribution, a short series. Pure text, no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 480
_ACCENT, _BAD, _GREY, _BAR = "#1f5fa8", "#b3261e", "#8a96a3", "#c5d3e2"


@dataclass(frozen=True)
class GapRow:
    """One line of the forest plot: estimate, interval, threshold, all in correlation."""

    label: str
    estimate: float
    interval: tuple[float, float]
    threshold: float | None


def forest(rows: Sequence[GapRow]) -> str:
    """Estimates with intervals around zero; a red tick is the threshold that the null gave."""
    values = [value for row in rows for value in (*row.interval, row.estimate, row.threshold or 0.0)] + [0.0]
    low, high = _padded(min(values), max(values))
    left, right = 130.0, _WIDTH - 12.0

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    height = 26 * len(rows) + 38
    parts = [f'<line x1="{x(0):.1f}" y1="4" x2="{x(0):.1f}" y2="{height - 26}" stroke="{_GREY}" stroke-dasharray="3 3"/>']
    for index, row in enumerate(rows):
        y = 18 + 26 * index
        parts.append(f'<text x="0" y="{y + 4}">{escape(_short(row.label, 20))}</text>')
        parts.append(_line(x(row.interval[0]), y, x(row.interval[1]), y, _ACCENT, 2))
        parts.append(f'<circle cx="{x(row.estimate):.1f}" cy="{y}" r="4.5" fill="{_ACCENT}"/>')
        if row.threshold is not None:
            parts.append(_line(x(row.threshold), y - 8, x(row.threshold), y + 8, _BAD, 2))
    return _svg(height, parts + _axis(low, high, x, height))


def null_histogram(counts: Sequence[int], *, low: float, high: float, observed: float, threshold: float | None) -> str:
    """The null distribution of one statistic, what was observed, and the threshold."""
    first, last = _padded(min(low, observed), max(high, observed, threshold or high))
    height, left, right = 170, 8.0, _WIDTH - 8.0

    def x(value: float) -> float:
        return left + (value - first) / (last - first) * (right - left)

    step, tallest = (high - low) / max(1, len(counts)), max([*counts, 1])
    parts = []
    for index, count in enumerate(counts):
        size = count / tallest * 112
        parts.append(
            f'<rect x="{x(low + index * step):.1f}" y="{136 - size:.1f}" width="{max(1.0, x(step) - x(0) - 0.6):.1f}" '
            f'height="{size:.1f}" fill="{_BAR}"/>'
        )
    if threshold is not None:
        parts += [
            _line(x(threshold), 16, x(threshold), 136, _BAD, 2),
            _label(x(threshold), 14, "threshold", left=threshold < observed),
        ]
    left_of = threshold is None or observed <= threshold
    parts += [_line(x(observed), 26, x(observed), 136, _ACCENT, 2), _label(x(observed), 34, "observed", left=left_of)]
    return _svg(height, parts + _axis(first, last, x, height))


def series(values: Sequence[float], *, low: float, high: float) -> str:
    """A small line plot of one record or reconstruction."""
    width, height = 150, 60
    span = (high - low) or 1.0
    points = " ".join(
        f"{4 + index * (width - 8) / max(1, len(values) - 1):.1f},{4 + (1 - (value - low) / span) * (height - 8):.1f}"
        for index, value in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img"><polyline points="{points}" fill="none" stroke="{_ACCENT}" '
        'stroke-width="1.5"/></svg>'
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.06 or 0.01
    return low - margin, high + margin


def _axis(low: float, high: float, x: object, height: int) -> list[str]:
    if not callable(x):
        raise TypeError("x must map a value to a position")
    ticks = [low + (high - low) * share for share in (0.08, 0.36, 0.64, 0.92)]
    return [f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:.3g}</text>' for value in ticks]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _label(x: float, y: int, text: str, *, left: bool) -> str:
    anchor = "end" if (left and x > 70) or x > _WIDTH - 60 else "start"
    return f'<text x="{x + (-5 if anchor == "end" else 5):.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
