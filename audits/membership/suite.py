"""All attacks on one model, by name, and which of them decide which test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from audits.membership.attacks import by_class, joint, lira_offline, lira_online, lira_shrunk, rmia
from audits.membership.scores import Doubles, Integers, RecordScores
from audits.membership.shadows import Shadows

DECIDING: Mapping[str, tuple[str, ...]] = {
    "threshold": ("confidence", "class_confidence"),
    "rmia": ("rmia",),
    "lira": ("lira_online", "lira_shrunk"),
    "joint": ("joint",),
}
"""Attacks of each test. A test's p-value is the smallest of its attacks, times their number."""
BESIDE = ("label_rank", "lira_offline")
"""Attacks that are shown and decide nothing: weaker forms of the others, for other attackers."""


def attack_scores(
    scores: RecordScores, shadows: Shadows | None, *, subject: str, y: Integers, others: Mapping[str, RecordScores]
) -> dict[str, Doubles]:
    """Scores of the judged records by every attack that can run, (E,) each.

    Args:
        scores: of the model on the judged records.
        shadows: None leaves what needs none.
        subject: the model's id, for shadows compressed like it.
        y: their labels, (E,).
        others: further versions of the model that an attacker holds, by id.
    """
    found = {
        "confidence": scores.confidence,
        "class_confidence": by_class(scores.confidence, y),
        "label_rank": -scores.rank,
    }
    if shadows is None:
        return found
    kind = shadows.kind(subject)
    about = shadows.confidence[kind]
    found["rmia"] = rmia(scores.log_probability, shadows.log_probability[kind], shadows.inside)
    found["lira_online"] = lira_online(scores.confidence, about, shadows.inside)
    found["lira_shrunk"] = lira_shrunk(scores.confidence, about, shadows.inside)
    found["lira_offline"] = lira_offline(scores.confidence, about, shadows.inside)
    if others:
        ratios = [found["lira_online"]]
        for name, other in others.items():
            ratios.append(lira_online(other.confidence, shadows.confidence[shadows.kind(name)], shadows.inside))
        found["joint"] = joint(ratios)
    return found


def lifted(scores: RecordScores, chosen: Integers, *, by: float) -> RecordScores:
    """The same model with the confidence of some records raised: what a leak of known size looks like."""
    confidence = scores.confidence.copy()
    confidence[chosen] += by
    log_probability: Doubles = -np.logaddexp(0.0, -confidence)
    return RecordScores(confidence, log_probability, scores.margin, scores.rank)
