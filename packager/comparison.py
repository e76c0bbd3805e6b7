"""Rows on which a model is compared before and after a change, and what the unchanged model gives for them.

Rows come from DATA where it fits, since small random numbers say little about a network that expects Celsius or token
numbers; else they are seeded noise, with sizes of dynamic axes that the model accepts. Used by ``prepare.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import FormatError, UsageError
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel, ValueSpec
from packager.feed import feed_rows, is_batched, row_shape
from packager.shrink import output_gap

logger = logging.getLogger(__name__)

ROWS = 2
_SIZES = (16, 1, 64, 256, 512, 1024, 4096, 16_000)  # of dynamic axes, tried in this order
_MAX_ELEMENTS = 4_000_000  # of one row of noise
_FLOOR = 1e-6  # outputs smaller than this are compared as if they were this large

Rows = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """Rows and what the unchanged model gives for each: ``expected[i]`` are the outputs of row i alone, as run."""

    rows: Rows
    expected: tuple[Outputs, ...]

    def run(self, model: CheckedModel) -> list[Outputs]:
        """The outputs of a model for each row alone."""
        with open_session(model) as session:
            typed = _typed(self.rows, session.inputs)
            return [session.run(feed_rows(session.inputs, typed, start=row)) for row in range(len(self.expected))]

    def gap(self, model: CheckedModel) -> tuple[float, str]:
        """The largest difference of any output over all rows, as a share of that output's size, and its name.

        Infinite where a shape differs or the runtime refuses the model.
        """
        worst, where = 0.0, ""
        try:
            for outputs, found in zip(self.expected, self.run(model), strict=True):
                for name, want in outputs.items():
                    share = _share(want, found[name])
                    if share > worst:
                        worst, where = share, name
        except FormatError as e:
            logger.info("%s", e.what)
            return np.inf, e.what
        return worst, where

    def batch_gap(self, model: CheckedModel) -> float:
        """How far the outputs of all rows in one run are from those of each alone; infinite where that does not run."""
        try:
            with open_session(model) as session:
                together = session.run(feed_rows(session.inputs, _typed(self.rows, session.inputs), count=len(self.expected)))
            alone = self.run(model)
        except FormatError as e:
            logger.info("%s", e.what)
            return np.inf
        worst = 0.0
        for row, outputs in enumerate(alone):
            for name, want in outputs.items():
                whole = together[name]
                fits = want.ndim > 0 and want.shape[0] == 1 and whole.ndim > 0 and whole.shape[0] == len(alone)
                worst = max(worst, _share(want, whole[row : row + 1]) if fits else np.inf)
        return worst


def make_comparison(
    model: CheckedModel, example: Mapping[str, NDArray[Any]], *, fixed_batch: int | None, where: str, basic: bool = False
) -> Comparison:
    """Finds rows that the unchanged model runs on, and runs it on each.

    Args:
        model: as it was given.
        example: rows of DATA by input name (``x`` where there is one input), or empty.
        fixed_batch: size of the first axis of every input, where it is fixed and above one; rows are then repeated to it.
        where: name for errors.
        basic: the runtime optimises little, as ``open_session`` explains.

    Raises:
        UsageError: the runtime cannot run the model (``model_runtime``).
    """
    failure: FormatError | None = None
    try:
        with open_session(model, basic=basic) as session:
            for rows in _candidates(model.inputs, example, fixed_batch=fixed_batch):
                try:
                    return Comparison(rows, tuple(_run(session, rows, fixed_batch=fixed_batch)))
                except FormatError as e:
                    failure = e
    except FormatError as e:
        failure = e
    raise UsageError(
        failure.what if failure else "the inputs are too large to try",
        code="model_runtime",
        where=where,
        expected="a model that onnxruntime runs as it is",
        hint="run it in onnxruntime with these inputs; export it again, or with a lower opset",
    ) from failure


def _candidates(specs: Sequence[ValueSpec], example: Mapping[str, NDArray[Any]], *, fixed_batch: int | None) -> Iterator[Rows]:
    given = None if fixed_batch else _from_data(specs, example)
    if given is not None:
        yield given
        return
    has_dynamic = any(not isinstance(size, int) for spec in specs for size in row_shape(spec))
    for size in _SIZES if has_dynamic else _SIZES[:1]:
        rows = _noise(specs, size, fixed_batch=fixed_batch)
        if rows is not None:
            yield rows


def _from_data(specs: Sequence[ValueSpec], example: Mapping[str, NDArray[Any]]) -> Rows | None:
    """The first rows of DATA, or ``None`` where they do not fit; what is wrong with DATA is said where it is read."""
    rows = {}
    for spec in specs:
        array = example.get(spec.name, example.get("x") if len(specs) == 1 else None)
        shape = spec.shape or ()
        if array is None or array.dtype.kind not in "fiub" or not len(array) >= 1 or array.ndim - len(shape) not in (0, 1):
            return None
        if (array.ndim == len(shape) and not is_batched(spec)) or not np.isfinite(array[:ROWS]).all():
            return None
        wanted = shape[1:] if array.ndim == len(shape) else shape
        if any(isinstance(size, int) and size != have for size, have in zip(wanted, array.shape[1:], strict=True)):
            return None
        rows[spec.name] = array[:ROWS].astype(np.dtype(spec.dtype) if spec.dtype != "bfloat16" else np.float32)
    return rows if len({len(array) for array in rows.values()}) == 1 else None


def _noise(specs: Sequence[ValueSpec], size: int, *, fixed_batch: int | None) -> Rows | None:
    """Floats in [0, 1), integers 0 or 1, which are legal indices; a batch in another axis than the first is one."""
    rng = np.random.default_rng(0)
    batch_names = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str) and spec.shape[0]}
    rows: dict[str, NDArray[Any]] = {}
    for spec in specs:
        axes = (spec.shape or ())[1:] if fixed_batch or is_batched(spec) else spec.shape or ()
        shape = (ROWS, *(axis if isinstance(axis, int) else 1 if axis in batch_names else size for axis in axes))
        if np.prod(shape, dtype=np.float64) > _MAX_ELEMENTS:
            return None
        dtype = np.dtype(spec.dtype) if spec.dtype != "bfloat16" else np.dtype(np.float32)
        rows[spec.name] = (rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)).astype(dtype)
    return rows


def _run(session: Session, rows: Rows, *, fixed_batch: int | None) -> Iterator[Outputs]:
    typed = _typed(rows, session.inputs)
    count = len(next(iter(typed.values())))
    if fixed_batch is None:
        for row in range(count):
            yield session.run(feed_rows(session.inputs, typed, start=row))
        return
    repeated = {name: np.resize(array, (fixed_batch, *array.shape[1:])) for name, array in typed.items()}
    together = session.run(repeated)
    for row in range(min(count, fixed_batch)):
        yield {name: array[row : row + 1] for name, array in together.items()}


def _typed(rows: Rows, specs: Sequence[ValueSpec]) -> Rows:
    """The rows in the types that a session takes; a widened model takes FP32 where the original took FP16."""
    return {spec.name: rows[spec.name].astype(spec.dtype, copy=False) for spec in specs}


def _share(want: NDArray[Any], have: NDArray[Any]) -> float:
    gap, scale = output_gap(want, have)
    return 0.0 if gap == 0.0 else gap / max(scale, _FLOOR)
