"""Anomaly scores against labels 0 (normal) and 1 (anomaly).

The score is the output itself where there is one number per row, else the mean squared difference between the output and
the input of the same shape, which is what reconstructing networks are used for. A higher score means anomaly.
"""

from __future__ import annotations

import numpy as np

from packager.data import Dataset
from packager.resampling import Floats
from packager.tasks.classes import is_one_score
from packager.tasks.metric import Array, Metric, Outputs, Unit
from packager.tasks.ranking import Ranking


def is_scored(name: str, reference: Outputs, data: Dataset) -> bool:
    """Whether an output gives an anomaly score."""
    return is_one_score(reference[name]) or reconstructed_input(reference[name], data) is not None


def reconstructed_input(values: Array, data: Dataset) -> Array | None:
    """The first input with as many numbers per row as the output, both floating point, or ``None``."""
    for array in data.inputs.values():
        if array.dtype.kind == "f" and values.dtype.kind == "f" and array.size == values.size > len(values):
            return array
    return None


def anomaly(kind: str, name: str, reference: Outputs, labels: Array, data: Dataset) -> Metric:
    """Area under the ROC curve (``auc``) or ``average-precision``; drops in points."""
    wanted = None if is_one_score(reference[name]) else reconstructed_input(reference[name], data)
    rows = len(labels)

    def score(outputs: Outputs) -> Floats:
        values = outputs[name].reshape(rows, -1).astype(np.float64)
        return values[:, 0] if wanted is None else np.asarray(np.square(values - wanted.reshape(rows, -1)).mean(axis=1))

    return Metric(kind, Unit.POINTS, Ranking(np.asarray(labels.reshape(rows) == 1), kind == "average-precision"), score, (name,))
