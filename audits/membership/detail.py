"""What the page shows of one model: every attack with its curve, areas, rates and worst records; plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from audits.membership.auc import area
from audits.membership.draws import Judged
from audits.membership.roc import finest_fpr, interval, operating_point, roc_curve, supports
from audits.membership.scores import Doubles
from audits.membership.settings import MembershipSettings
from audits.membership.suite import DECIDING

_POINTS = 120
TEST_OF = {attack: test for test, attacks in DECIDING.items() for attack in attacks}


def describe_attacks(
    attacks: Mapping[str, Doubles],
    judged: Judged,
    names: Sequence[str],
    settings: MembershipSettings,
    *,
    confidence: float,
    by_repeat: Sequence[Mapping[str, Doubles]] = (),
) -> list[dict[str, Any]]:
    """One entry for each attack.

    Args:
        attacks: scores of the judged records, (E,) each.
        judged: who is judged.
        names: of the judged records.
        settings: which rates and how many worst records.
        confidence: of intervals.
        by_repeat: the same attacks with the shadows of one repeat only, for the spread between seeds.
    """
    return [
        {
            "attack": name,
            "test": None if name not in TEST_OF else f"membership.{TEST_OF[name]}",
            **_figures(scores, judged, settings, confidence=confidence),
            "roc": roc_curve(scores, judged.member, points=_POINTS, confidence=confidence),
            "worst": _worst(scores, judged, names, settings.worst),
            "by_repeat": [_short(found[name], judged, settings) for found in by_repeat if name in found],
        }
        for name, scores in attacks.items()
    ]


def _figures(scores: Doubles, judged: Judged, settings: MembershipSettings, *, confidence: float) -> dict[str, Any]:
    found = area(scores, judged.member)
    rates = sorted({*settings.report_fprs, settings.fpr, finest_fpr(judged.heldouts)})
    return {
        "auc": found.value,
        "auc_interval": list(found.interval(confidence=confidence)),
        "tpr_at": [_at(scores, judged, rate, confidence=confidence) for rate in rates],
    }


def _at(scores: Doubles, judged: Judged, rate: float, *, confidence: float) -> dict[str, Any]:
    """True positives at one rate; nothing but the rate where the held-outs are too few to tell it."""
    if not supports(judged.heldouts, fpr=rate):
        return {"fpr": rate, "tpr": None, "interval": None, "supported": False}
    point = operating_point(scores, judged.member, fpr=rate)
    return {"fpr": rate, "tpr": point.tpr, "interval": list(interval(point, confidence=confidence)), "supported": True}


def _short(scores: Doubles, judged: Judged, settings: MembershipSettings) -> dict[str, float]:
    rate = settings.fpr if supports(judged.heldouts, fpr=settings.fpr) else finest_fpr(judged.heldouts)
    return {"auc": area(scores, judged.member).value, "fpr": rate, "tpr": operating_point(scores, judged.member, fpr=rate).tpr}


def _worst(scores: Doubles, judged: Judged, names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The members that the attack is surest of, by name; ties in the order of the names, so that no order of the data shows."""
    inside = [int(index) for index in np.flatnonzero(judged.member)]
    ordered = sorted(inside, key=lambda index: (-scores[index], names[index]))[:count]
    return [{"id": names[index], "score": float(scores[index])} for index in ordered]
