"""The statistic of most metrics: a mean of scores, or a ratio of two sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from packager.resampling import Floats, Resampler

_MOST = 100.0  # e^100 stands for any ruin: squared it is still finite, as JSON needs


@dataclass(frozen=True)
class Mean:
    """Mean of scores (N,); of scores (N, 2) the ratio of the sums of both columns, a mean weighted by the second.

    ``exponential``: e to the power of it, which makes perplexity of a mean negative log-likelihood.
    """

    binary: bool = False
    exponential: bool = False

    def value(self, scores: Floats) -> float:
        """The figure over all rows."""
        if scores.ndim == 1:
            return float(self._finish(scores.mean()))
        return float(self._finish(scores[:, 0].sum() / scores[:, 1].sum()))

    def draws(self, scores: Floats, resampler: Resampler) -> Floats:
        """The figure over each resample: (resamples,)."""
        top, bottom = _columns(scores)
        with np.errstate(invalid="ignore"):  # no counted position in the resample: NaN
            return self._finish(resampler.sums(top) / resampler.sums(bottom))

    def carriers(self, resampler: Resampler) -> int:
        """Every row or group."""
        return resampler.units

    def reach(self, original: Floats, variant: Floats, resampler: Resampler) -> float:
        """The largest change of one unit's sum, as if every unit had it; of the mean, before any exponential."""
        (before, weight), (after, _) = _columns(original), _columns(variant)
        largest = float(np.abs(resampler.unit_sums(before - after)).max())
        return largest * resampler.units / float(weight.sum())

    def shifted(self, value: float, change: float) -> float:
        """The figure after a change of the mean."""
        return value * float(np.exp(min(change, _MOST))) if self.exponential else value + change

    def _finish(self, ratio: Floats) -> Floats:
        return np.exp(np.minimum(ratio, _MOST)) if self.exponential else ratio


def _columns(scores: Floats) -> tuple[Floats, Floats]:
    if scores.ndim == 1:
        return scores, np.ones(len(scores))
    return np.ascontiguousarray(scores[:, 0]), np.ascontiguousarray(scores[:, 1])
