"""An estimate with its interval, and pure score functions: one number per row, of which a metric is the mean.

No model, file, clock or randomness. How intervals are made of the scores is ``intervals.py``; metrics that are no mean of
scores (ranking, perplexity) are in ``tasks/``.

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

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its two-sided 95 % interval and how that interval was made."""

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


def wilson_interval(successes: float, samples: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, square = successes / samples, Z95 * Z95
    centre = share + square / (2 * samples)
    margin = Z95 * math.sqrt(share * (1 - share) / samples + square / (4 * samples * samples))
    scale = 1 + square / samples
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def agresti_min(only_original: int, only_variant: int, samples: int) -> tuple[float, float]:
    """95 % interval of a paired difference of shares, half a row added to each cell.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".
    """
    total = samples + 2
    lost, won = only_original + 0.5, only_variant + 0.5
    drop = (lost - won) / total
    margin = Z95 * math.sqrt(max(0.0, (lost + won) - (lost - won) ** 2 / total)) / total
    return drop - margin, drop + margin
