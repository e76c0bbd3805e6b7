"""Runs a model over the rows of a data set, in the device's runtime: the outputs that variants are judged by.

Rows go in batches where that changes nothing: every input has a dynamic batch axis, every output keeps one row per
input row, and no scale is taken over the whole batch (as dynamic quantisation does: batched, it would be judged with
scales that no device uses). Otherwise one row at a time. What a score is made of the outputs is ``tasks/``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import UsageError
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel
from packager.data import Dataset
from packager.feed import feed_rows, rows_per_run

BATCH_ROWS = 128
MAX_OUTPUT_BYTES = 2**30  # of all outputs for all rows: reference and variant are both in memory
_BATCH_DEPENDENT = b"DynamicQuantizeLinear"


def run_rows(model: CheckedModel, data: Dataset, *, advance: Callable[[int], None] | None = None) -> dict[str, NDArray[Any]]:
    """All outputs for all rows, one thread.

    Args:
        model: any model that takes these inputs.
        data: at least one row.
        advance: told the number of rows of each run.

    Returns:
        Per output an array whose first axis is the row. An output without a batch axis of its own gets one. Outputs whose
        size differs from row to row are left out, for they cannot be compared row by row.

    Raises:
        UsageError: no output is left to compare (``task_output``), or they do not fit in memory (``evaluation_too_large``).
        FormatError: the runtime failed (``model_run``).
    """
    with open_session(model) as session:
        specs = session.inputs
        batch = 1 if _BATCH_DEPENDENT in model.data else rows_per_run(specs, data.inputs, limit=BATCH_ROWS)
        first = session.run(feed_rows(specs, data.inputs, count=min(batch, len(data))))
        if any(array.shape[:1] != (min(batch, len(data)),) for array in first.values()):
            batch = 1
        collected = _Collected(rows=len(data), where=data.where)
        for start in range(0, len(data), batch):
            stop = min(start + batch, len(data))
            collected.put(start, stop, session.run(feed_rows(specs, data.inputs, start=start, count=stop - start)))
            if advance is not None:
                advance(stop - start)
    return collected.arrays()


class _Collected:
    """Outputs row by row, in arrays made at the first run."""

    def __init__(self, *, rows: int, where: str) -> None:
        self._rows = rows
        self._where = where
        self._arrays: dict[str, NDArray[Any]] | None = None
        self._uneven: set[str] = set()

    def put(self, start: int, stop: int, outputs: dict[str, NDArray[Any]]) -> None:
        parts = {name: _by_row(np.asarray(array), stop - start) for name, array in outputs.items()}
        if self._arrays is None:
            self._arrays = self._allocate(parts)
        for name, part in parts.items():
            if name in self._uneven:
                continue
            if part.shape[1:] != self._arrays[name].shape[1:] or len(part) != stop - start:
                self._uneven.add(name)
            else:
                self._arrays[name][start:stop] = part

    def arrays(self) -> dict[str, NDArray[Any]]:
        found = {name: array for name, array in (self._arrays or {}).items() if name not in self._uneven}
        if not found:
            raise UsageError(
                "the outputs differ in size from row to row",
                code="task_output",
                where=self._where,
                expected="at least one output of the same size for every row",
                actual=", ".join(sorted(self._uneven)),
                hint="export the model without the step that selects (such as non-maximum suppression)",
            )
        return found

    def _allocate(self, parts: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        needed = sum(part[:1].nbytes for part in parts.values()) * self._rows
        if needed > MAX_OUTPUT_BYTES:
            raise UsageError(
                "the outputs for all rows do not fit in memory",
                code="evaluation_too_large",
                where=self._where,
                expected=f"at most {MAX_OUTPUT_BYTES} bytes",
                actual=f"{needed} bytes for {self._rows} rows",
                hint="give fewer rows in this part",
            )
        return {name: np.empty((self._rows, *part.shape[1:]), dtype=part.dtype) for name, part in parts.items()}


def _by_row(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The array with the row as first axis: of a single row, an output without a batch axis gets one."""
    return array[np.newaxis] if rows == 1 and array.shape[:1] != (1,) else array
