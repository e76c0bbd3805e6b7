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
    """TPR at one FPR; ``supported`` where there are enough non-members to speak of that FPR."""

    fpr: float
    tpr: float
    interval: Interval | None
    supported: bool


@dataclass(frozen=True)
class Delta:
    """Variant minus original, paired by record; ``statistic`` is ``auc`` or ``tpr_at_fpr_…``."""

    statistic: str
    estimate: float
    interval: Interval | None


@dataclass(frozen=True)
class Worst:
    """A record by its salted id, and the score that the attack gave it."""

    id: str
    score: float


@dataclass(frozen=True)
class Attack:
    """One attack on one model, read from the family's detail."""

    name: str
    auc: float
    auc_interval: Interval | None
    curve: Curve
    tpr_at: tuple[TprAt, ...]
    worst: tuple[Worst, ...]
    deltas: tuple[Delta, ...]


def attacks(view: PageView) -> list[tuple[SubjectView, tuple[Attack, ...]]]:
    """What the membership family told about each model, the baselines included."""
    found: list[tuple[SubjectView, tuple[Attack, ...]]] = []
    colours: dict[str, int] = {}
    for subject, told in view.details(*ATTACK_TESTS):
        read = []
        for entry in objects(told.get("attacks", [])):
            name = text(entry["attack"])
            read.append(_attack(entry, name, colours.setdefault(name, len(colours))))
        if read:
            found.append((subject, tuple(read)))
    return found


def membership(view: PageView) -> str:
    """The ROCs side by side and the table; absent where no membership test ran."""
    found = attacks(view)
    if not found:
        return ""
    everything = [attack for _, told in found for attack in told]
    limit = _limit(everything)
    floor = _floor(limit, everything)
    original = next((told for subject, told in found if subject.is_original), ())
    best = max(original, key=lambda attack: attack.auc, default=None)
    panels = "".join(
        roc(
            subject.id,
            [attack.curve for attack in told],
            floor=floor,
            limit=limit,
            reference=None if best is None or subject.is_original else best.curve,
        )
        for subject, told in found
    )
    names = {attack.curve.colour: attack.name for attack in everything}
    keys = "".join(swatch(colour, words.attack(name)) for colour, name in sorted(names.items()))
    told = (
        "How many training records an attacker recognises (up) at a given rate of false accusations (right), both logarithmic. The "
        "dashed diagonal is guessing; bands and dots with whiskers are intervals. Grey: false positive rates for which this run "
        f"has too few non-members (below {limit:.2g})."
    )
    if best is not None:
        told += f" Dotted: the original under its strongest attack, {words.attack(best.name)}."
    drawn = f'<div class="panels">{panels}</div><div class="legend">{keys}</div>'
    return section("Membership inference", note(told), drawn, _table(found))


def _table(found: Sequence[tuple[SubjectView, tuple[Attack, ...]]]) -> str:
    rates = sorted({point.fpr for _, told in found for attack in told for point in attack.tpr_at})
    rows = []
    for subject, told in found:
        for attack in told:
            at = {point.fpr: point for point in attack.tpr_at}
            rows.append(
                [
                    say(subject.id),
                    say(words.attack(attack.name)),
                    f"{attack.auc:.3f}<br>{span(attack.auc_interval, '.3f')}",
                    *(_rate(at.get(rate)) for rate in rates),
                ]
            )
    heads = [Column("Model"), Column("Attack"), Column("AUC and interval", numeric=True)]
    heads += [Column(f"TPR at FPR {rate:g}", numeric=True) for rate in rates]
    return table("Membership attacks: AUC and true positive rates with intervals", heads, rows)


def _rate(point: TprAt | None) -> str:
    if point is None:
        return ""
    if not point.supported:
        return '<span class="sub">too few<br>non-members</span>'
    return f"{point.tpr:.4f}<br>{span(point.interval)}"


def _attack(entry: Mapping[str, Any], name: str, colour: int) -> Attack:
    tpr_at = tuple(
        TprAt(number(item["fpr"]), number(item["tpr"]), optional(interval, item.get("interval")), flag(item["supported"]))
        for item in objects(entry.get("tpr_at", []))
    )
    marks = tuple(Mark(item.fpr, item.tpr, item.interval) for item in tpr_at if item.supported and item.interval is not None)
    return Attack(
        name=name,
        auc=number(entry["auc"]),
        auc_interval=optional(interval, entry.get("auc_interval")),
        curve=_curve(mapping(entry["roc"]), words.attack(name), colour, marks),
        tpr_at=tpr_at,
        worst=tuple(Worst(text(item["id"]), number(item["score"])) for item in objects(entry.get("worst", []))),
        deltas=_deltas(optional(mapping, entry.get("delta")) or {}),
    )


def _curve(told: Mapping[str, Any], name: str, colour: int, marks: tuple[Mark, ...]) -> Curve:
    fpr, tpr = numbers(told["fpr"]), numbers(told["tpr"])
    low, high = numbers(told.get("low") or ()), numbers(told.get("high") or ())
    if len(fpr) > _MAX_POINTS or len(tpr) != len(fpr) or len(low) != len(high) or len(low) not in {0, len(fpr)}:
        raise ValueError("a ROC has lists of different lengths, or too many points")
    if any(not 0.0 <= value <= 1.0 for values in (fpr, tpr, low, high) for value in values):
        raise ValueError("a ROC leaves the range 0 to 1")
    return Curve(name, colour, fpr, tpr, low, high, marks)


def _deltas(told: Mapping[str, Any]) -> tuple[Delta, ...]:
    """``auc`` with ``interval``; any further ``tpr_at_fpr_…`` as an object with ``estimate`` and ``interval``."""
    found = []
    if told.get("auc") is not None:
        found.append(Delta("auc", number(told["auc"]), optional(interval, told.get("interval"))))
    for name, value in told.items():
        if name.startswith("tpr_at_fpr_"):
            found.append(Delta(name, number(value["estimate"]), optional(interval, value.get("interval"))))
    return tuple(found)


def _limit(found: Sequence[Attack]) -> float:
    """The smallest FPR that any attack supports; above every unsupported one where none does."""
    supported = [point.fpr for attack in found for point in attack.tpr_at if point.supported and point.fpr > 0]
    refused = [point.fpr for attack in found for point in attack.tpr_at if not point.supported]
    return min(supported, default=max(refused, default=0.01))


def _floor(limit: float, found: Sequence[Attack]) -> float:
    """The left end of the axes: the decade below everything that was asked for, at most ``_SMALLEST_RATE`` down."""
    asked = [point.fpr for attack in found for point in attack.tpr_at if point.fpr > 0]
    lowest = max(_SMALLEST_RATE, min([limit, *asked]))
    return min(0.1, 10.0 ** math.floor(math.log10(lowest) + 1e-9))
