"""Small exact statistics, pure: rank p-values, family-wise decisions by permutation, intervals.

Nothing here knows about models. What the numbers do not show: a p-value above alpha is absence of evidence at the power
that the planted controls measured, not a proof that nothing leaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def rank_p_values(values: Doubles, *, reference: int) -> Doubles:
    """One-sided permutation p-value of every column of ``values`` (..., N) against its first ``reference`` columns.

    p_i is the share of reference columns with a value of at least v_i, the column itself counted once. For the observed
    column, itself part of the reference, this is the exact permutation p-value with ties counted against it.
    """
    flat = values.reshape(-1, values.shape[-1])
    result = np.empty_like(flat)
    for row, out in zip(flat, result, strict=True):
        ordered = np.sort(row[:reference])
        at_least = reference - np.searchsorted(ordered, row, side="left")
        out[:reference] = at_least[:reference] / reference
        out[reference:] = (at_least[reference:] + 1) / (reference + 1)
    return result.reshape(values.shape)


def combine_minimum(p_values: Doubles, *, reference: int) -> Doubles:
    """Westfall-Young combination: p-value of the smallest p-value over the first axis, (K, N) to (N,).

    The columns keep the dependence between the K tests, so nothing is lost to a Bonferroni bound.
    Source: Westfall and Young 1993, min-p.
    """
    combined: Doubles = rank_p_values(-p_values.min(axis=0)[None, :], reference=reference)[0]
    return combined


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given; valid whatever the tests have to do with each other.

    Source: Holm 1979, step-down.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def critical_value(p_values: Doubles, *, alpha: float) -> float:
    """The largest value v with at most a share ``alpha`` of ``p_values`` at or below it; 0.0 if there is none."""
    ordered = np.sort(p_values)
    allowed = math.floor(alpha * len(ordered) + 1e-9)
    if allowed == 0:
        return 0.0
    if allowed == len(ordered):
        return float(ordered[-1])
    candidates = ordered[:allowed]
    below_next = candidates[candidates < ordered[allowed]]
    return float(below_next[-1]) if len(below_next) else 0.0


def value_at(values: Doubles, *, p_value: float) -> float:
    """The smallest value whose one-sided p-value among ``values`` is at most ``p_value``; infinity if there is none."""
    ordered = np.sort(values)[::-1]
    allowed = math.floor(p_value * len(ordered) + 1e-9)
    if allowed == 0:
        return math.inf
    value = ordered[allowed - 1]
    if allowed < len(ordered) and ordered[allowed] == value:
        above = ordered[ordered > value]
        return float(above[-1]) if len(above) else math.inf
    return float(value)


def percentile_interval(samples: Doubles, *, confidence: float) -> tuple[float, float]:
    """Central interval of bootstrap samples."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return float(low), float(high)


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share.

    Source: Clopper and Pearson 1934.
    """
    from scipy import stats

    tail = (1.0 - confidence) / 2.0
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1.0 - tail, successes + 1, trials - successes))
    return low, high


def binomial_limit(trials: int, *, rate: float, tail: float = 1e-3) -> int:
    """The count that a Binomial(trials, rate) exceeds with probability of at most ``tail``."""
    from scipy import stats

    return int(stats.binom.ppf(1.0 - tail, trials, rate))
