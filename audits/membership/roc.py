"""True positives at a low false positive rate, exact: estimate, interval, p-value and curve.

The threshold is a score of a held-out record, so the false positive rate that it really has is not known: with n held-outs and
k of them above it, that rate U is distributed as Beta(k + 1, n - k), whatever the scores look like. Everything here averages
over U instead of taking k / n for the truth. Members above the threshold are then binomial. One assumption connects the rate U
with the rate f that was asked for: the curve is concave, as the best curve of an attacker who may flip coins always is.

    point = operating_point(scores, member, fpr=0.01)
    p_value(point, tolerated=0.05)        # of "at most 5 % of members are told apart at 1 % false positives"

What the numbers do not show: another model of the same training, or another attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.membership.scores import Doubles

Bools = npt.NDArray[np.bool_]
_STEPS = 40
_TAIL = tuple(10.0**-power for power in range(12, 2, -1))
MIN_FALSE_POSITIVES = 3.0
"""With none of n held-outs above a threshold its rate is below 3 / n at 95 %: a finer rate cannot be told (rule of three)."""


@dataclass(frozen=True)
class Point:
    """Members above a threshold that held-outs chose.

    Attributes:
        fpr: the rate that was asked for.
        allowed: held-outs above the threshold, at most.
        hits: members strictly above it.
        members, heldouts: how many there are.
    """

    fpr: float
    allowed: int
    hits: int
    members: int
    heldouts: int

    @property
    def tpr(self) -> float:
        """Share of members above the threshold."""
        return self.hits / self.members


def supports(heldouts: int, *, fpr: float) -> bool:
    """Whether so many held-outs can tell so low a false positive rate."""
    return heldouts * fpr >= MIN_FALSE_POSITIVES - 1e-9


def finest_fpr(heldouts: int) -> float:
    """The lowest rate that ``heldouts`` support, at most 0.5."""
    return min(0.5, MIN_FALSE_POSITIVES / max(1, heldouts))


def allowed_false_positives(heldouts: int, *, fpr: float) -> int:
    """Held-outs that may lie above the threshold, so that its rate is ``fpr`` on average."""
    return max(0, math.floor(fpr * heldouts + 1e-9) - 1)


def operating_point(scores: Doubles, member: Bools, *, fpr: float) -> Point:
    """Counts at the threshold for ``fpr``; ties with the threshold do not count as told apart."""
    outside = np.sort(scores[~member])[::-1]
    allowed = allowed_false_positives(len(outside), fpr=fpr)
    hits = int((scores[member] > outside[allowed]).sum())
    return Point(fpr, allowed, hits, int(member.sum()), len(outside))


def p_value(point: Point, *, tolerated: float) -> float:
    """Of the hypothesis that at most a share ``tolerated`` of members is told apart at the rate asked for.

    Under it a concave curve is at most ``tolerated * max(1, U / f)`` at rate U; averaged over U, each cell of its distribution
    taken at its upper end, so that the result is never too small.
    """
    return float(_at_least(np.array([point.hits]), np.array([tolerated]), point, _rate_cells(point))[0])


def p_values(hits: npt.NDArray[np.int64], point: Point, *, tolerated: float) -> Doubles:
    """The same for many counts with the sizes of ``point``."""
    distinct, where = np.unique(hits, return_inverse=True)
    return _at_least(distinct, np.full(len(distinct), tolerated), point, _rate_cells(point))[where]


def interval(point: Point, *, confidence: float) -> tuple[float, float]:
    """Two-sided interval of the true positive rate at the rate asked for: the shares that neither tail refuses."""
    low, high = curve_interval(np.array([point.hits]), point, confidence=confidence)
    return float(low[0]), float(high[0])


def curve_interval(hits: npt.NDArray[np.int64], point: Point, *, confidence: float) -> tuple[Doubles, Doubles]:
    """Lower and upper ends for many counts with the sizes and the rate of ``point``, by bisection of the two tests."""
    tail = (1.0 - confidence) / 2.0
    cells = _rate_cells(point)
    lower = _bisect(lambda share: _at_least(hits, share, point, cells) > tail, len(hits))
    upper = _bisect(lambda share: _at_most(hits, share, point, cells) <= tail, len(hits))
    return np.where(hits == 0, 0.0, lower), np.where(hits == point.members, 1.0, upper)


def roc_curve(scores: Doubles, member: Bools, *, points: int, confidence: float) -> dict[str, list[float]]:
    """The curve on logarithmically spaced false positive rates, with pointwise bands; lists for the page.

    Bands are of the share of members above each threshold (Clopper and Pearson 1934), without the threshold's own noise.
    """
    from scipy import stats

    outside = np.sort(scores[~member])[::-1]
    inside = np.sort(scores[member])
    rates = np.unique(np.round(np.geomspace(1.0 / len(outside), 1.0, points) * len(outside)).astype(np.int64)) / len(outside)
    index = np.minimum((rates * len(outside)).round().astype(np.int64), len(outside) - 1)
    hits = len(inside) - np.searchsorted(inside, outside[index], side="right")
    hits[rates >= 1.0] = len(inside)
    tail = (1.0 - confidence) / 2.0
    low = np.where(hits == 0, 0.0, stats.beta.ppf(tail, np.maximum(hits, 1), len(inside) - hits + 1))
    high = np.where(hits == len(inside), 1.0, stats.beta.ppf(1 - tail, hits + 1, np.maximum(len(inside) - hits, 1)))
    columns = {"fpr": rates, "tpr": hits / len(inside), "low": low, "high": high}
    return {name: [round(float(value), 6) for value in values] for name, values in columns.items()}


def _at_least(hits: npt.NDArray[np.int64], share: Doubles, point: Point, cells: tuple[Doubles, Doubles]) -> Doubles:
    """P(at least ``hits`` members above) when the curve passes through (f, share), the largest that it can be."""
    from scipy import special

    edges, weights = cells
    rates = np.minimum(1.0, share[:, None] * np.maximum(1.0, edges[None, 1:] / point.fpr))
    # regularised incomplete beta: P(Bin(n, p) >= k)
    tails = np.where(
        hits[:, None] <= 0, 1.0, special.betainc(np.maximum(hits, 1)[:, None], (point.members - hits + 1)[:, None], rates)
    )
    total: Doubles = np.minimum(1.0, tails @ weights)
    return total


def _at_most(hits: npt.NDArray[np.int64], share: Doubles, point: Point, cells: tuple[Doubles, Doubles]) -> Doubles:
    """P(at most ``hits`` members above) when the curve passes through (f, share), the largest that it can be."""
    from scipy import special

    edges, weights = cells
    rates = share[:, None] * np.minimum(1.0, edges[None, :-1] / point.fpr)
    above = special.betainc((hits + 1)[:, None], np.maximum(point.members - hits, 1)[:, None], rates)
    tails = np.where((hits >= point.members)[:, None], 1.0, 1.0 - above)
    total: Doubles = np.minimum(1.0, tails @ weights)
    return total


def _rate_cells(point: Point) -> tuple[Doubles, Doubles]:
    """Edges of cells of the threshold's true rate, and the probability of each; fine in both tails."""
    from scipy import stats

    tail = np.array(_TAIL)
    quantiles = np.concatenate([[0.0], tail, np.linspace(0.01, 0.99, 99), 1.0 - tail[::-1], [1.0]])
    edges = stats.beta.ppf(quantiles, point.allowed + 1, point.heldouts - point.allowed)
    return edges, np.diff(quantiles)


def _bisect(inside: Callable[[Doubles], Bools], count: int) -> Doubles:
    """For each entry the smallest share for which ``inside`` holds, which it does from there on."""
    low, high = np.zeros(count), np.ones(count)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        held = inside(middle)
        low, high = np.where(held, low, middle), np.where(held, middle, high)
    return (low + high) / 2
