"""The ROC of membership attacks on logarithmic axes: what matters is the left edge, where an accusation is rarely false.

Where there are too few non-members to say anything about a false positive rate, the plot is grey.
"""

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
    plain,
    polygon,
    polyline,
    rectangle,
    words,
)

_WIDTH, _HEIGHT = 340.0, 318.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 330.0, 26.0, 274.0


@dataclass(frozen=True)
class Mark:
    """A TPR at one FPR with its interval."""

    fpr: float
    tpr: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One attack on one model; all lists have one length, rates in [0, 1].

    Attributes:
        colour: number of the series; the same attack has the same in every panel.
        low, high: band of the TPR; empty where there is none.
        marks: TPRs that the number of records supports.
    """

    name: str
    colour: int
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    marks: tuple[Mark, ...] = ()


def roc(title: str, curves: Sequence[Curve], *, floor: float, limit: float, reference: Curve | None = None) -> str:
    """One panel.

    Args:
        title: whose curves these are.
        curves: the attacks.
        floor: the smallest rate on both axes, below 1.
        limit: false positive rates below it are not supported by the number of non-members, and grey.
        reference: drawn dotted behind the curves: the strongest attack on the original.
    """
    x, y = Scale(floor, 1.0, _LEFT, _RIGHT, log=True), Scale(floor, 1.0, _BOTTOM, _TOP, log=True)
    parts = []
    for value in x.ticks():
        parts += [line(x(value), _TOP, x(value), _BOTTOM, "mesh"), line(_LEFT, y(value), _RIGHT, y(value), "mesh")]
    if limit > floor:
        parts.append(rectangle(_LEFT, _TOP, x(limit) - _LEFT, _BOTTOM - _TOP, "unsupported"))
    parts.append(line(x(floor), y(floor), x(1.0), y(1.0), "zero"))
    parts += [_band(curve, x, y) for curve in curves]
    if reference is not None:
        parts.append(_line(reference, x, y, "reference"))
    parts += [_line(curve, x, y, f"curve s{curve.colour % COLOURS}") for curve in curves]
    parts += [_mark(mark, curve.colour, x, y) for curve in curves for mark in curve.marks]
    parts += [*axis_below(x, _BOTTOM, title="false positive rate"), *axis_left(y, _LEFT)]
    parts += [words(_LEFT, 14, title, kind="name"), words(_RIGHT, 14, "true positive rate ↑", side="end")]
    return drawing(_WIDTH, _HEIGHT, _described(title, curves, limit), parts, kind="plot roc")


def _described(title: str, curves: Sequence[Curve], limit: float) -> str:
    told = [
        f"{curve.name}: " + (", ".join(f"TPR {mark.tpr:.3f} at FPR {mark.fpr:g}" for mark in curve.marks) or "no supported rate")
        for curve in curves
    ]
    return f"ROC of {title}. {'; '.join(told)}. False positive rates below {plain(limit)} are not supported."


def _band(curve: Curve, x: Scale, y: Scale) -> str:
    if not curve.low:
        return ""
    upper = [(x(fpr), y(value)) for fpr, value in zip(curve.fpr, curve.high, strict=True) if fpr >= x.low]
    lower = [(x(fpr), y(value)) for fpr, value in zip(curve.fpr, curve.low, strict=True) if fpr >= x.low]
    return polygon([*upper, *reversed(lower)], f"band s{curve.colour % COLOURS}") if upper else ""


def _line(curve: Curve, x: Scale, y: Scale, kind: str) -> str:
    shown = [(x(fpr), y(tpr)) for fpr, tpr in zip(curve.fpr, curve.tpr, strict=True) if fpr >= x.low]
    return polyline(shown, kind) if shown else ""


def _mark(mark: Mark, colour: int, x: Scale, y: Scale) -> str:
    at, kind = x(mark.fpr), f"s{colour % COLOURS}"
    return line(at, y(mark.interval[0]), at, y(mark.interval[1]), f"whisker {kind}") + circle(at, y(mark.tpr), 3.2, f"mark {kind}")
