"""A part of the data as torch tensors, in the order of the module's ``forward``.

Holds the whole part in memory, once: parts come from arrays that are in memory already. Decides no order of rows; that is
the loop's, by its seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from packager.data import Dataset

EVAL_ROWS = 256


@dataclass(frozen=True)
class Batch:
    """Some rows. ``rows``: int64 (B,), their places in the part. ``labels``: (B, ...) or ``None``."""

    rows: Any
    inputs: tuple[Any, ...]
    labels: Any


@dataclass(frozen=True)
class Rows:
    """All rows of a part: ``inputs`` in the module's order, float32 or integer, (N, ...)."""

    inputs: tuple[Any, ...]
    labels: Any

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batch(self, rows: Any) -> Batch:
        """The given rows, int64 (B,), in that order."""
        return Batch(rows, tuple(tensor[rows] for tensor in self.inputs), None if self.labels is None else self.labels[rows])

    def batches(self, size: int = EVAL_ROWS) -> Iterator[Batch]:
        """All rows in their own order."""
        import torch

        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))

    def example(self, count: int = 4) -> tuple[Any, ...]:
        """The first rows' inputs, at least two rows: what the module is traced with."""
        import torch

        rows = torch.arange(max(2, min(count, len(self)))) % len(self)
        return tuple(tensor[rows] for tensor in self.inputs)


def make_rows(module: Any, data: Dataset) -> Rows:
    """Tensors of a part, for ``module``."""
    names = input_names(module, len(data.inputs))
    order = names if set(names) == set(data.inputs) else list(data.inputs)
    return Rows(
        tuple(_tensor(data.inputs[name]) for name in order), None if data.labels is None else _tensor(data.labels, whole=np.int64)
    )


def input_names(module: Any, count: int) -> list[str]:
    """What an exported module's inputs are called: ``x`` for one, else the names in its ``forward``."""
    names = list(inspect.signature(module.forward).parameters)
    if count == 1:
        return ["x"]
    return names[:count] if len(names) >= count else [f"x{index}" for index in range(count)]


def forward_all(module: Any, rows: Rows) -> tuple[Any, ...]:
    """All outputs for all rows, in eval mode and without gradients: one tensor (N, ...) per output."""
    import torch

    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            parts = [as_outputs(module(*batch.inputs)) for batch in rows.batches()]
    finally:
        module.train(was_training)
    return tuple(torch.cat([part[index] for part in parts]) for index in range(len(parts[0])))


def as_outputs(result: Any) -> tuple[Any, ...]:
    """A module's result as a tuple of tensors."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _tensor(array: Any, *, whole: Any = None) -> Any:
    """Floats as float32; ``whole``: the type of integers, where the module does not decide it."""
    import torch

    wanted = np.float32 if array.dtype.kind == "f" else whole or array.dtype
    return torch.from_numpy(np.ascontiguousarray(array).astype(wanted))  # astype copies: torch must not share our arrays
