"""Language modelling: perplexity of the next token.

Scores of a row are its summed negative log-likelihood and its number of counted tokens, so that sequences are drawn as a
whole: tokens of one text are no independent samples. A drop is the relative increase of perplexity.
"""

from __future__ import annotations

import numpy as np

from packager.data import Dataset
from packager.resampling import Floats
from packager.tasks.classes import IGNORED, is_distribution
from packager.tasks.mean import Mean
from packager.tasks.metric import Array, Metric, Outputs, Unit

_BLOCK_ELEMENTS = 4_000_000  # logits in float64 at a time: 32 MB
_SMALLEST = 1e-30  # probability of a token that the model rules out: finite, and far beyond any budget


def next_tokens(data: Dataset) -> Array | None:
    """Labels made of the input ids themselves, shifted by one and without a label at the end; ``None`` without ids (N, T)."""
    for array in data.inputs.values():
        if array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] > 1:
            shifted = np.full(array.shape, IGNORED, dtype=np.int64)
            shifted[:, :-1] = array[:, 1:]
            return shifted
    return None


def perplexity(name: str, reference: Array, labels: Array) -> Metric:
    """Exponential of the mean negative log-likelihood of ``labels`` (N, T) under logits, or probabilities, (N, T, V)."""
    probabilities = is_distribution(reference)
    counted = labels != IGNORED
    wanted = np.where(counted, labels, 0).astype(np.int64)

    def score(outputs: Outputs) -> Floats:
        losses = np.empty(labels.shape, dtype=np.float64)
        block = max(1, _BLOCK_ELEMENTS // max(1, reference[0].size))
        for start in range(0, len(labels), block):
            rows = slice(start, start + block)
            losses[rows] = _losses(outputs[name][rows], wanted[rows], probabilities=probabilities)
        return np.stack([np.where(counted, losses, 0.0).sum(axis=1), counted.sum(axis=1)], axis=1)

    return Metric("perplexity", Unit.RELATIVE, Mean(exponential=True), score, (name,), higher_is_better=False)


def _losses(values: Array, wanted: Array, *, probabilities: bool) -> Floats:
    chosen = np.take_along_axis(values, wanted[..., np.newaxis], axis=-1)[..., 0].astype(np.float64)
    if probabilities:
        return np.asarray(-np.log(np.maximum(chosen, _SMALLEST)))
    top = values.max(axis=-1).astype(np.float64)
    sums = np.exp(values.astype(np.float64) - top[..., np.newaxis]).sum(axis=-1)
    return np.asarray(np.minimum(np.log(sums) + top - chosen, -np.log(_SMALLEST)))
