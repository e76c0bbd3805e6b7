"""Intervals of a figure and of a paired drop, from scores and one set of resamples.

A bootstrap alone says [0, 0] when no sampled row differs, which is not what a sample can show. So intervals are never
narrower than a rule that knows this: Wilson's and Agresti and Min's for shares of rows, else the rule of three (with 95 %
confidence at most three in N unseen rows are of a kind that N rows do not show) times the largest change that was seen. That
rule lifts the upper end only: what may still be unseen is no excuse for a drop that is seen.
Outputs that equal the original's have no drop at all; that case is the caller's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from packager.metrics import Z95, Estimate, agresti_min, wilson_interval
from packager.resampling import Floats, Resampler
from packager.tasks.metric import Metric, Statistic

_RULE_OF_THREE = 3.0
_MOST_ROWS = 10**9  # more rows than that is "more rows will not do"


@dataclass(frozen=True)
class Measured:
    """One model's scores with the figure over all rows and over each resample."""

    scores: Floats
    value: float
    draws: Floats


def measure(statistic: Statistic, scores: Floats, resampler: Resampler) -> Measured:
    """The figure of ``scores`` and its resamples."""
    return Measured(scores, statistic.value(scores), statistic.draws(scores, resampler))


def figure_interval(statistic: Statistic, measured: Measured, resampler: Resampler) -> Estimate:
    """The figure with a 95 % interval: Wilson for ungrouped 0/1 scores, else bootstrap over rows or groups."""
    samples = len(measured.scores)
    if statistic.binary and not resampler.grouped:
        low, high = wilson_interval(measured.scores.sum(), samples)
        return Estimate(measured.value, low, high, samples, "Wilson 95 %")
    low, high = _quantiles(measured.draws)
    method = f"{_bootstrap_name(resampler)} 95 %, {resampler.resamples} resamples"
    if low == high and 0.0 <= low <= 1.0:  # a perfect figure (or an utterly wrong one) on every resample
        carriers = statistic.carriers(resampler)
        wide = wilson_interval(measured.value * carriers, carriers)
        low, high = min(low, wide[0]), max(high, wide[1])
        method = f"Wilson 95 % over {carriers} {'groups' if resampler.grouped else 'rows'}: every resample gives the same"
    return Estimate(measured.value, min(low, measured.value), max(high, measured.value), samples, method)


def drop_interval(metric: Metric, original: Measured, variant: Measured, resampler: Resampler) -> Estimate:
    """The paired drop, positive where the variant is worse, with a 95 % interval."""
    statistic, samples = metric.statistic, len(original.scores)
    value = float(metric.loss(original.value, variant.value))
    low, high = _quantiles(np.asarray(metric.loss(original.draws, variant.draws), dtype=np.float64))
    method = f"paired {_bootstrap_name(resampler)} 95 %, {resampler.resamples} resamples"
    if statistic.binary and not resampler.grouped:
        differences = original.scores - variant.scores
        wide = agresti_min(int((differences > 0).sum()), int((differences < 0).sum()), samples)
        return Estimate(value, min(low, wide[0]), max(high, wide[1]), samples, f"{method}, widened to Agresti-Min")
    share = min(1.0, _RULE_OF_THREE / statistic.carriers(resampler))
    if np.array_equal(original.scores, variant.scores):
        method = f"rule of three over {_units_name(resampler)}: no row differs"
        return Estimate(value, value - share, value + share, samples, method)
    change = share * statistic.reach(original.scores, variant.scores, resampler)
    worse = statistic.shifted(variant.value, -change if metric.higher_is_better else change)
    high = max(high, float(metric.loss(original.value, worse)))
    return Estimate(value, min(low, value), high, samples, f"{method}, rule of three above")


def samples_needed(
    metric: Metric, original: Measured, variant: Measured, drop: Estimate, resampler: Resampler, *, allowed_drop: float
) -> int | None:
    """About how many rows would bring the drop's upper end under ``allowed_drop`` at the rates seen here.

    ``None`` where the drop itself is not below the budget: more rows would not help. For 0/1 scores by normal
    approximation with at least one differing row, so that "none seen" never means "none needed"; else from the interval's
    upper half, which shrinks with the root of the number of rows, and in proportion to it where no row differs.
    """
    rows, room = drop.samples, allowed_drop - drop.value
    if room <= 0:
        return None
    if metric.statistic.binary and not resampler.grouped:
        differences = original.scores - variant.scores
        needed = Z95 * Z95 * max(float(differences.var()), 1.0 / rows) / (room * room)
    else:
        ratio = (drop.high - drop.value) / room
        needed = rows * (ratio if np.array_equal(original.scores, variant.scores) else ratio * ratio)
    return max(rows + 1, math.ceil(needed)) if needed < _MOST_ROWS else None


def _quantiles(draws: Floats) -> tuple[float, float]:
    """Of the resamples that define the figure; a sample of which none does says nothing."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return -1.0, 1.0
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _bootstrap_name(resampler: Resampler) -> str:
    return f"bootstrap over {_units_name(resampler)}"


def _units_name(resampler: Resampler) -> str:
    return "groups" if resampler.grouped else "rows"
