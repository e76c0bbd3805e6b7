"""What compression did to the leak: variant minus original, the same records on both sides, with intervals.

Records are resampled within members and held-outs (paired bootstrap); the original and the variant see the same resamples, so
what they have in common cancels. The threshold is chosen anew in every resample, so its noise is in the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audits.membership.auc import Area, area, difference
from audits.membership.roc import Bools, allowed_false_positives, operating_point
from audits.membership.scores import Doubles
from audits.statistics import percentile_interval

_CHUNK = 50


def tpr_samples(scores: Doubles, member: Bools, *, fpr: float, resamples: int, seed: int) -> Doubles:
    """True positive rate at ``fpr`` in every resample, (B,); one seed gives one set of resamples for all models."""
    rng = np.random.default_rng([seed, 45])
    inside, outside = scores[member], scores[~member]
    order = np.argsort(-outside, kind="stable")
    ranked = outside[order]
    allowed = allowed_false_positives(len(outside), fpr=fpr)
    samples = np.empty(resamples)
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        weights_out = _counts(rng, len(outside), count)[:, order]
        weights_in = _counts(rng, len(inside), count)
        at = np.argmax(np.cumsum(weights_out, axis=1) > allowed, axis=1)
        above = inside[None, :] > ranked[at][:, None]
        samples[start : start + count] = (weights_in * above).sum(axis=1) / len(inside)
    return samples


@dataclass(frozen=True)
class Measured:
    """One attack on one model: its rate, its resampled rates, its area."""

    tpr: float
    samples: Doubles
    area: Area


def measure(scores: Doubles, member: Bools, *, fpr: float, resamples: int, seed: int) -> Measured:
    """What two models are compared by."""
    point = operating_point(scores, member, fpr=fpr)
    return Measured(point.tpr, tpr_samples(scores, member, fpr=fpr, resamples=resamples, seed=seed), area(scores, member))


def compare(attack: str, mine: Measured, original: Measured, *, fpr: float, confidence: float) -> dict[str, Any]:
    """Differences of one attack, JSON values: area (DeLong, paired) and true positive rate (paired bootstrap)."""
    estimate, interval = difference(mine.area, original.area, confidence=confidence)
    return {
        "attack": attack,
        "auc": estimate,
        "auc_interval": list(interval),
        "fpr": fpr,
        "tpr": mine.tpr - original.tpr,
        "tpr_interval": list(percentile_interval(mine.samples - original.samples, confidence=confidence)),
    }


def _counts(rng: np.random.Generator, size: int, count: int) -> npt.NDArray[np.int64]:
    """How often each of ``size`` records is drawn, (count, size)."""
    picked = rng.integers(0, size, size=(count, size))
    flat = (picked + np.arange(count)[:, None] * size).reshape(-1)
    return np.bincount(flat, minlength=count * size).reshape(count, size)
