"""Membership inference: the ROC of every attack on every model, and a table of AUC and TPR where the records support it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audits.report import words
from audits.report.parts import Column, note, say, section, span, table
from audits.report.read import Interval, flag, interval, mapping, number, numbers, objects, optional, text
from audits.report.roc import Curve, Mark, roc
from audits.report.svg import swatch
from audits.report.view import PageView, SubjectView

ATTACK_TESTS = ("membership.threshold", "membership.rmia", "membership.lira", "membership.joint")
_SMALLEST_RATE = 1e-5
_MAX_POINTS = 2048


@dataclass(frozen=True)
class TprAt:
    """TPR at one FPR; None where there are too few non-members to speak of that FPR."""

    fpr: float
    tpr: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Worst:
    """A record by its salted id, and the score that the attack gave it."""

    id: str
    score: float


@dataclass(frozen=True)
class Attack:
    """One attack on one model, read from the family's detail.

    Attributes:
        decides: a test rests on it; others are shown beside.
        curve: None for attacks that have none, such as a rule without a threshold.
        repeats: AUC with the shadows of one repeat each: how much the seeds matter.
        balanced_accuracy: of a rule that has no threshold, and so no curve and no AUC.
    """

    name: str
    decides: bool
    auc: float | None
    auc_interval: Interval | None
    curve: Curve | None
    tpr_at: tuple[TprAt, ...]
    worst: tuple[Worst, ...]
    repeats: tuple[float, ...]
    balanced_accuracy: float | None


Told = tuple[SubjectView, tuple[Attack, ...]]


def attacks(view: PageView) -> list[Told]:
    """What the membership family told about each model: its attacks, then the baselines."""
    found: list[Told] = []
    colours: dict[str, int] = {}
    for subject, told in view.details(*ATTACK_TESTS):
        read = [_attack(entry, mapping(entry["roc"]), colours) for entry in objects(told.get("attacks") or ())]
        read += [_attack(entry, None, colours) for entry in objects(told.get("baselines") or ())]
        if read:
            found.append((subject, tuple(read)))
    return found


def strongest(told: tuple[Attack, ...]) -> Attack | None:
    """The deciding attack with the largest AUC."""
    candidates = (attack for attack in told if attack.decides and attack.curve is not None)
    return max(candidates, key=lambda attack: attack.auc or 0.0, default=None)


def membership(view: PageView) -> str:
    """The ROCs side by side and the table; absent where no membership test ran."""
    found = attacks(view)
    if not found:
        return ""
    everything = [attack for _, told in found for attack in told]
    limit = _limit(view, everything)
    floor = _floor(limit, everything)
    best = next((strongest(told) for subject, told in found if subject.is_original), None)
    panels = "".join(_panel(subject, told, best, floor=floor, limit=limit) for subject, told in found)
    curves = {attack.curve.colour: attack.name for attack in everything if attack.decides and attack.curve is not None}
    keys = "".join(swatch(colour, words.attack(name)) for colour, name in sorted(curves.items()))
    text = (
        "How many training records an attacker recognises (up) at a given rate of false accusations (right), both logarithmic. The "
        "dashed diagonal is guessing; bands and dots with whiskers are intervals. Grey: false positive rates for which this run "
        f"has too few non-members (below {limit:.2g})."
    )
    if best is not None:
        text += f" Dotted: the original under its strongest attack, {words.attack(best.name)}."
    drawn = f'<div class="panels">{panels}</div><div class="legend">{keys}</div>'
    return section("Membership inference", note(text), drawn, _table(found))


def _panel(subject: SubjectView, told: tuple[Attack, ...], best: Attack | None, *, floor: float, limit: float) -> str:
    curves = [attack.curve for attack in told if attack.decides and attack.curve is not None]
    behind = None if best is None or subject.is_original else best.curve
    return roc(subject.id, curves, floor=floor, limit=limit, reference=behind)


def _table(found: Sequence[Told]) -> str:
    rates = sorted({point.fpr for _, told in found for attack in told for point in attack.tpr_at})
    rows = []
    for subject, told in found:
        for attack in told:
            at = {point.fpr: point for point in attack.tpr_at}
            beside = "" if attack.decides else '<br><span class="sub">shown beside, decides nothing</span>'
            rows.append(
                [say(subject.id), say(words.attack(attack.name)) + beside, _area(attack), *(_rate(at.get(rate)) for rate in rates)]
            )
    heads = [Column("Model"), Column("Attack"), Column("AUC and interval", numeric=True)]
    heads += [Column(f"TPR at FPR {rate:.3g}", numeric=True) for rate in rates]
    return table("Membership attacks: AUC and true positive rates with intervals", heads, rows)


def _area(attack: Attack) -> str:
    if attack.auc is None:
        rule = attack.balanced_accuracy
        return "" if rule is None else f'<span class="sub">balanced accuracy</span><br>{rule:.3f}'
    spread = ""
    if len(attack.repeats) > 1:
        spread = f'<br><span class="sub">by repeat {min(attack.repeats):.3f} to {max(attack.repeats):.3f}</span>'
    return f"{attack.auc:.3f}<br>{span(attack.auc_interval, '.3f')}{spread}"


def _rate(point: TprAt | None) -> str:
    if point is None:
        return ""
    if point.tpr is None:
        return '<span class="sub">too few<br>non-members</span>'
    return f"{point.tpr:.4f}<br>{span(point.interval)}"


def _attack(entry: Mapping[str, Any], told: Mapping[str, Any] | None, colours: dict[str, int]) -> Attack:
    """An attack with its curve, or a baseline; a deciding one takes the next colour the first time that its name is seen."""
    name = text(entry["attack"])
    tpr_at = tuple(_tpr_at(item) for item in objects(entry.get("tpr_at") or ()))
    decides = told is not None and entry.get("test", name) is not None
    colour = colours.setdefault(name, len(colours)) if decides else 0
    auc = optional(number, entry.get("auc"))
    if told is not None and auc is None:
        raise ValueError("a ROC without its area")
    return Attack(
        name=name,
        decides=decides,
        auc=auc,
        auc_interval=optional(interval, entry.get("auc_interval")),
        curve=None if told is None else _curve(told, words.attack(name), colour, tpr_at),
        tpr_at=tpr_at,
        worst=tuple(Worst(text(item["id"]), number(item["score"])) for item in objects(entry.get("worst") or ())),
        repeats=tuple(number(item["auc"]) for item in objects(entry.get("by_repeat") or ())),
        balanced_accuracy=optional(number, entry.get("balanced_accuracy")),
    )


def _tpr_at(item: Mapping[str, Any]) -> TprAt:
    known = flag(item["supported"]) and item["tpr"] is not None
    return TprAt(
        number(item["fpr"]), number(item["tpr"]) if known else None, optional(interval, item["interval"]) if known else None
    )


def _curve(told: Mapping[str, Any], name: str, colour: int, tpr_at: tuple[TprAt, ...]) -> Curve:
    fpr, tpr = numbers(told["fpr"]), numbers(told["tpr"])
    low, high = numbers(told.get("low") or ()), numbers(told.get("high") or ())
    if len(fpr) > _MAX_POINTS or len(tpr) != len(fpr) or len(low) != len(high) or len(low) not in {0, len(fpr)}:
        raise ValueError("a ROC has lists of different lengths, or too many points")
    if any(not 0.0 <= value <= 1.0 for values in (fpr, tpr, low, high) for value in values):
        raise ValueError("a ROC leaves the range 0 to 1")
    marks = tuple(Mark(at.fpr, at.tpr, at.interval) for at in tpr_at if at.tpr is not None and at.interval is not None)
    return Curve(name, colour, fpr, tpr, low, high, marks)


def _limit(view: PageView, found: Sequence[Attack]) -> float:
    """The finest FPR that the run says it supports; else the smallest supported one; above every refused one where none is."""
    said = optional(number, view.shared(*ATTACK_TESTS).get("finest_fpr"))
    if said is not None and said > 0:
        return said
    points = [point for attack in found for point in attack.tpr_at]
    supported = [point.fpr for point in points if point.tpr is not None and point.fpr > 0]
    return min(supported, default=max((point.fpr for point in points), default=0.01))


def _floor(limit: float, found: Sequence[Attack]) -> float:
    """The left end of the axes: the decade below everything that was asked for, at most ``_SMALLEST_RATE`` down."""
    asked = [point.fpr for attack in found for point in attack.tpr_at if point.fpr > 0]
    lowest = max(_SMALLEST_RATE, min([limit, *asked]))
    return min(0.1, 10.0 ** math.floor(math.log10(lowest) + 1e-9))
