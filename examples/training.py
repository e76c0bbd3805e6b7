"""One training loop for teachers and students: labels alone, a teacher's soft labels, or a teacher's inner representation.

The same seed gives the same weights on the same machine with one thread. There is no early stopping: the rate falls to zero
and the last weights count, so that no held-out row chooses among epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

Kind = Literal["plain", "soft-label", "representation"]
KINDS: tuple[Kind, ...] = ("plain", "soft-label", "representation")
_EVALUATION_ROWS = 1024


@dataclass(frozen=True)
class Rows:
    """Rows to train on.

    ``x``: float32, (N, channels, steps). ``y``: int64, (N,). ``aid``: float32, (N,), a second target that helps training and
    is no output of what ships; or ``None``.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    aid: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Plan:
    """How to train.

    ``aid_weight``: of the squared error of the second target. ``temperature``, ``soft_share``: of soft labels (Hinton 2015):
    the share of the loss that comes from the teacher. ``hint_weight``: of the squared distance between the student's
    representation, mapped by a linear layer, and the teacher's (FitNets, Romero 2015). ``augment``: changes a batch of inputs.
    """

    epochs: int
    learning_rate: float
    batch_rows: int = 64
    weight_decay: float = 1e-3
    aid_weight: float = 0.0
    temperature: float = 2.0
    soft_share: float = 0.9
    hint_weight: float = 1.0
    augment: Callable[[Any], Any] | None = None


class Net(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A network in three parts: ``embed`` gives the representation, ``head`` the class scores, ``aid`` the second target."""

    def __init__(self, embed: Any, *, width: int, classes: int, with_aid: bool = False) -> None:
        super().__init__()
        self.embed, self.width = embed, width
        self.head = nn.Linear(width, classes)
        self.aid = nn.Linear(width, 1) if with_aid else None

    def forward(self, x: Any) -> Any:
        """Class scores, (N, classes)."""
        return self.head(self.embed(x))

    def shipped(self) -> Any:
        """The same network without what only training needs."""
        return nn.Sequential(self.embed, self.head).eval()

    @property
    def parameters_shipped(self) -> int:
        """Number of weights in what ships."""
        return sum(weight.numel() for part in (self.embed, self.head) for weight in part.parameters())


def train(make: Callable[[], Net], rows: Rows, plan: Plan, *, seed: int, kind: Kind = "plain", teacher: Net | None = None) -> Net:
    """Trains a new network.

    Args:
        make: builds it; called under the seed.
        rows: what to train on.
        plan: how.
        seed: of weights, order and augmentation.
        kind: what a student learns from.
        teacher: trained; needed for every kind but ``plain``.
    """
    if (teacher is None) != (kind == "plain"):
        raise ValueError("a teacher, and a kind that uses it, go together")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = make()
    net.train()
    teacher = None if teacher is None else copy.deepcopy(teacher).eval()
    hint = nn.Linear(net.width, teacher.width) if teacher is not None and kind == "representation" else None
    weights = [*net.parameters(), *(hint.parameters() if hint is not None else ())]
    optimiser = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    batches = -(-len(rows) // plan.batch_rows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.learning_rate, total_steps=plan.epochs * batches)
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    aid = None if rows.aid is None else torch.from_numpy(rows.aid)
    taught = None if teacher is None or plan.augment is not None else _represent(teacher, x)
    for _ in range(plan.epochs):
        for picked in torch.randperm(len(rows)).split(plan.batch_rows):
            if len(picked) < 2:  # batch normalisation has no spread over one row
                continue
            inputs = x[picked] if plan.augment is None else plan.augment(x[picked])
            wanted = None
            if teacher is not None:
                wanted = _represent(teacher, inputs) if taught is None else taught[picked]
            loss = _loss(
                net, inputs, y[picked], None if aid is None else aid[picked], plan, teacher=teacher, wanted=wanted, hint=hint
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()
    return net


def _represent(teacher: Net, x: Any) -> Any:
    """The teacher's representation of rows, (N, width). Once for all epochs where inputs do not change."""
    with torch.no_grad():
        return torch.cat([teacher.embed(part) for part in x.split(_EVALUATION_ROWS)])


def _loss(net: Net, inputs: Any, y: Any, aid: Any, plan: Plan, *, teacher: Net | None, wanted: Any, hint: Any) -> Any:
    inner = net.embed(inputs)
    logits = net.head(inner)
    loss = functional.cross_entropy(logits, y)
    if aid is not None and net.aid is not None:
        loss = loss + plan.aid_weight * functional.mse_loss(net.aid(inner)[:, 0], aid)
    if teacher is None:
        return loss
    if hint is not None:
        return loss + plan.hint_weight * functional.mse_loss(hint(inner), wanted)
    with torch.no_grad():
        taught = teacher.head(wanted)
    heat = plan.temperature
    soft = functional.kl_div(
        torch.log_softmax(logits / heat, 1), torch.log_softmax(taught / heat, 1), log_target=True, reduction="batchmean"
    )
    return (1 - plan.soft_share) * loss + plan.soft_share * heat * heat * soft
