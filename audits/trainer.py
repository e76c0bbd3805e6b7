"""The seam to training: what shadow models, twins and fixes are trained with.

Audits never train a model of their own choosing: the auditor names the function that trained the model under audit. It runs in a
child of its own (``audits/isolated``), without keys and without network. What comes back is bytes, which the device's walker
must accept like any other model.

The entry point is ``train(x, y, *, seed)``: float32 records (N, ...), int64 class indices (N,), an integer. It returns a torch
module (exported in the child) or ONNX bytes, with the audited model's input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np

from audits.data import Floats, Integers
from audits.isolated.limits import IsolationLimits
from audits.isolated.process import Job, run_tasks
from device_client.entrypoint import is_entry_point
from device_client.errors import SealiftError, UsageError
from device_client.inference.walker import CheckedModel, check_model

Report = Callable[[str], None]
_MAX_TASKS = 4096


@dataclass(frozen=True)
class Training:
    """One training: which rows of the given records, repeats allowed, and the seed of everything random in it."""

    rows: Integers
    seed: int


class Trainer(Protocol):
    """Trains a model on given records, the way the audited one was."""

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        """ONNX bytes of a model with the audited one's input and output.

        Args:
            x: records, (N, ...).
            y: class indices, (N,).
            seed: of everything random in the training.
        """


@runtime_checkable
class ManyTrainer(Protocol):
    """A trainer that is better asked for many models at once."""

    def train_many(self, x: Floats, y: Integers, trainings: Sequence[Training], *, report: Report) -> tuple[bytes, ...]:
        """ONNX bytes for each training, in order; ``report`` gets a line for each."""


def train_all(trainer: Trainer, x: Floats, y: Integers, trainings: Sequence[Training], *, report: Report) -> tuple[bytes, ...]:
    """Trains every model, in one go where the trainer can."""
    if isinstance(trainer, ManyTrainer):
        return trainer.train_many(x, y, trainings, report=report)
    made = []
    for index, training in enumerate(trainings):
        made.append(trainer.train(x[training.rows], y[training.rows], seed=training.seed))
        report(f"trained {index + 1} of {len(trainings)}")
    return tuple(made)


def isolation_of(trainer: Trainer | None) -> str:
    """How a trainer's code was kept apart, in plain words."""
    return str(getattr(trainer, "isolation", "not isolated: the trainer is part of the calling program"))


class ChildTrainer:
    """The auditor's training function, in a child process.

    Args:
        entry_point: ``module:function``, importable from the folder of the command.
        like: the audited model; names the exported module's input and output, and what comes back must have its shapes.
        limits: bounds of the child.
        fix: what the training changes, for a function that takes it (``audits/mitigate/training``); empty for the usual training.

    Attributes:
        isolation: what held for the last child, in plain words.

    Raises:
        UsageError: not an entry point (``entry_point``).
    """

    def __init__(
        self,
        entry_point: str,
        *,
        like: CheckedModel,
        limits: IsolationLimits | None = None,
        fix: Mapping[str, Any] | None = None,
    ) -> None:
        if not is_entry_point(entry_point):
            raise UsageError(
                "not module:function", code="entry_point", where=entry_point, hint="give the training as module:function"
            )
        self._entry = entry_point
        self._like = like
        self._limits = limits or IsolationLimits()
        self._fix = dict(fix or {})
        self.isolation = "nothing was trained"

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        """See ``Trainer``.

        Raises:
            SealiftError: see ``train_many``.
        """
        return self.train_many(x, y, [Training(np.arange(len(x), dtype=np.int64), seed)], report=lambda _: None)[0]

    def train_many(self, x: Floats, y: Integers, trainings: Sequence[Training], *, report: Report) -> tuple[bytes, ...]:
        """All trainings one after another in one child, since importing a framework costs seconds.

        Raises:
            SealiftError: what ``isolated.process.run_tasks`` says.
            VerificationError: the walker refuses a model.
            UsageError: a model that does not have the audited one's input and output (``trainer_model``), or a training that
                says it cannot do what the fix asks (``fix_unavailable``).
        """
        if not 1 <= len(trainings) <= _MAX_TASKS:
            raise ValueError(f"1 to {_MAX_TASKS} trainings at once")
        job = Job(
            entry=self._entry,
            kind="train",
            tasks=len(trainings),
            options={
                "seeds": [training.seed for training in trainings],
                "starts": list(accumulate((len(training.rows) for training in trainings), initial=0)),
                "input": self._like.inputs[0].name,
                "output": self._like.outputs[0].name,
                "fix": self._fix,
            },
            arrays={"x": x, "y": y, "rows": np.concatenate([training.rows for training in trainings])},
            told="trained",
        )
        made = run_tasks(job, limits=self._limits, report=report)
        self.isolation = made.isolation
        for index, data in enumerate(made.results):
            self._check(data, where=f"training {index} of {self._entry}")
        return made.results

    def _check(self, data: bytes, *, where: str) -> None:
        """What ran in the child is not believed: walker first, then shapes."""
        if not data and not self._fix:
            raise UsageError(
                "the training raised NotImplementedError",
                code="trainer_model",
                where=where,
                hint="let the training make the audited model when nothing else is asked of it",
            )
        if not data:
            raise UsageError(
                "the training cannot do what the fix asks",
                code="fix_unavailable",
                where=where,
                actual=", ".join(sorted(self._fix)),
                hint="this fix is left out; use its keys in `train` to have it tried",
            )
        try:
            model = check_model(data, where=where)
        except SealiftError as e:
            raise UsageError("the trained model is refused", code="trainer_model", where=where, actual=str(e)[:200]) from e
        for kind, found, wanted in (("input", model.inputs, self._like.inputs), ("output", model.outputs, self._like.outputs)):
            if len(found) != 1 or not _same(found[0].shape, wanted[0].shape) or found[0].dtype != wanted[0].dtype:
                raise UsageError(
                    f"the trained model has another {kind}",
                    code="trainer_model",
                    where=where,
                    expected=f"{wanted[0].dtype} {wanted[0].shape}",
                    actual=", ".join(f"{spec.dtype} {spec.shape}" for spec in found)[:120],
                    hint="let the training make a model with the audited one's input and output",
                )


def _same(found: tuple[int | str, ...] | None, wanted: tuple[int | str, ...] | None) -> bool:
    """Equal but for the batch and for dimensions that one of them leaves open."""
    if found is None or wanted is None:
        return True
    return len(found) == len(wanted) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(found[1:], wanted[1:], strict=True)
    )
