"""The few values that a tensor's weights may take: k-means in one dimension, three values, or two.

One dimension is special: the best clusters are intervals, so dynamic programming over sorted values finds the optimum (Wang and
Song 2011, "Ckmeans.1d.dp"), and nothing is drawn at random. Where there are more distinct values than ``BINS``, they are put into
bins first, and the result is improved on the values themselves. Pure numpy; knows neither models nor files.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 1024
_ROUNDS = 20  # of improvement; it settles in fewer


def k_means(values: Floats, importance: Floats, entries: int) -> Floats:
    """At most ``entries`` levels with the least importance-weighted square error, ascending.

    Args:
        values: (N,), finite.
        importance: (N,), at least 0, with a sum above 0.
        entries: 1 to 64.

    Costs ``entries * BINS**2`` operations and 16 MB.
    """
    points, weights = _binned(values, importance)
    levels = _optimal(points, weights, min(entries, len(points)))
    if len(points) < BINS:  # nothing was put together: this is the optimum
        return levels
    order = np.argsort(values, kind="stable")
    values, importance = values[order], importance[order]
    for _ in range(_ROUNDS):
        nearest = nearest_level(values, levels)
        mass = np.bincount(nearest, importance, minlength=len(levels))
        moment = np.bincount(nearest, importance * values, minlength=len(levels))
        better = np.where(mass > 0, moment / np.where(mass > 0, mass, 1), levels)
        if np.array_equal(better, levels):
            break
        levels = np.sort(better)
    return levels


def three_levels(values: Floats, importance: Floats) -> Floats:
    """``-a, 0, a`` with the least importance-weighted square error.

    For a given set of weights that are not zero, the best ``a`` is their mean magnitude; the best set is the largest ones for some
    threshold, and all thresholds are tried (after Li and others 2016, "Ternary weight networks", who approximate it).
    """
    sizes = np.abs(values)
    order = np.argsort(-sizes, kind="stable")
    mass, moment = np.cumsum(importance[order]), np.cumsum(importance[order] * sizes[order])
    gain = np.where(mass > 0, moment**2 / np.where(mass > 0, mass, 1), 0)
    best = int(np.argmax(gain))
    scale = float(moment[best] / mass[best]) if mass[best] > 0 else 0.0
    return np.array([-scale, 0.0, scale])


def two_levels(values: Floats, importance: Floats) -> Floats:
    """``-a, a`` with the least importance-weighted square error: ``a`` is the mean magnitude (Rastegari and others 2016)."""
    scale = float((importance * np.abs(values)).sum() / importance.sum())
    return np.array([-scale, scale])


def nearest_level(values: NDArray[Any], levels: Floats) -> NDArray[np.intp]:
    """The index of the nearest of ascending levels, for each value; the upper one of two that are as near."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values, side="right")


def _binned(values: Floats, importance: Floats) -> tuple[Floats, Floats]:
    """Ascending points with their weights: the distinct values, or the means of equal intervals where they are too many."""
    points, index = np.unique(values, return_inverse=True)
    index = index.astype(np.intp)
    if len(points) >= BINS:
        low, high = float(points[0]), float(points[-1])
        index = np.minimum(((values - low) / (high - low) * BINS).astype(np.intp), BINS - 1)
    weights = np.bincount(index, importance).astype(np.float64)
    moments = np.bincount(index, importance * values).astype(np.float64)
    used = weights > 0
    return moments[used] / weights[used], weights[used]


def _optimal(points: Floats, weights: Floats, entries: int) -> Floats:
    """Dynamic programming: the cheapest way to cut the points into intervals."""
    mass, moment, square = (np.concatenate([[0.0], np.cumsum(weights * points**power)]) for power in (0, 1, 2))
    count = len(points)
    first, last = np.arange(count)[:, None], np.arange(1, count + 1)[None, :]
    inside = mass[last] - mass[first]
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = (square[last] - square[first]) - (moment[last] - moment[first]) ** 2 / inside
    cost = np.where(last > first, np.maximum(cost, 0), np.inf)  # cost[i, j]: points i to j in one interval
    best, cuts = cost[0], []
    for _ in range(entries - 1):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + cost  # the last interval begins at i
        cut = np.argmin(total, axis=0)
        best = total[cut, np.arange(count)]
        cuts.append(cut)
    bounds, end = [count], count
    for cut in reversed(cuts):
        end = int(cut[end - 1])
        bounds.append(end)
    edges = [0, *reversed(bounds)]
    return np.array([(moment[b] - moment[a]) / (mass[b] - mass[a]) for a, b in itertools.pairwise(edges)])
