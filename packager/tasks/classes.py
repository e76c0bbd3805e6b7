"""Classification, and agreement with the original's classes: accuracy per row.

Shapes: class scores (N, C), or one label per position as in tagging and segmentation: (N, ..., C) or (N, C, ...); (N, C, 1, 1)
is (N, C). One score per row is a binary classifier: above 0.5 where the original's scores lie in [0, 1], else above 0 (a logit).
An output of integers holds the classes themselves. The label -100 marks a position that is not counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import UsageError
from packager.data import Dataset
from packager.resampling import Floats
from packager.tasks.mean import Mean
from packager.tasks.metric import Array, Metric, Outputs, Unit
from packager.tasks.ranking import Ranking

IGNORED = -100
MAX_CLASSES = 2**20


def class_scores(values: Array, positions: tuple[int, ...] = ()) -> Array | None:
    """``values`` as (N, positions, C), or ``None`` where they are no scores of at least two classes at these positions."""
    if not positions and values.ndim == 4 and 1 in (values.shape[1], values.shape[3]) and values.shape[2] == 1:
        values = values.reshape(len(values), -1)  # what is left of an image after pooling
    if values.dtype.kind != "f" or values.ndim != 2 + len(positions):
        return None
    if values.shape[1:-1] == positions and values.shape[-1] > 1:
        return values.reshape(len(values), -1, values.shape[-1])
    if positions and values.shape[2:] == positions and values.shape[1] > 1:
        return np.moveaxis(values, 1, -1).reshape(len(values), -1, values.shape[1])
    return None


def is_one_score(values: Array) -> bool:
    """Whether there is one floating-point number per row."""
    return values.dtype.kind == "f" and values.size == len(values)


def predictor(name: str, reference: Array, positions: tuple[int, ...]) -> Any:
    """A function from outputs to predicted classes (N, positions), fixed by what the original's output looks like."""
    if reference.dtype.kind in "iub":
        return lambda outputs: outputs[name].reshape(len(reference), -1)
    if class_scores(reference, positions) is not None:
        return lambda outputs: np.argmax(_scores(outputs[name], positions), axis=2)
    threshold = 0.5 if reference.min() >= 0 and reference.max() <= 1 else 0.0
    return lambda outputs: (outputs[name].reshape(len(reference), -1) > threshold).astype(np.int64)


def accuracy(name: str, reference: Array, labels: Array) -> Metric:
    """Share of rows whose class is the label; over positions, the share of all counted positions."""
    predict, wanted = predictor(name, reference, labels.shape[1:]), labels.reshape(len(labels), -1).astype(np.int64)
    return _share("accuracy", name, lambda outputs: predict(outputs) == wanted, counted=wanted != IGNORED, to_original=False)


def agreement(name: str, reference: Array, positions: tuple[int, ...]) -> Metric:
    """Share of rows (of all positions) whose top class is the original's."""
    predict = predictor(name, reference, positions)
    wanted = predict({name: reference})
    return _share(
        "agreement", name, lambda outputs: predict(outputs) == wanted, counted=np.ones(wanted.shape, dtype=bool), to_original=True
    )


def ranking(kind: str, name: str, reference: Array, labels: Array) -> Metric:
    """Area under the ROC curve or average precision of a binary classifier, by the score of class 1 (less that of class 0)."""
    positive = np.asarray(labels.reshape(len(labels)) == 1)

    def score(outputs: Outputs) -> Floats:
        values = np.asarray(outputs[name], dtype=np.float64)
        if is_one_score(values):
            return values.reshape(len(values))
        scores = _scores(values, ())
        return np.asarray(scores[:, 0, 1] - scores[:, 0, 0])

    return Metric(kind, Unit.POINTS, Ranking(positive, kind == "average-precision"), score, (name,))


def check_labels(labels: Array, *, classes: int, where: str) -> None:
    """One whole number in range per row or position, and more than one class.

    Raises:
        UsageError: other labels (``task_labels``), or only one class (``task_one_class``).
    """
    whole = labels.dtype.kind in "iub" or (classes == 2 and bool(np.isin(labels, (0.0, 1.0)).all()))
    counted = labels[labels != IGNORED] if labels.ndim > 1 else labels
    if not whole or not counted.size or counted.min() < 0 or counted.max() >= classes:
        span = f", {counted.min()}..{counted.max()}" if counted.size else ", none counted"
        raise UsageError(
            "labels do not fit the model's classes",
            code="task_labels",
            where=where,
            expected=f"one integer in 0..{classes - 1} per row or position",
            actual=f"{labels.dtype} {labels.shape}{span}",
            hint="number the classes from 0, in the order of the model's scores",
        )
    if counted.min() == counted.max():
        raise UsageError(
            "the labels name one class only: nothing could be told from them",
            code="task_one_class",
            where=where,
            expected="rows of at least two classes in each part that is judged",
            actual=f"class {int(counted.min())} in all {counted.size}",
            hint="give more rows, or a 'split' array that puts every class into each part",
        )


def _share(name: str, output: str, right: Any, *, counted: NDArray[np.bool_], to_original: bool) -> Metric:
    """One position per row: 0/1 scores. Several: how many are right and how many count, so that a row is drawn as a whole."""
    single = counted.shape[1] == 1

    def score(outputs: Outputs) -> Floats:
        hits = right(outputs) & counted
        if single:
            return np.asarray(hits[:, 0], dtype=np.float64)
        return np.stack([hits.sum(axis=1), counted.sum(axis=1)], axis=1).astype(np.float64)

    return Metric(name, Unit.POINTS, Mean(binary=single), score, (output,), to_original=to_original)


def _scores(values: Array, positions: tuple[int, ...]) -> Array:
    found = class_scores(values, positions)
    if found is None:
        raise ValueError(f"no class scores: {values.shape}")  # the caller looked at the original's, which has this shape
    return found


def looks_like_classes(name: str, values: Array, data: Dataset) -> bool:
    """Whether an output without labels is taken for class scores: (N, C) that is no input's shape, name or unit vector.

    A guess, for nothing in a file says so: a distribution over classes always counts, an embedding or a reconstruction should
    not. ``task`` in the recipe decides where the guess is wrong.
    """
    scores = class_scores(values)
    if scores is None:
        return False
    rows = scores[:, 0, :].astype(np.float64)
    if is_distribution(rows):
        return True
    if any(word in name.lower() for word in ("embed", "feature", "hidden", "state", "recon", "latent")):
        return False
    if any(array.shape == values.shape for array in data.inputs.values()):
        return False
    return not bool(np.allclose(np.square(rows).sum(axis=1), 1.0, atol=1e-3))


def is_distribution(values: Array) -> bool:
    """Whether the last axis holds probabilities that sum to one."""
    return bool(values.min() >= 0) and bool(np.allclose(values.sum(axis=-1), 1.0, atol=1e-3))
