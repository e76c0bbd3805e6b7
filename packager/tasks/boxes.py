"""Detection: do a detector's raw outputs say the same as the original's? No labels, no decoding of anchors.

For outputs class scores (N, A, C) and boxes (N, A, 4), A anchors. An anchor is *found* where its best class has a score of at
least 0.5 and is not the background (the class, if any, that more than half of all anchors show with at least 0.5). Counted are
the anchors that the original or the variant finds. One agrees if both show the same class, the weaker of them with at least 0.4
(so that a score on the edge is no loss), and the two boxes overlap by an intersection over union of at least 0.5
(``detection-agreement``) or 0.9 (``detection-agreement-90``). A row scores the share of its counted anchors that agree, 1 where
nothing is found by either; the figure is the mean over rows.

What it does not show: how good either is. Overlapping boxes are not suppressed, so one object counts as many times as it has
anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packager.resampling import Floats
from packager.tasks.mean import Mean
from packager.tasks.metric import Array, Metric, Outputs, Unit

FOUND, EDGE = 0.5, 0.4
MIN_ROWS = 10  # with something found: fewer say nothing about a detector
OVERLAPS = {"detection-agreement": 0.5, "detection-agreement-90": 0.9}
_MOSTLY = 0.99


@dataclass(frozen=True)
class Detector:
    """Names of both outputs, and how they are read, fixed by what the original's look like.

    ``scale``: ``probability``, or ``softmax`` or ``sigmoid`` of logits. ``form``: ``corners`` (x1, y1, x2, y2), ``centre`` (x, y,
    width, height), or ``offsets``, which are not decoded: they agree within a tenth of the original's length per anchor.
    """

    scores: str
    boxes: str
    scale: str
    form: str
    background: int | None


def find_detector(outputs: Outputs) -> Detector | None:
    """The pair of outputs that looks like a detector's, or ``None``; also where too few rows show anything."""
    names = [name for name, array in outputs.items() if array.dtype.kind == "f" and array.ndim == 3]
    for boxes in sorted(names, key=lambda name: "box" not in name.lower() and "loc" not in name.lower()):
        for scores in names:
            same = outputs[scores].shape[:2] == outputs[boxes].shape[:2]
            if scores != boxes and same and outputs[boxes].shape[2] == 4 and outputs[boxes].shape[1] > 1:
                return _read(outputs, scores, boxes)
    return None


def detection(kind: str, detector: Detector, reference: Outputs) -> Metric:
    """Share of found anchors that agree; drops in points."""
    original = _Found(reference, detector)
    overlap = OVERLAPS[kind]

    def score(outputs: Outputs) -> Floats:
        variant = _Found(outputs, detector)
        counted = original.found | variant.found
        weaker = np.minimum(original.best, variant.best)
        same = counted & (original.classes == variant.classes) & (weaker >= EDGE)
        rows, anchors = np.nonzero(same)
        near = _near(original.boxes[rows, anchors], variant.boxes[rows, anchors], form=detector.form, overlap=overlap)
        agreed = np.bincount(rows, weights=near, minlength=len(counted))
        total = counted.sum(axis=1)
        return np.where(total > 0, agreed / np.maximum(total, 1), 1.0)

    return Metric(kind, Unit.POINTS, Mean(), score, (detector.scores, detector.boxes), to_original=True)


class _Found:
    """Per anchor: best class that is not the background, its score, whether that is a finding, and the box."""

    def __init__(self, outputs: Outputs, detector: Detector) -> None:
        scores = _probabilities(outputs[detector.scores], detector.scale)
        if detector.background is not None:
            scores = np.delete(scores, detector.background, axis=2)
        self.classes: NDArray[np.int64] = scores.argmax(axis=2)
        self.best: Array = scores.max(axis=2)
        self.found: NDArray[np.bool_] = self.best >= FOUND
        self.boxes: Array = outputs[detector.boxes]


def _read(outputs: Outputs, scores: str, boxes: str) -> Detector | None:
    values = outputs[scores]
    scale = "probability" if values.min() >= 0 and values.max() <= 1 else "sigmoid" if values.shape[2] == 1 else "softmax"
    background = _background(_probabilities(values, scale))
    if scale == "softmax" and background is None:  # no class dominates: scores of independent classes
        scale = "sigmoid"
    if background is not None and values.shape[2] == 1:
        background = None
    draft = Detector(scores, boxes, scale, "offsets", background)
    found = _Found(outputs, draft)
    if found.found.any(axis=1).sum() < MIN_ROWS:
        return None
    return Detector(scores, boxes, scale, _form(outputs[boxes][found.found]), background)


def _probabilities(values: Array, scale: str) -> Array:
    if scale == "probability":
        return values
    if scale == "sigmoid":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
    shifted = np.exp(values - values.max(axis=2, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=2, keepdims=True))


def _background(scores: Array) -> int | None:
    shown = np.bincount(scores.argmax(axis=2)[scores.max(axis=2) >= FOUND], minlength=scores.shape[2])
    top = int(shown.argmax())
    return top if shown[top] > 0.5 * scores.shape[0] * scores.shape[1] else None


def _form(boxes: Array) -> str:
    """By the boxes of found anchors, (K, 4)."""
    if ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).mean() >= _MOSTLY:
        return "corners"
    if ((boxes[:, 2] > 0) & (boxes[:, 3] > 0)).mean() >= _MOSTLY and bool((boxes[:, :2] >= 0).mean() >= _MOSTLY):
        return "centre"
    return "offsets"


def _near(one: Array, other: Array, *, form: str, overlap: float) -> NDArray[np.bool_]:
    one, other = one.astype(np.float64), other.astype(np.float64)
    if form == "offsets":
        lengths = np.maximum(np.linalg.norm(one, axis=1), 1e-6)
        return np.asarray(np.linalg.norm(one - other, axis=1) <= 0.1 * lengths)
    first, second = (_corners(boxes) if form == "centre" else boxes for boxes in (one, other))
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    shared = np.maximum(sides, 0.0).prod(axis=1)
    union = _area(first) + _area(second) - shared
    return np.asarray(shared >= overlap * np.maximum(union, 1e-12))


def _corners(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def _area(boxes: Array) -> Array:
    return np.asarray(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0).prod(axis=1))
