"""What training minimises: the loss of the task, and the distance to a teacher's outputs.

What kind of output a module has (class scores, probabilities, one score, values, a reconstruction of its input) is found
out by running it, because a loss for logits on a softmax head trains almost nothing. Chooses no weights between losses and
draws no random number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.entrypoint import load_entry_point
from device_client.errors import UsageError
from packager.train.rows import Batch, Rows, as_outputs
from packager.training_plan import TrainingPlan

_TINY = 1e-7
_SHAPE_ONLY = ("View", "Reshape", "Squeeze", "Unsqueeze", "Select", "Alias", "Clone", "UnsafeView", "AsStrided")


class Head(Enum):
    """What the first output is."""

    LOGITS = "class scores"
    PROBABILITIES = "class probabilities"
    ONE_LOGIT = "one score"
    ONE_PROBABILITY = "one probability"
    VALUES = "values"
    RECONSTRUCTION = "a reconstruction of the input"


@dataclass(frozen=True)
class TaskLoss:
    """The loss of the task. ``name``: for the report. ``correct``: share of right classes of a batch, where there are any."""

    name: str
    head: Head
    loss: Callable[[tuple[Any, ...], Batch], Any]
    correct: Callable[[tuple[Any, ...], Batch], Any] | None = None


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's outputs for the rows that a student trains on.

    ``outputs``: per output of the module, float32 (N, ...); class scores as logits, or as log-probabilities, which are
    logits too. ``weight``: of the teacher, against 1 - ``weight`` for the labels, in [0, 1]. ``temperature``: of both.
    """

    outputs: tuple[NDArray[Any], ...]
    weight: float = 1.0
    temperature: float = 1.0


def task_loss(module: Any, rows: Rows, *, task: str, plan: TrainingPlan) -> TaskLoss | None:
    """The loss that a task and data call for, or ``None`` where there is nothing to compare with but a teacher.

    Classes: cross entropy, and its share of right rows; one score against labels 0 and 1: binary cross entropy; a
    reconstruction: mean squared error to the input; otherwise mean squared error to the labels.

    Raises:
        UsageError: labels that do not fit the module's output, or a ``loss`` that cannot be loaded.
    """
    head = find_head(module, rows, task=task)
    if plan.loss:
        return TaskLoss(plan.loss, head, _custom(plan.loss))
    if head is Head.RECONSTRUCTION:
        return TaskLoss("mean squared error of the reconstruction", head, _reconstruction)
    if rows.labels is None:
        return None
    if head in (Head.LOGITS, Head.PROBABILITIES):
        return TaskLoss("cross entropy", head, _cross_entropy(head), _right(head))
    if head in (Head.ONE_LOGIT, Head.ONE_PROBABILITY):
        return TaskLoss("binary cross entropy", head, _binary(head), _right_binary(head))
    return TaskLoss("mean squared error", head, _squared)


def find_head(module: Any, rows: Rows, *, task: str) -> Head:
    """What the module's first output is, from its shape, its labels and its last operation."""
    import torch

    batch = rows.batch(torch.arange(min(len(rows), 64)))
    with torch.enable_grad():
        output = as_outputs(module(*batch.inputs))[0]
    labels = batch.labels
    discrete = labels is not None and not labels.is_floating_point()
    flat = output.detach().reshape(len(output), -1)
    if task == "anomaly" and output.shape == batch.inputs[0].shape and flat.shape[1] > 1:
        return Head.RECONSTRUCTION
    if flat.shape[1] == 1 and (task == "anomaly" or (task == "classification" and discrete)):
        return Head.ONE_PROBABILITY if _ends_in(output, "Sigmoid") else Head.ONE_LOGIT
    classes = task in ("classification", "detection") or (discrete and task != "regression")
    if classes and output.ndim >= 2 and flat.shape[1] > 1:
        axis = _class_axis(output, labels)
        values = output.detach()
        sums = values.sum(dim=axis)
        normal = bool((values >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3))
        return Head.PROBABILITIES if normal else Head.LOGITS
    return Head.VALUES


def soft_loss(head: Head, soft: SoftLabels) -> Callable[[tuple[Any, ...], Batch], Any]:
    """Distance to the teacher: Kullback-Leibler at the temperature, times its square; values by mean squared error.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2. Further outputs than
    the first count by their mean squared error over the teacher's variance.
    """
    import torch

    targets = [torch.from_numpy(np.array(array, dtype=np.float32)) for array in soft.outputs]
    spreads = [float(target.var().clamp_min(_TINY)) if target.numel() > 1 else 1.0 for target in targets]
    degree = soft.temperature

    def loss(outputs: tuple[Any, ...], batch: Batch) -> Any:
        total = _first(as_logits(outputs[0], head), targets[0][batch.rows], head, degree, spreads[0])
        for output, target, spread in zip(outputs[1:], targets[1:], spreads[1:], strict=False):
            total = total + torch.nn.functional.mse_loss(output.float(), target[batch.rows]) / spread
        return total

    return loss


