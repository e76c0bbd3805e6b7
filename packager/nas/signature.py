"""What the original takes and gives, so that a new network can stand in its place.

One input of floats, one output: row shapes, which axis holds channels, what kind of numbers come out. Found from the file
and from the original's outputs on training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel

TASKS = ("classification", "regression", "none")
_TINY = 1e-7


@dataclass(frozen=True)
class Signature:
    """``input_shape``, ``output_shape``: of one row. ``channel_axis``: in the row, or ``None`` where there is none.

    ``head``: ``logits``, ``softmax``, ``logit``, ``sigmoid`` or ``values``: what the original's numbers are.
    """

    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    channel_axis: int | None
    head: str

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return 1 if self.channel_axis is None else self.input_shape[self.channel_axis]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Sizes of the axes that are no channels: one or two of them."""
        return tuple(size for axis, size in enumerate(self.input_shape) if axis != self.channel_axis)

    @property
    def outputs(self) -> int:
        """Numbers per row."""
        return int(np.prod(self.output_shape, dtype=np.int64))


def read_signature(model: CheckedModel, outputs: NDArray[Any], *, task: str) -> Signature:
    """The original's signature.

    Args:
        model: the original.
        outputs: its first output on some rows, (N, ...).
        task: of the recipe, decided.

    Raises:
        UsageError: ``nas_model``: a task, inputs or outputs that these networks cannot stand in for.
    """
    problem = _problem(model, task)
    if problem:
        raise UsageError(
            "architecture search cannot stand in for this model",
            code="nas_model",
            where="technique nas",
            expected="one float input with one to three axes besides the batch, one float output, classification or regression",
            actual=problem,
            hint="leave the technique out for this model",
        )
    shape = tuple(int(size) for size in (model.inputs[0].shape or ())[1:])
    flat = outputs.reshape(len(outputs), -1)
    return Signature(
        model.inputs[0].name, model.outputs[0].name, shape, outputs.shape[1:], _channel_axis(shape), _head(flat, task=task)
    )


def as_logits(outputs: NDArray[Any], head: str) -> NDArray[np.float32]:
    """The original's outputs as what a network is trained to give: class scores, one score, or values."""
    if head == "softmax":
        return np.asarray(np.log(np.maximum(outputs, _TINY)), dtype=np.float32)
    if head == "sigmoid":
        kept = np.clip(outputs.astype(np.float64), _TINY, 1 - _TINY)
        return np.asarray(np.log(kept / (1 - kept)), dtype=np.float32)
    return outputs.astype(np.float32)


def _problem(model: CheckedModel, task: str) -> str | None:
    if task not in TASKS:
        return f"task {task}"
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return f"{len(model.inputs)} inputs, {len(model.outputs)} outputs"
    spec = model.inputs[0]
    if spec.dtype != "float32" or model.outputs[0].dtype != "float32":
        return f"input {spec.dtype}, output {model.outputs[0].dtype}"
    sizes = (spec.shape or ())[1:]
    if not 1 <= len(sizes) <= 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        return f"input shape {spec.shape}"
    return None


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """A row of one axis is a series; of two axes the shorter holds channels; of three the first or the last, if shorter."""
    if len(shape) == 1:
        return None
    return 0 if shape[0] <= shape[-1] else len(shape) - 1


def _head(flat: NDArray[Any], *, task: str) -> str:
    low, high = float(flat.min()), float(flat.max())
    if task != "classification":
        return "values"
    if flat.shape[1] == 1:
        return "sigmoid" if low >= 0.0 and high <= 1.0 else "logit"
    return "softmax" if low >= 0.0 and bool(np.allclose(flat.sum(axis=1), 1.0, atol=1e-3)) else "logits"
