"""ART's MIFace on the bridge's program of the shipped file.

A reference: in version 1.20.1 the stop test of ART's MIFace is inverted, so it never stops on success, and with its default
threshold of 0.99 it leaves every class that starts below 1 % confidence after a single step, without a warning.
``threshold=1.0`` avoids the second; ``skipped_by_default`` counts what the default leaves. It decides nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from audits.inversion import InputRange
from audits.reference.importing import importable_art
from audits.whitebox import WhiteBox

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
DEFAULT_THRESHOLD = 0.99
_SAME = 1e-5  # two ways to sum the same step differ by less, as a share of the range
_MOVED = 1e-3  # largest change of an attacked image, as a share of the range, below which it was not attacked


def miface_reference(
    box: WhiteBox,
    start: Floats,
    *,
    bounds: InputRange,
    steps: int,
    rate: float,
    threshold: float = 1.0,
    batch: int | None = None,
) -> Floats:
    """ART's MIFace on the shipped file's tapped program, one image for each class.

    Args:
        box: the opened model.
        start: (C, ...), one starting point for each class.
        bounds: input range; ART clips to it.
        steps: ``max_iter``; ART uses all of them.
        rate: learning rate in input units.
        threshold: 1.0 keeps all classes; ``DEFAULT_THRESHOLD`` is what ART would use.
        batch: classes at a time; all where None.

    Raises:
        MissingExtraError: ART is not installed.
    """
    with importable_art():
        from art.attacks.inference.model_inversion import MIFace
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            _Probabilities(box),
            loss=nn.CrossEntropyLoss(),
            input_shape=start.shape[1:],
            nb_classes=len(start),
            clip_values=(bounds.low, bounds.high),
            device_type="cpu",
        )
        attack = MIFace(
            classifier, max_iter=steps, learning_rate=rate, threshold=threshold, batch_size=batch or len(start), verbose=False
        )
        found: Floats = attack.infer(start.copy(), np.arange(len(start))).astype(np.float32)
    return found


def skipped_by_default(box: WhiteBox, start: Floats, *, bounds: InputRange, steps: int, rate: float) -> Integers:
    """Classes that ART's MIFace leaves after one step by its defaults, though all its steps would move them.

    The defaults are a threshold of 0.99 and one class at a time. In larger batches a dropped class may come back after
    ``window_length`` steps, as long as another one still runs.
    """
    default = miface_reference(box, start, bounds=bounds, steps=steps, rate=rate, threshold=DEFAULT_THRESHOLD, batch=1)
    single = miface_reference(box, start, bounds=bounds, steps=1, rate=rate)
    complete = miface_reference(box, start, bounds=bounds, steps=steps, rate=rate)
    stopped = _change(default, single) <= _SAME * bounds.width
    moved = _change(complete, single) > _MOVED * bounds.width
    return np.flatnonzero(stopped & moved)


class _Probabilities(nn.Module):  # type: ignore[misc]  # torch comes without types here
    """The tapped program with a softmax, as a module; ART's cost is one minus a probability."""

    def __init__(self, box: WhiteBox) -> None:
        super().__init__()
        self._box = box

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.softmax(self._box.logits(x), dim=1)


def _change(one: Floats, other: Floats) -> Doubles:
    change: Doubles = np.abs(one.astype(np.float64) - other).reshape(len(one), -1).max(axis=1)
    return change
