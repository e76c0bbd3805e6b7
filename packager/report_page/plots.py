"""The page's drawings as inline SVG: accuracy lost over size with the Pareto front, latency intervals, bars. Text in, text out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from packager.report_page.parts import css_class, size

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 450.0, 18.0, 258.0
MAX_POINTS = 500


@dataclass(frozen=True)
class PlotPoint:
    """One model: bytes as stored, drop of the metric, its verdict and whether it is on the front."""

    stored_bytes: int
    drop: float
    verdict: str
    on_front: bool
    title: str
    is_original: bool = False


def size_plot(points: Sequence[PlotPoint], *, metric: str) -> str:
    """Drop over stored size, small drops on top, sizes on a logarithmic axis; a dashed line joins the front."""
    shown = [point for point in points if point.stored_bytes > 0 and math.isfinite(point.drop)][:MAX_POINTS]
    if not shown:
        return ""
    low, high = _padded([math.log10(point.stored_bytes) for point in shown])
    top, bottom = _padded([point.drop for point in shown])

    def x(stored_bytes: float) -> float:
        return _LEFT + (math.log10(stored_bytes) - low) / (high - low) * (_RIGHT - _LEFT)

    def y(drop: float) -> float:
        return _TOP + (drop - top) / (bottom - top) * (_BOTTOM - _TOP)

    parts = [*_frame(), *_size_ticks(low, high, x), *_value_ticks(top, bottom, y)]
    front = sorted((point for point in shown if point.on_front), key=lambda point: (point.stored_bytes, point.drop))
    if len(front) > 1:
        line = " ".join(f"{x(point.stored_bytes):.1f},{y(point.drop):.1f}" for point in front)
        parts.append(f'<polyline class="front" points="{line}"/>')
    for point in sorted(shown, key=lambda item: (item.is_original, item.on_front)):
        kind = "original" if point.is_original else f"{css_class(point.verdict)} {'on' if point.on_front else 'off'}"
        radius = 6 if point.is_original or point.on_front else 4
        parts.append(
            f'<circle class="{kind}" cx="{x(point.stored_bytes):.1f}" cy="{y(point.drop):.1f}" r="{radius}">'
            f"<title>{escape(point.title)}</title></circle>"
        )
    parts.append(_text(_RIGHT, _HEIGHT - 6, "size as stored", anchor="end"))
    parts.append(_text(2, 9, f"drop of {metric}"))
    return _svg(_HEIGHT, parts, label=f"drop of {metric} over size as stored")


@dataclass(frozen=True)
class SpreadRow:
    """One line of an interval plot."""

    name: str
    value: float
    low: float
    high: float
    title: str


def ratio_plot(rows: Sequence[SpreadRow]) -> str:
    """Ratios to the original with their intervals; the dashed line is 1."""
    if not rows:
        return ""
    high = max(1.1, *(row.high for row in rows)) * 1.05
    left = 150.0

    def x(value: float) -> float:
        return left + value / high * (_RIGHT - left)

    height = 30 * len(rows) + 34
    parts = [f'<line class="front" x1="{x(1):.1f}" y1="4" x2="{x(1):.1f}" y2="{height - 24}"/>']
    for index, row in enumerate(rows):
        centre = 18 + 30 * index
        parts.append(_text(0, centre + 4, _short(row.name, 24), css="name"))
        parts.append(f'<line class="spread" x1="{x(row.low):.1f}" y1="{centre}" x2="{x(row.high):.1f}" y2="{centre}"/>')
        parts.append(
            f'<circle class="{"met" if row.low <= 1.02 else "missed"}" cx="{x(row.value):.1f}" cy="{centre}" r="5">'
            f"<title>{escape(row.title)}</title></circle>"
        )
    parts += [_text(x(value), height - 6, f"{value:g}", anchor="middle") for value in _steps(0.0, high, 4)]
    return _svg(height, parts, label="latency as a ratio to the original")


@dataclass(frozen=True)
class BarRow:
    """One bar; ``value`` is its length, ``shown`` what stands at its end."""

    name: str
    value: float
    shown: str
    title: str


def bars(rows: Sequence[BarRow], *, label: str) -> str:
    """Horizontal bars, in the given order; the longest quarter is coloured."""
    if not rows:
        return ""
    longest = max((row.value for row in rows), default=0.0)
    left, right = 170.0, _RIGHT - 60
    parts = []
    for index, row in enumerate(rows):
        top = 4 + 20 * index
        share = max(0.0, row.value) / longest if longest > 0 else 0.0
        kind = "bar" if share > 0.25 else "bar low"
        parts.append(_text(0, top + 11, _short(row.name, 28), css="name"))
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{top}" width="{max(1.0, share * (right - left)):.1f}" height="14" rx="2">'
            f"<title>{escape(row.title)}</title></rect>"
        )
        parts.append(_text(left + share * (right - left) + 6, top + 11, row.shown))
    return _svg(20 * len(rows) + 8, parts, label=label)


def _frame() -> list[str]:
    return [
        f'<line class="axis" x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{_BOTTOM}"/>',
    ]


def _size_ticks(low: float, high: float, x: Callable[[float], float]) -> list[str]:
    """At 1, 2, 3 and 5 times powers of ten, or evenly where fewer than two of those lie inside."""
    round_values = [factor * 10**power for power in range(int(low), int(high) + 1) for factor in (1, 2, 3, 5)]
    values = [value for value in round_values if low <= math.log10(value) <= high]
    if not 2 <= len(values) <= 6:
        values = [10**value for value in _steps(low, high, 4)]
    return [_text(x(value), _BOTTOM + 16, size(value), anchor="middle") for value in values]


def _value_ticks(low: float, high: float, y: Callable[[float], float]) -> list[str]:
    digits = max(0, min(5, 1 - math.floor(math.log10(high - low))))
    return [_text(_LEFT - 6, y(value) + 4, f"{value:.{digits}f}", anchor="end") for value in _steps(low, high, 5)]


def _steps(low: float, high: float, count: int) -> list[float]:
    """Round values between ``low`` and ``high``, about ``count`` of them."""
    rough = (high - low) / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step) + 1)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or max(abs(high) * 0.02, 0.01)
    return low - margin, high + margin


def _text(x: float, y: float, content: str, *, anchor: str = "start", css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _svg(height: int, parts: Sequence[str], *, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[1 - length :]
