"""Ranking statistics: how well one score per row puts the positive rows above the others.

``auc``: share of (positive, negative) pairs in the right order, ties half (area under the ROC curve). ``average-precision``: mean
over positives of the precision at their score, rows of equal score together. Both are computed for all resamples at once from
counts of how often each row is drawn: sort once, then cumulative sums, so N rows cost N per resample and not N squared.

Source: Hanley and McNeil 1982 for the area; the average precision is the step-wise sum without interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packager.resampling import Floats, Resampler


@dataclass(frozen=True)
class Ranking:
    """``positive``: (N,) of bool, with rows of both kinds. ``precision``: average precision, not the area."""

    positive: NDArray[np.bool_]
    precision: bool
    binary: bool = False

    def value(self, scores: Floats) -> float:
        """The figure over all rows."""
        return float(self._figures(_Order(scores, self.positive), np.ones((1, len(scores)), dtype=np.float32))[0])

    def draws(self, scores: Floats, resampler: Resampler) -> Floats:
        """The figure over each resample, NaN where only one kind was drawn: (resamples,)."""
        order = _Order(scores, self.positive)
        return np.concatenate([self._figures(order, counts) for counts in resampler.row_counts()])

    def carriers(self, resampler: Resampler) -> int:
        """Rows or groups that hold the rarer kind."""
        return min(int((resampler.unit_sums(kind.astype(np.float64)) > 0).sum()) for kind in (self.positive, ~self.positive))

    def reach(self, original: Floats, variant: Floats, resampler: Resampler) -> float:
        """The largest change of one row's share in the figure; at least one step of rank."""
        before, after = (self._shares(_Order(scores, self.positive)) for scores in (original, variant))
        largest = max(float(np.abs(one - other).max()) for one, other in zip(before, after, strict=True))
        return max(largest, 1.0 / max(int(self.positive.sum()), int((~self.positive).sum())))

    def shifted(self, value: float, change: float) -> float:
        """The figure after a change of it."""
        return value + change

    def _figures(self, order: _Order, counts: NDArray[np.float32]) -> Floats:
        """Counts (resamples, N) to figures (resamples,)."""
        positives, negatives = counts[:, order.positives], counts[:, order.negatives]
        below = _cumulative(negatives)
        drawn, others = positives.sum(axis=1, dtype=np.float64), negatives.sum(axis=1, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            if not self.precision:
                pairs = (positives * (below[:, order.fewer] + below[:, order.upto])).sum(axis=1, dtype=np.float64)
                return np.asarray(0.5 * pairs / (drawn * others))
            hits = drawn.astype(np.float32)[:, np.newaxis] - _cumulative(positives)[:, order.weaker]
            alarms = others.astype(np.float32)[:, np.newaxis] - below[:, order.fewer]
            precision = hits / np.maximum(hits + alarms, 1.0)
            found = np.asarray((positives * precision).sum(axis=1, dtype=np.float64) / drawn)
            return np.where(others > 0, found, np.nan)

    def _shares(self, order: _Order) -> tuple[Floats, ...]:
        """What each row adds: for positives (and, of the area, negatives) the share of rows that it beats."""
        own = np.argsort(order.positives)
        if self.precision:
            hits = len(order.positives) - order.weaker
            alarms = len(order.negatives) - order.fewer
            return (np.asarray(hits / (hits + alarms), dtype=np.float64)[own],)
        wins = np.asarray(0.5 * (order.fewer + order.upto) / len(order.negatives), dtype=np.float64)
        strength = order.strengths
        beaten = 0.5 * (np.searchsorted(strength, order.levels, "left") + np.searchsorted(strength, order.levels, "right"))
        return wins[own], np.asarray(beaten / len(strength), dtype=np.float64)[np.argsort(order.negatives)]


class _Order:
    """Rows of each kind in rising order of score, and for each positive what lies below it."""

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        rows = np.argsort(scores, kind="stable")
        self.positives = rows[positive[rows]]
        self.negatives = rows[~positive[rows]]
        self.strengths, self.levels = scores[self.positives], scores[self.negatives]
        self.fewer = np.searchsorted(self.levels, self.strengths, "left")
        self.upto = np.searchsorted(self.levels, self.strengths, "right")
        self.weaker = np.searchsorted(self.strengths, self.strengths, "left")


def _cumulative(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running sums along rows with a leading zero; exact in float32 below 2**24 draws."""
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.float32)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums
