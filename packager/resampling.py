"""The paired bootstrap: how often each row (or group) is drawn in each of many resamples.

One ``Resampler`` serves the original and every variant, so that all are compared on the same draws, and a search can
judge hundreds of variants for the price of one set of draws. Rows that belong together are drawn together.

Determinism: draws follow from the seed, the number of units and nothing else. Memory: at most ``_KEPT_BYTES`` of counts are
kept, else they are drawn anew for each use, in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
MIN_RESAMPLES = 400
_MAX_DRAWS = 400_000_000  # resamples times units: beyond it there are fewer resamples, whose quantiles are still steady
_BLOCK_ELEMENTS = 4_000_000  # bounds one block: 32 MB of draws
_KEPT_BYTES = 64_000_000

Floats = NDArray[np.float64]
Counts = NDArray[np.unsignedinteger[Any]]


class Resampler:
    """Draws for ``rows`` rows; ``units`` is the number of groups, or of rows where there are none.

    Args:
        rows: how many rows there are, at least one.
        groups: (rows,), what belongs together, or ``None``.
        seed: what ``numpy.random.default_rng`` takes.
    """

    def __init__(self, rows: int, *, groups: NDArray[Any] | None, seed: int | list[int]) -> None:
        self.rows = rows
        self._index = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        self.units = rows if self._index is None else int(self._index.max()) + 1
        self.resamples = min(RESAMPLES, max(MIN_RESAMPLES, _MAX_DRAWS // self.units))
        self._seed = seed
        kept = self.resamples * self.units * 2 <= _KEPT_BYTES
        self._blocks: list[Counts] | None = list(self._draw()) if kept else None

    @property
    def grouped(self) -> bool:
        """Whether whole groups are drawn."""
        return self._index is not None

    def unit_sums(self, values: Floats) -> Floats:
        """(rows,) summed within each unit: (units,)."""
        if self._index is None:
            return values
        return np.asarray(np.bincount(self._index, weights=values, minlength=self.units), dtype=np.float64)

    def sums(self, values: Floats) -> Floats:
        """The sum of ``values`` (rows,) over each resample's rows: (resamples,)."""
        column = self.unit_sums(values)
        # einsum and not matmul: one thread and no BLAS, so that the order of additions does not depend on the machine's cores.
        return np.concatenate([np.einsum("bu,u->b", block.astype(np.float64), column) for block in self._counts()])

    def row_counts(self) -> Iterator[NDArray[np.float32]]:
        """How often each row is in each resample, block by block: (block, rows); exact, for counts are small."""
        for block in self._counts():
            counts = block.astype(np.float32)
            yield counts if self._index is None else counts[:, self._index]

    def _counts(self) -> Iterator[Counts]:
        yield from self._draw() if self._blocks is None else self._blocks

    def _draw(self) -> Iterator[Counts]:
        rng = np.random.default_rng(self._seed)
        dtype: type[np.unsignedinteger[Any]] = (
            np.uint16 if self.units < 2**16 else np.uint32
        )  # a unit is drawn at most `units` times
        size = max(1, min(_BLOCK_ELEMENTS // max(self.units, self.rows), self.resamples))
        for start in range(0, self.resamples, size):
            count = min(size, self.resamples - start)
            picks = rng.integers(0, self.units, size=(count, self.units))
            picks += np.arange(count)[:, np.newaxis] * self.units
            yield np.bincount(picks.reshape(-1), minlength=count * self.units).reshape(count, self.units).astype(dtype)
