"""One self-contained HTML page of a search: the plot of accuracy against leak, and the table behind it.

No script, nothing loaded from outside, no picture of a record. Texts from outside are escaped. The page decides nothing.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from audits.mitigate.outcome import Outcome, frontier
from audits.mitigate.search import Ending, Standing, State

_STYLE = Path(__file__).parents[1] / "report" / "page.css"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 420, 64, 44
_COLOURS = {State.CONFIRMED: "#1a7f4b", State.BASELINE: "#16202c", State.UNFINISHED: "#a15c00"}
_OTHER = "#b3261e"
_BANNER = {Ending.PASSED: "PASSED", Ending.NONE_PASSES: "FAILED", Ending.NOT_NEEDED: "PASSED", Ending.UNFINISHED: "INCONCLUSIVE"}
_LIMITS = (
    "Only the confirmation decides: the search chose by looking at results, so its figures are biased in favour of what it chose.",
    "The interval of the loss is over held-out records. It does not cover how much one training differs from the next.",
    "A fix that passes here made a new model. Pack it, and audit the bundle: compression, and every version that devices hold "
    "already, are not part of this search.",
    "If the leaking original is in the field, no new model takes back what it gives away.",
)


def render_page(outcome: Outcome) -> str:
    """The page as text."""
    unavailable = "".join(f"<li>{escape(kind)}: {escape(reason)}</li>" for kind, reason in outcome.unavailable.items())
    limits = "".join(f"<li>{escape(text)}</li>" for text in _LIMITS)
    body = (
        '<div class="top"><h1>Mitigation</h1>'
        f'<div class="sub">accuracy budget {outcome.settings.accuracy_budget:.1%}</div></div>'
        f'<div class="banner {_BANNER[outcome.result.ending]}">{escape(outcome.headline())}</div>'
        f"<section><h2>Accuracy against leak</h2>{_plot(outcome)}</section>"
        f"<section><h2>Fixes</h2>{_table(outcome)}</section>"
        f'<section><h2>Not tried</h2><ul class="limits">{unavailable or "<li>nothing</li>"}</ul></section>'
        f'<section><h2>What this does not say</h2><ul class="limits">{limits}</ul></section>'
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Mitigation</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>{body}</main></body></html>\n"
    )


def _plot(outcome: Outcome) -> str:
    """Loss to the right, leak upwards: the lower left corner is where one wants to be; the line joins the frontier."""
    points = [(item.loss.estimate, item.leak, item) for item in outcome.result.standings if item.loss and item.leak is not None]
    if not points:
        return '<div class="note">No leak could be measured.</div>'
    budget = outcome.settings.accuracy_budget
    across = _Scale([point[0] for point in points] + [0.0, budget], _LEFT, _WIDTH - 16)
    up = _Scale([point[1] for point in points] + [0.0], _HEIGHT - _BOTTOM, 16)
    parts = [
        f'<rect x="{_LEFT}" y="16" width="{across(budget) - _LEFT:.1f}" height="{_HEIGHT - _BOTTOM - 16}" fill="#eef6f1"/>',
        *(_tick(across(value), _HEIGHT - _BOTTOM + 16, f"{value:+.3f}", "middle") for value in across.ticks()),
        *(_tick(_LEFT - 6, up(value) + 4, f"{value:.3g}", "end") for value in up.ticks()),
        _tick((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "loss of accuracy on held-outs (shaded: within the budget)", "middle"),
        _tick(_LEFT, 12, f"leak: {points[0][2].trials[0].judged.unit}", "start"),
    ]
    edge = [
        (across(item.loss.estimate), up(item.leak))
        for item in frontier(outcome.result.standings)
        if item.loss and item.leak is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-dasharray="4 3"/>')
    for loss, leak, item in points:
        x, y = across(loss), up(leak)
        if item.loss:
            low, high = (across(value) for value in item.loss.interval)
            parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#c5d3e2"/>')
        fill = _COLOURS.get(item.state, _OTHER)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}"/>')
        parts.append(_tick(x + 8, y - 6, item.fix.label, "start"))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


class _Scale:
    """Maps values to positions, with a margin."""

    def __init__(self, values: list[float], first: float, last: float) -> None:
        margin = (max(values) - min(values)) * 0.06 or 0.01
        self._low, self._high = min(values) - margin, max(values) + margin
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        inside = min(max(value, self._low), self._high)
        return self._first + (inside - self._low) / (self._high - self._low) * (self._last - self._first)

    def ticks(self) -> list[float]:
        return [self._low + (self._high - self._low) * share for share in (0.1, 0.35, 0.6, 0.85)]


def _tick(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _table(outcome: Outcome) -> str:
    head = "".join(f"<th>{text}</th>" for text in ("Fix", "What it does", "Loss, interval", "Leak", "Passed", "State"))
    rows = "".join(_row(item) for item in outcome.result.standings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(item: Standing) -> str:
    loss = "" if item.loss is None else f"{item.loss.estimate:+.3f} [{item.loss.interval[0]:+.3f}, {item.loss.interval[1]:+.3f}]"
    leak = "" if item.leak is None else f"{item.leak:.4f}"
    state = item.state.value + (f": {item.why}" if item.why else "")
    cells = (
        f"<strong>{escape(item.fix.label)}</strong>",
        escape(item.fix.told),
        loss,
        leak,
        f"{item.passed} of {len(item.trials)}",
        escape(state),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
