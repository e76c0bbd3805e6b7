"""What a model says about single records, as numbers that an attack can compare: pure functions of its log-probabilities.

All follow from class scores of one record at a time. What they do not show: anything that a model tells through inner layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RecordScores:
    """Per-record statistics of one model, each (N,) float64.

    Attributes:
        confidence: log(p / (1 - p)) of the true class: nearly normal where p itself is not (LiRA, Carlini 2022, section V).
        log_probability: log p of the true class; minus the loss.
        margin: log p of the true class minus that of the best other.
        rank: how many classes score higher than the true one; all that somebody knows who sees labels in order.
    """

    confidence: Doubles
    log_probability: Doubles
    margin: Doubles
    rank: Doubles

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether no class scores higher than the true one."""
        right: npt.NDArray[np.bool_] = self.rank == 0
        return right


def record_scores(log_probabilities: Doubles, y: Integers) -> RecordScores:
    """Statistics of the class ``y`` of every record.

    Everything is computed in logarithms, so that p near 1 does not vanish in 1 - p.

    Args:
        log_probabilities: (N, C), finite.
        y: class indices, (N,).
    """
    rows = np.arange(len(y))
    own = log_probabilities[rows, y]
    others = log_probabilities.copy()
    others[rows, y] = -np.inf
    best = others.max(axis=1)
    rest = best + np.log(np.exp(others - best[:, None]).sum(axis=1))
    return RecordScores(own - rest, own, own - best, (others > own[:, None]).sum(axis=1).astype(np.float64))


def log_softmax(logits: Doubles) -> Doubles:
    """Log-probabilities of logits, (N, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def log_of_probabilities(probabilities: Doubles) -> Doubles:
    """Log-probabilities of probabilities, (N, C); an exact zero counts as half of the smallest number that is not zero.

    A quantised or saturated softmax says zero for whatever is below its step. A smaller stand-in would make one such record an
    outlier that decides the fit of an attack.
    """
    values = np.clip(probabilities, 0.0, None)
    positive = values[values > 0]
    floor = float(positive.min()) / 2 if len(positive) else 1.0
    return log_softmax(np.log(np.maximum(values, floor)))
