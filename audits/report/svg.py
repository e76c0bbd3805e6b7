"""SVG as text: shapes, axes, scales. Colours are classes of the style sheet, so drawings follow dark, light and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from audits.report.parts import say

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
COLOURS = 7  # of the style sheet: .s0 to .s6, each with its own dash pattern


@dataclass(frozen=True)
class Scale:
    """Maps values to positions, linear or by their logarithm; values outside are moved to the nearer end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of ``value``."""
        inside = min(max(value, self.low), self.high)
        share = (
            math.log(inside / self.low) / math.log(self.high / self.low)
            if self.log
            else (inside - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside: powers of ten, or three to six multiples of 1, 2 or 5 times one."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        raw = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
        return [round(index * step, 12) + 0.0 for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def padded(values: Sequence[float], *, share: float = 0.06) -> tuple[float, float]:
    """Lowest and highest value with some room on both sides, never an empty range."""
    low, high = min(values), max(values)
    margin = (high - low) * share or max(abs(low) * share, 0.01)
    return low - margin, high + margin


def drawing(width: float, height: float, label: str, parts: Sequence[str], *, kind: str = "plot") -> str:
    """The whole picture; ``label`` says in words what is seen."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{say(label)}">'
        f"<title>{say(label)}</title>{''.join(parts)}</svg>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of the class ``kind``."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled rectangle; a negative size is none."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}" class="{kind}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    """A dot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>'


def polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """An open line through points."""
    return f'<polyline points="{_joined(points)}" class="{kind}"/>'


def polygon(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A filled area."""
    return f'<polygon points="{_joined(points)}" class="{kind}"/>'


def words(x: float, y: float, text: str, *, side: str = "start", kind: str = "") -> str:
    """A text; ``side`` is start, middle or end: which part of it lies at ``x``."""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{side}"{name}>{say(text)}</text>'


def axis_below(scale: Scale, y: float, *, title: str = "") -> list[str]:
    """A horizontal axis at height ``y`` with its numbers; ``title`` stands under them."""
    parts = [line(scale.start, y, scale.end, y, "axis")]
    for value in scale.ticks():
        parts += [line(scale(value), y, scale(value), y + 4, "axis"), words(scale(value), y + 16, plain(value), side="middle")]
    return [*parts, words((scale.start + scale.end) / 2, y + 32, title, side="middle")] if title else parts


def axis_left(scale: Scale, x: float, *, title: str = "") -> list[str]:
    """A vertical axis at ``x``; ``title`` stands above it."""
    parts = [line(x, scale.start, x, scale.end, "axis")]
    for value in scale.ticks():
        parts += [line(x - 4, scale(value), x, scale(value), "axis"), words(x - 7, scale(value) + 4, plain(value), side="end")]
    return [*parts, words(4, min(scale.start, scale.end) - 8, title)] if title else parts


def plain(value: float) -> str:
    """A number of an axis: short, small powers of ten as such, a true minus."""
    power = math.log10(value) if value > 0 else 0.0
    if power < -3 and abs(power - round(power)) < 1e-9:
        return "10" + str(round(power)).translate(_SUPERSCRIPT)
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def shortened(text: str, length: int) -> str:
    """``text`` cut to ``length`` characters; for drawings only, tables show all."""
    return text if len(text) <= length else text[: length - 1] + "…"


def swatch(index: int, name: str) -> str:
    """An entry of a legend as HTML: a piece of line in the colour and dashes of series ``index``."""
    piece = f'<svg class="key" viewBox="0 0 26 8" aria-hidden="true">{line(0, 4, 26, 4, f"curve s{index % COLOURS}")}</svg>'
    return f"<span>{piece}{say(name)}</span>"


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
