"""Intervals over seeds and rows: what a change from one network to another is worth when both were trained several times.

Both kinds resample seeds and test rows (or whole engines) together, paired: in every resample both networks of a seed meet the
same rows. With three or five seeds the seed part of such an interval is rough; every seed's own figure is reported beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000
_STREAM = 0x5EED


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, its 95 % interval, and each seed's value."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """For the results."""
        return {
            "mean": round(self.mean, 5),
            "interval": [round(self.low, 5), round(self.high, 5)],
            "seeds": [round(value, 5) for value in self.each],
        }


def paired_change(before: Floats, after: Floats) -> Spread:
    """Change of a mean of per-row scores.

    Args:
        before: (seeds, rows).
        after: the same shape.
    """
    change = after - before
    rng = np.random.default_rng(_STREAM)
    seeds, rows = change.shape
    found = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        counts = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        found[index] = (change[rng.integers(0, seeds, seeds)] @ counts).mean() / rows
    low, high = np.quantile(found, [0.025, 0.975])
    return Spread(float(change.mean()), float(low), float(high), tuple(float(value) for value in change.mean(axis=1)))


@dataclass(frozen=True)
class Ranking:
    """Rows in falling order of score, so that one sort serves every resample.

    ``order``: (N,). ``last``: (N,), true at the last of rows with equal scores. ``hits``: (N,), labels in that order.
    """

    order: NDArray[np.int64]
    last: NDArray[np.bool_]
    hits: Floats

    @classmethod
    def of(cls, scores: NDArray[Any], labels: NDArray[Any]) -> Ranking:
        """Sorts once."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        return cls(order, np.append(ranked[1:] != ranked[:-1], True), labels[order].astype(np.float64))

    def precision(self, weights: Floats) -> float:
        """Average precision where row i counts ``weights[i]`` times; 0.0 where no row that counts is positive."""
        weight = weights[self.order]
        positive, seen = np.cumsum(weight * self.hits)[self.last], np.cumsum(weight)[self.last]
        if not len(positive) or positive[-1] <= 0:
            return 0.0
        share = np.divide(positive, seen, out=np.zeros_like(positive), where=seen > 0)
        return float(np.sum(np.diff(positive, prepend=0.0) * share) / positive[-1])


def average_precision(scores: NDArray[Any], labels: NDArray[Any], weights: Floats | None = None) -> float:
    """Area under precision over recall, as steps; equal scores are one step. 0.0 where no row is positive.

    Args:
        scores: (N,), higher is more likely positive.
        labels: (N,), 0 or 1.
        weights: (N,), how often each row counts.
    """
    return Ranking.of(scores, labels).precision(np.ones(len(labels)) if weights is None else weights)


def precision_change(before: Floats, after: Floats, labels: NDArray[Any], groups: NDArray[Any], *, resamples: int = 400) -> Spread:
    """Change of average precision, resampling seeds and whole groups.

    Args:
        before: scores, (seeds, rows).
        after: the same shape.
        labels: (rows,), 0 or 1.
        groups: (rows,), for example engines.
        resamples: of the bootstrap.
    """
    rng = np.random.default_rng(_STREAM)
    index = np.unique(groups, return_inverse=True)[1].reshape(-1)
    count, seeds = int(index.max()) + 1, len(before)
    pairs = [(Ranking.of(a, labels), Ranking.of(b, labels)) for a, b in zip(before, after, strict=True)]
    each = [average_precision(b, labels) - average_precision(a, labels) for a, b in zip(before, after, strict=True)]
    found = np.empty(resamples)
    for trial in range(resamples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)[index].astype(np.float64)
        picked, times = np.unique(rng.integers(0, seeds, seeds), return_counts=True)
        changes = [pairs[seed][1].precision(weights) - pairs[seed][0].precision(weights) for seed in picked]
        found[trial] = np.average(changes, weights=times)
    low, high = np.quantile(found, [0.025, 0.975])
    return Spread(float(np.mean(each)), float(low), float(high), tuple(each))
