"""The one training loop: fixed seeds, fixed threads, fixed order of batches, the best epoch by the validation part.

Every technique that trains does so here. AdamW with a short warm-up and a cosine to zero. The same module, rows, plan and
seed give the same weights on the same kind of CPU; another CPU may sum in another order.

    history = train_module(module, train, validation, task=..., plan=..., seed=...)   # module: trained in place, eval mode

Does not export, choose a model, or look at the test part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from device_client.errors import UsageError
from packager.data import Dataset
from packager.torch_run import torch_reproducible
from packager.train.objective import Head, SoftLabels, TaskLoss, find_head, soft_loss, task_loss
from packager.train.rows import Batch, Rows, as_outputs, make_rows
from packager.training_plan import TrainingPlan

WARM_UP_SHARE = 0.1  # of all steps
WEIGHT_DECAY = 1e-4
MAX_GRADIENT_NORM = 5.0
_ORDER_STREAM = 0x0DE5


class StepHook(Protocol):
    """Called after every optimiser step, for masks and the like."""

    def __call__(self, step: int, steps: int) -> None:
        """``step``: from 1 to ``steps``."""
        ...


@dataclass(frozen=True)
class Extra:
    """A further loss of a technique: ``loss`` of (outputs, batch), and what it trains besides the module."""

    loss: Callable[[tuple[Any, ...], Batch], Any]
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TrainingHistory:
    """What a run did. ``best_epoch``: from 1; 0 if nothing was trained. Losses per epoch; ``correct``: shares in [0, 1]."""

    loss: str
    rows: int
    epochs: int
    best_epoch: int
    train_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    validation_correct: tuple[float, ...]

    @property
    def best_loss(self) -> float:
        """Validation loss of the epoch kept, or the training loss without a validation part; infinity before any."""
        losses = self.validation_losses or self.train_losses
        return losses[self.best_epoch - 1] if losses and self.best_epoch else math.inf

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: share of right classes where there are any, then the negative loss."""
        correct = self.validation_correct[self.best_epoch - 1] if self.validation_correct and self.best_epoch else 0.0
        return correct, -self.best_loss

    def to_json(self) -> dict[str, object]:
        """As it stands in the evidence; rounded, so that the last bits of a sum do not change the digest."""
        found: dict[str, object] = {"loss": self.loss, "rows": self.rows, "epochs": self.epochs, "best_epoch": self.best_epoch}
        if self.best_epoch:
            found["best_loss"] = round(self.best_loss, 6)
            found["chosen_by"] = "validation part" if self.validation_losses else "last epoch: there is no validation part"
            if self.validation_correct:
                found["validation_correct"] = round(self.validation_correct[self.best_epoch - 1], 6)
        return found


