"""The attacks on score arrays: pure, seeded by nothing, higher means more likely a member.

``inside`` tells for every shadow which records trained it. Shadows say how a record looks to models that saw it and to models
that did not; a threshold attack knows neither and takes easy records for members. Scores of one attack compare only with each
other. Costs: one pass over (K, N) numbers each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from audits.membership.scores import Doubles, Integers

Bools = npt.NDArray[np.bool_]
_TINY = 1e-9
_PRIOR = 8.0  # records' worth of common variance in ``lira_shrunk``


def by_class(confidence: Doubles, y: Integers) -> Doubles:
    """Confidence in units of its class: minus the median, over the median distance, members and held-outs together.

    Source: per-class thresholds of Song and Mittal 2021, without knowing who is a member.
    """
    result = np.empty_like(confidence)
    for label in np.unique(y):
        rows = y == label
        centred = confidence[rows] - np.median(confidence[rows])
        result[rows] = centred / max(float(np.median(np.abs(centred))), _TINY)
    return result


def rmia(log_probability: Doubles, shadows: Doubles, inside: Bools) -> Doubles:
    """Log of the likelihood ratio of the target to the average model: p(x | target) / p(x).

    Source: RMIA (Zarifzadeh 2024), online form, p(x) as the mean of inside and outside averages. Its score is the share of
    population records z whose ratio is lower by a factor gamma; that share grows with this ratio alone, so both give one order of
    the records, and this one has no ties.

    Args:
        log_probability: of the target, (N,).
        shadows: of the shadows, (K, N).
        inside: (K, N).
    """
    probabilities = np.exp(shadows)
    average = 0.5 * (_mean(probabilities, inside, of=probabilities) + _mean(probabilities, ~inside, of=probabilities))
    score: Doubles = log_probability - np.log(np.maximum(average, np.finfo(np.float64).tiny))
    return score


def lira_online(confidence: Doubles, shadows: Doubles, inside: Bools) -> Doubles:
    """Log-likelihood ratio of two normal distributions for each record, one variance for all records on each side.

    Source: LiRA (Carlini 2022), online, fixed variance; the variance is pooled within records. With fewer than some 64 shadows
    a variance for each record is noise.
    """
    low, high = _centres(shadows, inside)
    return _normal(confidence, high, _pooled(shadows, inside)) - _normal(confidence, low, _pooled(shadows, ~inside))


def lira_offline(confidence: Doubles, shadows: Doubles, inside: Bools) -> Doubles:
    """How far the target is above the models that did not see the record; needs no model that did.

    Source: LiRA, offline, fixed variance, where the one-sided p-value falls with this distance alone.
    """
    score: Doubles = (confidence - _centres(shadows, inside)[0]) / _pooled(shadows, ~inside)
    return score


def lira_shrunk(confidence: Doubles, shadows: Doubles, inside: Bools) -> Doubles:
    """As ``lira_online`` with a variance for each record that is drawn towards the common one, under Student's t.

    Source: the idea of BaVarIA (2026), a conjugate prior on the variance; prior weight fixed at 8 records.
    """
    low, high = _centres(shadows, inside)
    return _student(confidence, high, shadows, inside) - _student(confidence, low, shadows, ~inside)


def joint(ratios: list[Doubles]) -> Doubles:
    """Sum of the log-likelihood ratios of several versions of one model, as if they erred independently.

    Source: the several-versions setting of CompLeak (2026).
    """
    total: Doubles = np.sum(ratios, axis=0)
    return total


def _mean(values: Doubles, chosen: Bools, *, of: Doubles) -> Doubles:
    """Mean over the chosen shadows of each record; over all of them where none is chosen."""
    counts = chosen.sum(axis=0)
    sums = np.where(chosen, values, 0.0).sum(axis=0)
    mean: Doubles = np.where(counts > 0, sums / np.maximum(counts, 1), of.mean(axis=0))
    return mean


def _centres(shadows: Doubles, inside: Bools) -> tuple[Doubles, Doubles]:
    """Mean outside and inside for each record; where one side has no shadow, the other side plus or minus the common gap."""
    has_in, has_out = inside.any(axis=0), (~inside).any(axis=0)
    high, low = _mean(shadows, inside, of=shadows), _mean(shadows, ~inside, of=shadows)
    both = has_in & has_out
    gap = float((high - low)[both].mean()) if both.any() else 0.0
    return np.where(has_out, low, high - gap), np.where(has_in, high, low + gap)


def _pooled(shadows: Doubles, chosen: Bools) -> float:
    """Standard deviation within records, over all records."""
    squares, freedom = _squares(shadows, chosen)
    return max(float(np.sqrt(squares.sum() / max(float(freedom.sum()), 1.0))), _TINY)


def _squares(shadows: Doubles, chosen: Bools) -> tuple[Doubles, Doubles]:
    """Sum of squares around the record's mean, and its degrees of freedom, (N,) each."""
    centred = np.where(chosen, shadows - _mean(shadows, chosen, of=shadows), 0.0)
    return (centred**2).sum(axis=0), np.maximum(chosen.sum(axis=0) - 1, 0).astype(np.float64)


def _normal(values: Doubles, centre: Doubles, spread: float) -> Doubles:
    logarithm: Doubles = -0.5 * ((values - centre) / spread) ** 2 - np.log(spread)
    return logarithm


def _student(values: Doubles, centre: Doubles, shadows: Doubles, chosen: Bools) -> Doubles:
    """Log density of Student's t up to terms that all records share, but for those that depend on its freedom."""
    from scipy.special import gammaln

    common = _pooled(shadows, chosen) ** 2
    squares, freedom = _squares(shadows, chosen)
    count = np.maximum(chosen.sum(axis=0), 1)
    degrees = _PRIOR + freedom
    variance = (_PRIOR * common + squares) / degrees * (1.0 + 1.0 / count)
    logarithm: Doubles = (
        gammaln((degrees + 1) / 2)
        - gammaln(degrees / 2)
        - 0.5 * np.log(degrees * variance)
        - (degrees + 1) / 2 * np.log1p((values - centre) ** 2 / (degrees * variance))
    )
    return logarithm
