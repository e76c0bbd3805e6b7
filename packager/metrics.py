"""Pure metric functions: a score per sample, and intervals of its mean and of a paired difference.

Every metric here is the mean of per-sample scores, so that one paired resampling serves all of them and a variant is
compared with its original on the same rows. No model, file or clock; randomness comes in as ``rng``.

What the numbers do not show: rows are taken as a random sample of the field. Intervals know the sampling of rows (of
whole groups, where rows belong together), not a shift between this data and the devices' data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
RESAMPLES = 2000
_CHUNK_ELEMENTS = 4_000_000  # bounds the memory of one block of resamples (32 MB of indices)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its two-sided 95 % interval and how that interval was made."""

    value: float
    low: float
    high: float
    samples: int
    method: str

    def to_json(self) -> dict[str, object]:
        """As it stands in the report; rounded so that the last bits of a sum do not change the digest."""
        return {
            "value": round(self.value, 6),
            "interval": [round(self.low, 6), round(self.high, 6)],
            "samples": self.samples,
            "method": self.method,
        }


def correct_scores(outputs: NDArray[Any], labels: NDArray[Any]) -> Scores:
    """1.0 where the largest of ``outputs`` (N, C) is at the label, else 0.0; ties go to the lower index."""
    return np.asarray(np.argmax(outputs, axis=1) == labels, dtype=np.float64)


def fit_scores(outputs: NDArray[Any], targets: NDArray[Any]) -> Scores:
    """Per-row share of variance explained; its mean is R squared, 1.0 for a perfect fit and unbounded below.

    Args:
        outputs: (N, ...), the model's values.
        targets: (N, ...), what they should be; constant targets are scored against their mean square.
    """
    rows = len(targets)
    wanted = np.asarray(targets, dtype=np.float64).reshape(rows, -1)
    errors = np.square(np.asarray(outputs, dtype=np.float64).reshape(rows, -1) - wanted).sum(axis=1)
    spread = float(np.square(wanted - wanted.mean(axis=0)).sum()) / rows
    if spread <= 0:
        spread = float(np.square(wanted).sum()) / rows or 1.0
    return np.asarray(1.0 - errors / spread, dtype=np.float64)


def mean_interval(scores: Scores, *, binary: bool, groups: NDArray[Any] | None, rng: np.random.Generator) -> Estimate:
    """Mean of ``scores`` with a 95 % interval: Wilson for ungrouped 0/1 scores, else bootstrap over rows or groups."""
    value = float(scores.mean())
    if groups is None and binary:
        low, high = wilson_interval(int(scores.sum()), len(scores))
        return Estimate(value, low, high, len(scores), "Wilson 95 %")
    low, high = bootstrap_interval(scores, groups=groups, rng=rng)
    return Estimate(value, low, high, len(scores), f"{_bootstrap_name(groups)} 95 %, {RESAMPLES} resamples")


def drop_interval(
    original: Scores, variant: Scores, *, binary: bool, groups: NDArray[Any] | None, rng: np.random.Generator
) -> Estimate:
    """Paired drop, ``mean(original) - mean(variant)``, with a 95 % interval.

    A bootstrap alone says [0, 0] when no sampled row differs, which is not what a sample of N rows can show. So for 0/1
    scores the interval is widened to the Agresti-Min one (half a row added to each cell) or, over groups without any
    difference, by the rule of three. Outputs that equal the original's have no drop at all; that case is the caller's.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".
    """
    differences = original - variant
    value = float(differences.mean())
    low, high = bootstrap_interval(differences, groups=groups, rng=rng)
    method = f"paired {_bootstrap_name(groups)} 95 %, {RESAMPLES} resamples"
    if binary and groups is None:
        wide = _agresti_min(int((differences > 0).sum()), int((differences < 0).sum()), len(differences))
        low, high = min(low, wide[0]), max(high, wide[1])
        method += ", widened to Agresti-Min"
    elif groups is not None and not np.any(differences):
        margin = min(1.0, 3.0 / len(np.unique(groups)))
        low, high = -margin, margin
        method = "rule of three over groups: no row differs"
    return Estimate(value, low, high, len(differences), method)


def wilson_interval(successes: int, samples: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, square = successes / samples, Z95 * Z95
    centre = share + square / (2 * samples)
    margin = Z95 * math.sqrt(share * (1 - share) / samples + square / (4 * samples * samples))
    scale = 1 + square / samples
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def bootstrap_interval(scores: Scores, *, groups: NDArray[Any] | None, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap of the mean, resampling rows or, where rows belong together, whole groups."""
    if groups is None:
        sums, counts = scores, np.ones(len(scores), dtype=np.float64)
    else:
        index = np.unique(groups, return_inverse=True)[1].reshape(-1)
        sums = np.asarray(np.bincount(index, weights=scores), dtype=np.float64)
        counts = np.asarray(np.bincount(index), dtype=np.float64)
    units = len(sums)
    block = max(1, _CHUNK_ELEMENTS // units)
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, block):
        picks = rng.integers(0, units, size=(min(block, RESAMPLES - start), units))
        means.append(sums[picks].sum(axis=1) / counts[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def samples_needed(original: Scores, variant: Scores, *, allowed_drop: float) -> int | None:
    """About how many rows would bring the drop's upper bound under ``allowed_drop`` at the rates seen here.

    ``None`` where the drop itself is not below the budget: more rows would not help. Normal approximation; at least
    one differing row is assumed, so that "none seen" never means "none needed".
    """
    differences = original - variant
    room = allowed_drop - float(differences.mean())
    if room <= 0:
        return None
    variance = max(float(differences.var()), 1.0 / len(differences))
    return max(len(differences) + 1, math.ceil(Z95 * Z95 * variance / (room * room)))


def _agresti_min(only_original: int, only_variant: int, samples: int) -> tuple[float, float]:
    total = samples + 2
    lost, won = only_original + 0.5, only_variant + 0.5
    drop = (lost - won) / total
    margin = Z95 * math.sqrt(max(0.0, (lost + won) - (lost - won) ** 2 / total)) / total
    return drop - margin, drop + margin


def _bootstrap_name(groups: NDArray[Any] | None) -> str:
    return "bootstrap over rows" if groups is None else "bootstrap over groups"
