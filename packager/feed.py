"""How rows of data become inputs of one run, for models whose inputs are not all batched.

DATA has one array per input. Where the array has the input's own rank, rows lie along the first axis, the batch. Where it
has one axis more, the input is given *whole*: a scalar such as a sampling rate, or a recurrent state with its batch in the
second axis, has one array of the input's own shape per row, and such a model runs one row at a time. Golden probes, and the
device's self-test, use the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.walker import ValueSpec


def is_batched(spec: ValueSpec) -> bool:
    """True if rows of data are expected along the first axis of the input: it is dynamic, or one."""
    shape = spec.shape or ()
    return bool(shape) and (not isinstance(shape[0], int) or shape[0] == 1)


def row_shape(spec: ValueSpec) -> tuple[int | str, ...]:
    """Shape of one row of data for an input, dynamic sizes by name."""
    return (spec.shape or ())[1:] if is_batched(spec) else (spec.shape or ())


def rows_per_run(specs: Sequence[ValueSpec], rows: Mapping[str, NDArray[Any]], *, limit: int) -> int:
    """How many rows one run may take: ``limit`` where every input has a dynamic first axis and is not whole, else one."""
    free = all(spec.shape and not isinstance(spec.shape[0], int) and rows[spec.name].ndim == len(spec.shape) for spec in specs)
    return limit if free else 1


def feed_rows(
    specs: Sequence[ValueSpec], rows: Mapping[str, NDArray[Any]], *, start: int = 0, count: int = 1
) -> dict[str, NDArray[Any]]:
    """The inputs of one run over ``rows[start : start + count]``.

    Args:
        specs: the model's inputs.
        rows: input name to array, (N, ...), batched or whole (see above).
        start: first row.
        count: not above ``rows_per_run``.
    """
    feed = {}
    for spec in specs:
        array = rows[spec.name]
        is_whole = array.ndim == len(spec.shape or ()) + 1
        feed[spec.name] = np.asarray(array[start] if is_whole else array[start : start + count], order="C")
    return feed