def train_module(
    module: Any,
    train: Dataset,
    validation: Dataset | None,
    *,
    task: str,
    plan: TrainingPlan,
    seed: int,
    teacher: SoftLabels | None = None,
    extra: Extra | None = None,
    hook: StepHook | None = None,
    first_epoch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingHistory:
    """Trains ``module`` in place and leaves it in eval mode with the weights of the best epoch.

    Args:
        module: a torch module on the CPU.
        train: rows to train on; for reconstructions only the normal ones of them are used.
        validation: rows to choose the epoch by; ``None``: the last epoch is kept.
        task: of the recipe, decided.
        plan: epochs, learning rate, rows per batch, loss, threads.
        seed: of dropout, of the order of rows and of anything else that draws.
        teacher: outputs to imitate on ``train``; needed where there are no labels.
        extra: a further loss.
        hook: called after every step.
        first_epoch: earlier ones are not kept, for schedules that end later; from 1.
        progress: called with (epoch, epochs).

    Raises:
        UsageError: no labels and no teacher, the module fails on the rows, or the loss is no longer finite.
    """
    with torch_reproducible(seed, threads=plan.threads):
        try:
            return _Run(module, train, validation, task=task, plan=plan, teacher=teacher, extra=extra).train(
                seed=seed, hook=hook, first_epoch=min(first_epoch, plan.epochs), progress=progress
            )
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as e:
            raise UsageError(
                f"the module cannot be trained on these rows: {' '.join(str(e).split())[:200]}",
                code="train_failed",
                where=train.where,
                hint="check the module's forward, the labels and the loss with one batch",
            ) from e
        finally:
            module.eval()


class _Run:
    """One call of ``train_module``: tensors and losses, ready."""

    def __init__(
        self,
        module: Any,
        train: Dataset,
        validation: Dataset | None,
        *,
        task: str,
        plan: TrainingPlan,
        teacher: SoftLabels | None,
        extra: Extra | None,
    ) -> None:
        self._module, self._plan, self._teacher, self._extra = module.eval(), plan, teacher, extra
        self._rows = make_rows(module, train)
        self._task = task_loss(module, self._rows, task=task, plan=plan)
        if self._task is None and teacher is None:
            raise UsageError(
                "there is nothing to train for: the rows have no labels, and there is no teacher",
                code="train_labels",
                where=train.where,
                hint="give 'y' with the data",
            )
        head = self._task.head if self._task is not None else find_head(module, self._rows, task=task)
        self._soft = None if teacher is None else soft_loss(head, teacher)
        self._name = "the teacher's outputs" if self._task is None else self._task.name
        self._usable = usable_rows(self._rows, self._task)
        held = None if validation is None or self._task is None else make_rows(module, validation)
        self._held = None if held is None else held.batch(usable_rows(held, self._task))

    def train(
        self, *, seed: int, hook: StepHook | None, first_epoch: int, progress: Callable[[int, int], None] | None
    ) -> TrainingHistory:
        import torch

        plan = self._plan
        parameters = [p for p in (*self._module.parameters(), *(self._extra.parameters if self._extra else ())) if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY, foreach=False)
        steps = plan.epochs * len(self._order(np.random.default_rng(0)))
        done, best, kept, kept_epoch = 0, (-math.inf, -math.inf), None, 0
        losses, held_losses, held_correct = [], [], []
        for epoch in range(1, plan.epochs + 1):
            self._module.train()
            total = 0.0
            order = self._order(np.random.default_rng([seed, _ORDER_STREAM, epoch]))
            for rows in order:
                _set_rate(optimiser, plan.learning_rate, step=done, steps=steps)
                total += self._step(optimiser, parameters, rows)
                done += 1
                if hook is not None:
                    hook(done, steps)
            losses.append(total / len(order))
            correct = None
            if self._held is not None:
                loss, correct = self._judge(self._held)
                held_losses.append(loss)
                held_correct += [] if correct is None else [correct]
            mark = (correct or 0.0, -held_losses[-1]) if held_losses else (0.0, float(epoch))
            if epoch >= first_epoch and mark > best:
                best, kept_epoch = mark, epoch
                kept = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}
            if progress is not None:
                progress(epoch, plan.epochs)
        if kept is not None:
            self._module.load_state_dict(kept)
        count = len(self._usable)
        return TrainingHistory(self._name, count, plan.epochs, kept_epoch, tuple(losses), tuple(held_losses), tuple(held_correct))

    def _order(self, rng: np.random.Generator) -> list[Any]:
        """Places of the rows of each batch; a last batch of one row, which batch normalisation cannot take, is left out."""
        import torch

        order, size = rng.permutation(len(self._usable)), self._plan.batch_rows
        batches = [self._usable[torch.from_numpy(order[start : start + size])] for start in range(0, len(order), size)]
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def _step(self, optimiser: Any, parameters: list[Any], rows: Any) -> float:
        import torch

        batch = self._rows.batch(rows)
        optimiser.zero_grad(set_to_none=True)
        loss = self._loss(as_outputs(self._module(*batch.inputs)), batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UsageError(
                "the loss is no longer finite",
                code="train_diverged",
                expected="a finite loss",
                actual=value,
                hint="lower learning_rate in [train]",
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM, foreach=False)
        optimiser.step()
        return value

    def _loss(self, outputs: tuple[Any, ...], batch: Batch) -> Any:
        weight = 0.0 if self._teacher is None else self._teacher.weight
        if self._task is None:
            weight = 1.0
        total: Any = 0.0
        if self._task is not None and weight < 1.0:
            total = total + (1.0 - weight) * self._task.loss(outputs, batch)
        if self._soft is not None and weight > 0.0:
            total = total + weight * self._soft(outputs, batch)
        if self._extra is not None:
            total = total + self._extra.loss(outputs, batch)
        return total

    def _judge(self, held: Batch) -> tuple[float, float | None]:
        if self._task is None:
            raise ValueError("a validation part needs the task's loss")
        return judge_batch(self._module, held, self._task)


def judge_module(module: Any, data: Dataset, *, task: str, plan: TrainingPlan) -> tuple[float, float | None] | None:
    """Loss of the task, and share of right classes, on a part; ``None`` where there are no labels."""
    with torch_reproducible(0, threads=plan.threads):
        rows = make_rows(module, data)
        found = task_loss(module, rows, task=task, plan=plan)
        return None if found is None else judge_batch(module, rows.batch(usable_rows(rows, found)), found)


def judge_batch(module: Any, held: Batch, task: TaskLoss) -> tuple[float, float | None]:
    """Loss and share of right classes, in eval mode, in blocks of rows."""
    import torch

    module.eval()
    rows = Rows(held.inputs, held.labels)
    loss = correct = 0.0
    with torch.no_grad():
        for batch in rows.batches():
            outputs, share = as_outputs(module(*batch.inputs)), len(batch.rows) / len(rows)
            loss += share * float(task.loss(outputs, batch))
            correct += share * float(task.correct(outputs, batch)) if task.correct is not None else 0.0
    return loss, None if task.correct is None else correct


def usable_rows(rows: Rows, task: TaskLoss | None) -> Any:
    """Places of the rows that count: all, but for a reconstruction only those labelled 0, which are the normal ones."""
    import torch

    if task is not None and task.head is Head.RECONSTRUCTION and rows.labels is not None:
        normal = torch.nonzero(rows.labels.reshape(len(rows), -1)[:, 0] == 0).reshape(-1)
        if not len(normal):
            raise UsageError(
                "no row is labelled normal",
                code="train_labels",
                expected="label 0 for normal rows: a reconstruction learns from these",
                hint="mark normal rows with y = 0",
            )
        return normal
    return torch.arange(len(rows))


def _set_rate(optimiser: Any, rate: float, *, step: int, steps: int) -> None:
    """Linear warm-up over the first tenth of the steps, then half a cosine to zero."""
    warm = max(1, round(WARM_UP_SHARE * steps))
    factor = (step + 1) / warm if step < warm else 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    for group in optimiser.param_groups:
        group["lr"] = rate * factor
