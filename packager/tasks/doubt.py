"""Whether the original does so badly on the labels that these, or the task, are likely to be wrong. A warning, no error.

A figure that a constant answer would beat says nothing about compression: ruin could look like no loss.
"""

from __future__ import annotations

import numpy as np

from packager.tasks.classes import IGNORED
from packager.tasks.metric import Array


def doubt_about_labels(metric: str, value: float, labels: Array | None) -> str | None:
    """What to tell a person, or ``None``.

    Args:
        metric: by which the original was judged.
        value: its figure.
        labels: of the test part.
    """
    if labels is None:
        return None
    remedy = "check y, its order, and the task"
    if metric == "r2" and value < 0:
        return f"the original predicts y worse than the mean of y does (R2 {value:.4f}): {remedy}"
    if metric == "accuracy":
        constant = _commonest(labels)
        if value < constant:
            return f"the original is right less often ({value:.4f}) than one constant answer would be ({constant:.4f}): {remedy}"
    return None


def _commonest(labels: Array) -> float:
    """Share of the commonest label among those that count."""
    if labels.ndim > 1 and labels.size > len(labels) and labels.dtype.kind != "i":
        return 0.0  # one-hot or several numbers: not one label per place
    counted = labels[labels != IGNORED]
    _, counts = np.unique(counted, return_counts=True)
    return float(counts.max() / counted.size) if counted.size else 0.0
