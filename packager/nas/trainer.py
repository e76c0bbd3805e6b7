"""Trains one network on the training rows with the original as its teacher, and says how good it is on validation rows.

The one place of this package that touches ``packager.train``. Deterministic: weights, order of rows and epochs follow from
the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from packager.data import Dataset
from packager.nas.signature import Signature, as_logits
from packager.nas.space import Architecture
from packager.training_plan import TrainingPlan

if TYPE_CHECKING:
    from packager.nas.network import Network

Array = NDArray[Any]


@dataclass(frozen=True)
class Lessons:
    """What all networks of a search learn from and are judged by.

    ``teacher``, ``judged``: the original's outputs on ``train`` and on ``validation``, as the original gives them.
    """

    train: Dataset
    validation: Dataset
    teacher: Array
    judged: Array
    task: str
    signature: Signature
    seed: int
    threads: int
    teacher_weight: float
    temperature: float

    @property
    def original(self) -> float:
        """The original's own figure."""
        return self.metric(as_logits(self.judged, self.signature.head))

    def metric(self, scores: Array) -> float:
        """Share of right rows, or 1 - squared error / variance; higher is better.

        Without labels the original's outputs are what is right.
        """
        labels = self.validation.labels if self.task != "none" else None
        if self.signature.head == "values":
            wanted = (self.judged if labels is None else labels).astype(np.float64).reshape(len(scores), -1)
            error = np.square(scores.reshape(wanted.shape) - wanted).sum()
            return float(1.0 - error / max(float(np.square(wanted - wanted.mean(axis=0)).sum()), 1e-12))
        if self.signature.head in ("logit", "sigmoid"):
            truth = as_logits(self.judged, self.signature.head).reshape(-1) > 0 if labels is None else labels.reshape(-1) > 0
            return float(((scores.reshape(-1) > 0) == truth).mean())
        truth = self.judged.argmax(axis=1) if labels is None else labels
        return float((scores.argmax(axis=1) == truth).mean())


def build(plan: Architecture, lessons: Lessons) -> Network:
    """The network with its first weights, which follow from the seed."""
    from packager.nas.network import Network
    from packager.torch_run import torch_reproducible

    with torch_reproducible(lessons.seed):
        return Network(plan, lessons.signature)


def train(
    network: Network, lessons: Lessons, plan: TrainingPlan, *, after_epoch: Callable[[int, float], None] | None = None
) -> float:
    """Trains in place; returns the metric on the validation part.

    Args:
        network: from ``build``.
        lessons: what to learn.
        plan: how.
        after_epoch: called with the epoch and the metric by then; may raise to give up.
    """
    from packager.train.loop import train_module
    from packager.train.objective import SoftLabels

    rows, weight = lessons.train, lessons.teacher_weight
    if lessons.task == "none" or rows.labels is None:
        rows, weight = replace(rows, labels=None), 1.0
    held = None if rows.labels is None else lessons.validation
    soft = SoftLabels((as_logits(lessons.teacher, lessons.signature.head),), weight=weight, temperature=lessons.temperature)

    def watch(epoch: int, _epochs: int) -> None:
        if after_epoch is not None:
            after_epoch(epoch, judge(network, lessons))

    train_module(
        network,
        rows,
        held,
        task=lessons.task,
        plan=plan,
        seed=lessons.seed,
        teacher=soft if weight > 0 else None,
        progress=watch,
    )
    return judge(network, lessons)


def judge(network: Network, lessons: Lessons) -> float:
    """The metric on the validation part; the network's mode stays as it was."""
    from packager.train.rows import forward_all, make_rows

    return lessons.metric(forward_all(network, make_rows(network, lessons.validation))[0].numpy())
