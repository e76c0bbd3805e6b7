"""Made-up inputs for a model that comes without data: floats of a declared range or standard normal, small legal integers.

Figures on such rows say how close a variant is to its original on noise, which is not what devices see: the report and the
command say so. Ranges of a quantised model that were set on noise may be wrong in the field. Rows follow from the model's
digest and the seed alone, so a re-run gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from device_client.errors import FormatError, UsageError
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel, ValueSpec
from packager.data import Array, Dataset
from packager.feed import is_batched, row_shape
from packager.probes import ProbeSpec, make_probes

MAX_INPUT_BYTES = 64 * 2**20  # of all rows together: larger inputs get fewer rows
MIN_ROWS = 30
DYNAMIC_SIZE = 16  # of a dynamic axis besides the batch, such as a sequence's length
MAX_INTEGER = 2**20  # a larger vocabulary is not looked for; an input that takes this too is no index
WHERE = "synthetic inputs"

Ranges = Mapping[str, tuple[float, float]]


def synthetic_dataset(model: CheckedModel, *, ranges: Ranges, rows: int, seed: int) -> Dataset:
    """Rows without labels for every input of ``model``.

    Args:
        model: the original; it is run to find which integers it takes.
        ranges: declared closed ranges by input name.
        rows: how many, fewer where they would not fit in memory.
        seed: of the recipe; the model's digest comes on top.

    Raises:
        UsageError: an input that no made-up value fits: the model fails on all of them (``data_needed``).
    """
    row_bytes = sum(math.prod(_sizes(spec)) * np.dtype(spec.dtype or "float32").itemsize for spec in model.inputs)
    rows = max(MIN_ROWS, min(rows, MAX_INPUT_BYTES // max(1, row_bytes)))
    rng = np.random.default_rng([seed, int(model.digest.hex[:16], 16)])
    bounds = {**_integer_bounds(model, ranges), **ranges}
    inputs = {spec.name: _rows_of(spec, bounds.get(spec.name), rows=rows, rng=rng) for spec in model.inputs}
    return _distinct(Dataset(inputs, None, None, None, WHERE))


def _distinct(data: Dataset) -> Dataset:
    """Each row once: a repeated one would count as evidence twice."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(data.row_digests()):
        first.setdefault(digest, row)
    return data.take(np.asarray(sorted(first.values()), dtype=np.int64))


def _rows_of(spec: ValueSpec, bounds: tuple[float, float] | None, *, rows: int, rng: np.random.Generator) -> Array:
    dtype, shape = np.dtype(spec.dtype or "float32"), _sizes(spec)
    if bounds is None:
        return rng.standard_normal((rows, *shape)).astype(dtype)
    if dtype.kind == "f":
        probe = ProbeSpec(spec.name, dtype.name, shape, *bounds)
        return make_probes([probe], count=rows, rng=rng)[spec.name]
    legal = np.iinfo(dtype) if dtype.kind in "iu" else None
    low, high = math.ceil(bounds[0]), math.floor(bounds[1])
    if legal is not None:
        low, high = max(low, int(legal.min)), min(high, int(legal.max))
    return rng.integers(low, high + 1, (rows, *shape)).astype(dtype)


def _sizes(spec: ValueSpec) -> tuple[int, ...]:
    """Shape of one row; of a whole tensor with a dynamic axis that axis is the batch, and 1."""
    dynamic = DYNAMIC_SIZE if is_batched(spec) else 1
    return tuple(size if isinstance(size, int) else dynamic for size in row_shape(spec))


def _integer_bounds(model: CheckedModel, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Legal values of each integer or boolean input without a declared range, found by running the model."""
    wanted = [spec for spec in model.inputs if np.dtype(spec.dtype or "float32").kind in "iub" and spec.name not in ranges]
    if not wanted:
        return {}
    with open_session(model) as session:
        return {spec.name: (0.0, float(_largest(session, spec, ranges))) for spec in wanted}


def _largest(session: Session, spec: ValueSpec, ranges: Ranges) -> int:
    """The largest n such that the model runs with all of this input's values at n, others at rest; 1 for what is no index."""
    dtype = np.dtype(spec.dtype)
    ceiling = 1 if dtype.kind == "b" else min(MAX_INTEGER, int(np.iinfo(dtype).max))

    def runs(value: int) -> bool:
        try:
            session.compute(_at_rest(session, ranges, {spec.name: value}))
        except FormatError:
            return False
        return True

    if not runs(0):
        raise UsageError(
            f"no made-up values fit the model's input '{spec.name}'",
            code="data_needed",
            where=WHERE,
            expected="a model that runs on zeros",
            hint=f"give --data, or inputs.{spec.name}.range in the recipe",
        )
    if runs(ceiling):
        return 1
    low, high = 0, ceiling
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if runs(middle) else (low, middle)
    return low


def _at_rest(session: Session, ranges: Ranges, values: Mapping[str, int]) -> dict[str, NDArray[np.generic]]:
    """One row: zeros (or the lower end of the declared range), but for ``values``."""
    feed = {}
    for spec in session.inputs:
        dtype = np.dtype(spec.dtype or "float32")
        low = ranges.get(spec.name, (0.0, 0.0))[0]
        shape = (1, *_sizes(spec)) if is_batched(spec) else _sizes(spec)
        feed[spec.name] = np.full(shape, values.get(spec.name, math.ceil(low) if dtype.kind in "iub" else low), dtype=dtype)
    return feed
