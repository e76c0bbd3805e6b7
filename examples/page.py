"""What a case study leaves for people: a table on the terminal, and one HTML page with a plot and the same table.

The page is one file: no script, no external resource, everything escaped.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 320, 64, 40
_NAME_PX = 13
_STYLE = """
:root { color-scheme: light dark; --ink: #16202c; --muted: #5b6875; --line: #dde3e9; --back: #fff; --dot: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --muted: #9aa7b3; --line: #33404d; --back: #141a21; --dot: #6fb1ff; } }
body { margin: 0 auto; max-width: 760px; padding: 24px 16px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 21px; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; display: block; overflow-x: auto; }
th { text-align: left; color: var(--muted); } th, td { border-bottom: 1px solid var(--line); padding: 5px 12px 5px 0; }
svg { width: 100%; height: auto; } text { fill: var(--muted); font-size: 11px; } li { margin: 4px 0; }
.axis { stroke: var(--line); } .range { stroke: var(--dot); stroke-width: 2; }
.dot { fill: var(--dot); } .name { fill: var(--ink); }
"""


@dataclass(frozen=True)
class Point:
    """One network in the plot: bytes, and its metric over seeds with the lowest and highest seed."""

    name: str
    size_bytes: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Page:
    """Everything that table and page show. ``rows``: one per network, under ``head``. ``remarks``: sentences."""

    title: str
    metric: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    points: tuple[Point, ...]
    remarks: tuple[str, ...]

    def text(self) -> str:
        """For the terminal."""
        widths = [max(len(row[column]) for row in (self.head, *self.rows)) for column in range(len(self.head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (self.head, *self.rows)]
        return "\n".join([self.title, "", *(line.rstrip() for line in lines), "", *(f"- {remark}" for remark in self.remarks)])

    def write(self, path: Path) -> Path:
        """The HTML page."""
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.head)
        remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks)
        title = html.escape(self.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style></head><body>'
            f"<h1>{title}</h1>{_plot(self.points, self.metric)}<table><tr>{head}</tr>{cells}</table><ul>{remarks}</ul>"
            "</body></html>\n",
            encoding="utf-8",
        )
        return path


def _plot(points: Sequence[Point], metric: str) -> str:
    """Metric over bytes, the latter in powers of ten; a bar from the lowest seed to the highest."""
    logs = [math.log10(point.size_bytes) for point in points]
    left, right = math.floor(min(logs) * 2) / 2, math.ceil(max(logs) * 2) / 2
    low, high = min(point.low for point in points), max(point.high for point in points)
    margin = 0.08 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def across(log: float) -> float:
        return _LEFT + (log - left) / max(right - left, 0.5) * (_WIDTH - _LEFT - 150)

    def down(value: float) -> float:
        return 12 + (high - value) / (high - low) * (_HEIGHT - _BOTTOM - 12)

    parts = [
        f'<line class="axis" x1="{_LEFT}" y1="{_HEIGHT - _BOTTOM}" x2="{_WIDTH}" y2="{_HEIGHT - _BOTTOM}"/>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">bytes of the model, logarithmic; vertical: {html.escape(metric)}, bar from lowest to '
        "highest seed</text>",
    ]
    for step in range(math.ceil(left), math.floor(right) + 1):
        parts.append(f'<text x="{across(step):.1f}" y="{_HEIGHT - _BOTTOM + 16}">{10**step:,}</text>')
    for value in (low + margin, (low + high) / 2, high - margin):
        parts.append(f'<text x="4" y="{down(value) + 4:.1f}">{value:.4f}</text>')
    names = _apart([down(point.value) - 6 for point in points])
    for point, log, beside in zip(points, logs, names, strict=True):
        x = across(log)
        parts.append(
            f"<g><title>{html.escape(point.name)}: {point.size_bytes:.0f} bytes, {point.value:.4f}</title>"
            f'<line class="range" x1="{x:.1f}" y1="{down(point.low):.1f}" x2="{x:.1f}" y2="{down(point.high):.1f}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{down(point.value):.1f}" r="4"/>'
            f'<text class="name" x="{x + 8:.1f}" y="{beside:.1f}">{html.escape(point.name)}</text></g>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(metric)} over bytes">{"".join(parts)}</svg>'


def _apart(heights: Sequence[float]) -> list[float]:
    """The same heights, moved down where names would lie on each other."""
    found = list(heights)
    order = sorted(range(len(found)), key=lambda index: found[index])
    for above, below in itertools.pairwise(order):
        found[below] = max(found[below], found[above] + _NAME_PX)
    return found