def as_logits(output: Any, head: Head) -> Any:
    """Class scores from whatever the head gives; values stay as they are."""
    import torch

    if head is Head.PROBABILITIES:
        return output.clamp_min(_TINY).log()
    if head is Head.ONE_PROBABILITY:
        return torch.logit(output, eps=_TINY)
    return output


def _first(logits: Any, target: Any, head: Head, degree: float, spread: float) -> Any:
    import torch

    functional = torch.nn.functional
    if head in (Head.LOGITS, Head.PROBABILITIES):
        axis = _class_axis(logits, None)
        student, teacher = (functional.log_softmax(values / degree, dim=axis) for values in (logits, target))
        distance = (teacher.exp() * (teacher - student)).sum(dim=axis).mean()
        return distance * degree * degree
    if head in (Head.ONE_LOGIT, Head.ONE_PROBABILITY):
        wanted = torch.sigmoid(target / degree)
        return functional.binary_cross_entropy_with_logits(logits / degree, wanted) * degree * degree
    return functional.mse_loss(logits, target) / spread


def _class_axis(output: Any, labels: Any) -> int:
    """Classes are the last axis of (N, C) and (N, T, C), and the second of (N, C, ...) where labels are (N, ...)."""
    if labels is not None and output.ndim > 2 and labels.shape == (output.shape[0], *output.shape[2:]):
        return 1 if labels.shape != output.shape[:-1] else -1
    return -1 if output.ndim <= 3 else 1


def _cross_entropy(head: Head) -> Callable[[tuple[Any, ...], Batch], Any]:
    import torch

    def loss(outputs: tuple[Any, ...], batch: Batch) -> Any:
        scores, labels = _scores(outputs, batch, head)
        return torch.nn.functional.nll_loss(torch.nn.functional.log_softmax(scores, dim=1), labels)

    return loss


def _right(head: Head) -> Callable[[tuple[Any, ...], Batch], Any]:
    def share(outputs: tuple[Any, ...], batch: Batch) -> Any:
        scores, labels = _scores(outputs, batch, head)
        return (scores.argmax(dim=1) == labels).float().mean()

    return share


def _scores(outputs: tuple[Any, ...], batch: Batch, head: Head) -> tuple[Any, Any]:
    """Logits (M, C) and labels (M,), whatever axes come between."""
    output, labels = as_logits(outputs[0], head), batch.labels
    axis = _class_axis(output, labels)
    scores = output.movedim(axis, -1)
    if scores.shape[:-1].numel() != labels.numel():
        raise _misfit(output, labels)
    return scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)


def _binary(head: Head) -> Callable[[tuple[Any, ...], Batch], Any]:
    import torch

    def loss(outputs: tuple[Any, ...], batch: Batch) -> Any:
        logits = as_logits(outputs[0], head).reshape(-1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.reshape(-1).float())

    return loss


def _right_binary(head: Head) -> Callable[[tuple[Any, ...], Batch], Any]:
    def share(outputs: tuple[Any, ...], batch: Batch) -> Any:
        logits = as_logits(outputs[0], head).reshape(-1)
        return ((logits > 0) == (batch.labels.reshape(-1) > 0)).float().mean()

    return share


def _squared(outputs: tuple[Any, ...], batch: Batch) -> Any:
    import torch

    output, labels = outputs[0], batch.labels
    if output.numel() != labels.numel():
        raise _misfit(output, labels)
    return torch.nn.functional.mse_loss(output, labels.reshape(output.shape).float())


def _reconstruction(outputs: tuple[Any, ...], batch: Batch) -> Any:
    import torch

    return torch.nn.functional.mse_loss(outputs[0], batch.inputs[0])


def _custom(entry: str) -> Callable[[tuple[Any, ...], Batch], Any]:
    function = load_entry_point(entry)

    def loss(outputs: tuple[Any, ...], batch: Batch) -> Any:
        import torch

        value = function(outputs[0] if len(outputs) == 1 else outputs, batch.labels)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise UsageError(
                "the loss function must return one number",
                code="train_loss",
                where=entry,
                expected="a torch tensor of one element",
                actual=type(value).__name__,
            )
        return value.reshape(())

    return loss


def _ends_in(output: Any, name: str) -> bool:
    """True if ``output`` comes from that operation, shapes apart."""
    step = output.grad_fn
    while step is not None:
        kind = type(step).__name__
        if kind.startswith(name):
            return True
        if not kind.startswith(_SHAPE_ONLY) or not step.next_functions:
            return False
        step = step.next_functions[0][0]
    return False


def _misfit(output: Any, labels: Any) -> UsageError:
    return UsageError(
        "labels do not have the shape of the module's output",
        code="train_labels",
        expected=f"one label for each score of {tuple(output.shape)}",
        actual=tuple(labels.shape),
        hint='set the task, or give a loss function: loss = "module:function" in [train]',
    )
