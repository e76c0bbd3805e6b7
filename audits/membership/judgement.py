"""From scores to p-values: each test of each model, and all of them together (Holm). The rule for models and controls alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from audits.membership.roc import Bools, Point, allowed_false_positives, interval, operating_point, p_value, p_values
from audits.membership.scores import Doubles
from audits.membership.suite import DECIDING


@dataclass(frozen=True)
class Bound:
    """What is asked of every attack.

    Attributes:
        fpr: false positive rate at which members are counted.
        tolerated: share of members that may be told apart there.
        alpha: of all tests and models together.
        confidence: of intervals.
        compared: how many tests of models share ``alpha``.
    """

    fpr: float
    tolerated: float
    alpha: float
    confidence: float
    compared: int = 1


@dataclass(frozen=True)
class Outcome:
    """One test of one model.

    Attributes:
        attack: the strongest of the test's attacks.
        point: its counts.
        p_value: the smallest of the attacks, times their number.
        interval: of the strongest attack, its upper end the highest of all; widened for their number.
    """

    attack: str
    point: Point
    p_value: float
    interval: tuple[float, float]


def judge(test: str, attacks: Mapping[str, Doubles], member: Bools, bound: Bound) -> Outcome | None:
    """One test, or None where its attacks did not run."""
    strongest = _strongest(test, attacks, member, bound)
    if strongest is None:
        return None
    attack, point, count = strongest
    # equal sizes: the interval grows with the hits, so the strongest attack has the highest upper end, too
    confidence = 1.0 - (1.0 - bound.confidence) / count
    return Outcome(attack, point, _chance(point, count, bound), interval(point, confidence=confidence))


def chances(attacks: Mapping[str, Doubles], member: Bools, bound: Bound) -> dict[str, float]:
    """P-values of all tests of one model that ran, without intervals."""
    found = {test: _strongest(test, attacks, member, bound) for test in DECIDING}
    return {test: _chance(item[1], item[2], bound) for test, item in found.items() if item is not None}


def _strongest(test: str, attacks: Mapping[str, Doubles], member: Bools, bound: Bound) -> tuple[str, Point, int] | None:
    """The attack of a test that tells most members apart, its counts, and how many attacks it was chosen from."""
    names = [name for name in DECIDING[test] if name in attacks]
    if not names:
        return None
    points = {name: operating_point(attacks[name], member, fpr=bound.fpr) for name in names}
    best = max(names, key=lambda name: points[name].hits)
    return best, points[best], len(names)


def _chance(point: Point, count: int, bound: Bound) -> float:
    return min(1.0, count * p_value(point, tolerated=bound.tolerated))


def is_alarm(p: float, bound: Bound, *, among: int = 1) -> bool:
    """Whether a model with this smallest p-value would fail: Holm's first step, over all tests of the run."""
    return p * bound.compared * among <= bound.alpha


def permuted_p(attacks: Mapping[str, Doubles], memberships: Bools, bound: Bound) -> Doubles:
    """The smallest p-value of one model under each of many memberships, (R, E) to (R,)."""
    heldouts = int((~memberships[0]).sum())
    shape = Point(bound.fpr, allowed_false_positives(heldouts, fpr=bound.fpr), 0, memberships.shape[1] - heldouts, heldouts)
    smallest = np.ones(len(memberships))
    for names in DECIDING.values():
        ran = [name for name in names if name in attacks]
        for name in ran:
            hits = _hits(attacks[name], memberships, allowed=shape.allowed)
            smallest = np.minimum(smallest, len(ran) * p_values(hits, shape, tolerated=bound.tolerated))
    return smallest


def _hits(scores: Doubles, memberships: Bools, *, allowed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Members strictly above the threshold that each membership's held-outs choose."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    inside = memberships[:, order]
    at = np.argmax(np.cumsum(~inside, axis=1) > allowed, axis=1)
    above = np.searchsorted(-ordered, -ordered[at], side="left")
    counts = np.concatenate([np.zeros((len(inside), 1), dtype=np.int64), np.cumsum(inside, axis=1)], axis=1)
    hits: np.ndarray[tuple[int], np.dtype[np.int64]] = counts[np.arange(len(inside)), above]
    return hits
