"""Pure statistics of attribute inference: paired advantage over the baseline, exact p-values, Holm.

Attacker and baseline guess the same records, so what counts is where they differ: *b* records that the attacker alone gets
right, *c* that the baseline alone does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.data import Bools
from audits.statistics import percentile_interval

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Advantage:
    """How much better an attacker is than the baseline on some records.

    Attributes:
        estimate: (b - c) / n.
        interval: by bootstrap over records, paired.
        gained, lost: b and c.
        p_value: that the advantage is at most what is tolerated.
    """

    estimate: float
    interval: tuple[float, float]
    gained: int
    lost: int
    p_value: float


def advantage(attack: Bools, baseline: Bools, *, tolerated: float, confidence: float, bootstraps: int, seed: int) -> Advantage:
    """Compares right guesses on the same records, both (N,)."""
    gained, lost = int((attack & ~baseline).sum()), int((baseline & ~attack).sum())
    difference = attack.astype(np.float64) - baseline.astype(np.float64)
    rng = np.random.default_rng([seed, 22])
    # the mean of a resample depends on how many of the three kinds it draws, and on nothing else
    shares = np.array([gained, lost, len(attack) - gained - lost]) / len(attack)
    drawn = rng.multinomial(len(attack), shares, size=bootstraps)
    samples = (drawn[:, 0] - drawn[:, 1]) / len(attack)
    interval = percentile_interval(samples.astype(np.float64), confidence=confidence)
    p_value = mcnemar(gained, lost) if tolerated == 0.0 else tango(gained, lost, len(attack), tolerated=tolerated)
    return Advantage(float(difference.mean()), interval, gained, lost, p_value)


def mcnemar(gained: int, lost: int) -> float:
    """Exact one-sided p-value that the attacker gains no more records than it loses.

    Source: McNemar 1947, with the binomial distribution of the discordant pairs.
    """
    from scipy import stats

    return 1.0 if gained == 0 else float(stats.binom.sf(gained - 1, gained + lost, 0.5))


def tango(gained: int, lost: int, records: int, *, tolerated: float) -> float:
    """One-sided p-value that the advantage is at most ``tolerated``: the score test, which is asymptotic.

    The variance is taken where the hypothesis holds and fits best (restricted maximum likelihood).

    Source: Tango 1998, formulas 3 and 4.
    """
    from scipy import stats

    shift = tolerated
    # the share q of lost records with the largest likelihood, given that the share of gained ones is q + shift
    a, b, c = 2.0 * records, 2.0 * records * shift - gained - lost - shift * (gained - lost), -lost * shift * (1.0 - shift)
    root = math.sqrt(max(0.0, b * b - 4.0 * a * c))
    q = (root - b) / (2.0 * a)
    variance = records * (2.0 * q + shift * (1.0 - shift))
    z = (gained - lost - records * shift) / math.sqrt(max(variance, 1e-12))
    return float(stats.norm.sf(z))


@dataclass(frozen=True)
class Difference:
    """Advantage on members minus advantage on held-outs, with its interval and the p-value that it is at most 0."""

    estimate: float
    interval: tuple[float, float]
    p_value: float


def compare_sides(
    inside: Advantage, outside: Advantage, *, sizes: tuple[int, int], resamples: int, confidence: float, seed: int
) -> Difference:
    """Is the advantage one over training records, or over anybody? By exchanging members with held-outs.

    Args:
        inside: on members.
        outside: on held-outs.
        sizes: how many of each.
        resamples: exchanges, and bootstraps of the interval.
        confidence: of the interval.
        seed: of both.
    """
    rng = np.random.default_rng([seed, 23])
    kinds = [(item.gained, item.lost, size - item.gained - item.lost) for item, size in zip((inside, outside), sizes, strict=True)]

    def mean(drawn: Counts, size: int) -> Doubles:
        result: Doubles = (drawn[:, 0] - drawn[:, 1]) / size
        return result

    boots = [
        mean(rng.multinomial(size, np.array(kind) / size, size=resamples), size) for kind, size in zip(kinds, sizes, strict=True)
    ]
    whole = np.array(kinds).sum(axis=0)
    drawn = rng.multivariate_hypergeometric(whole, sizes[0], size=resamples)
    null = mean(drawn, sizes[0]) - mean(whole - drawn, sizes[1])
    estimate = inside.estimate - outside.estimate
    p_value = (1 + int((null >= estimate - 1e-12).sum())) / (resamples + 1)
    return Difference(estimate, percentile_interval(boots[0] - boots[1], confidence=confidence), p_value)
