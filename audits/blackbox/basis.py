"""Low frequencies to search in: a black-box attacker cannot afford one dimension for every pixel.

Images get a two-dimensional cosine basis for each channel, everything else a one-dimensional one over its last axis. A
short record gets as many functions as it has numbers, which is a rotation and loses nothing. What a search in few
dimensions does not show: fine detail; so a leak of fine detail is for the white-box attacks to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
IMAGE_SIDE = 12
SERIES_FUNCTIONS = IMAGE_SIDE * IMAGE_SIDE


@dataclass(frozen=True)
class Basis:
    """Orthonormal functions over one record.

    Attributes:
        functions: float32, (K, D), lowest frequencies first within a channel.
        shape: of a record, with D numbers.
    """

    functions: Floats
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of functions K."""
        return len(self.functions)

    def compose(self, coefficients: Floats) -> Floats:
        """(N, K) to records (N, ...)."""
        composed: Floats = (coefficients @ self.functions).reshape(len(coefficients), *self.shape)
        return composed


def low_frequencies(shape: tuple[int, ...]) -> Basis:
    """The basis for records of ``shape``, without a batch dimension."""
    size = int(np.prod(shape))
    grid = _flat_square(shape)
    if grid is None and len(shape) == 3 and min(shape[1:]) >= 2:
        grid = (shape[1], shape[2])
    if grid is not None:
        side = min(IMAGE_SIDE, *grid)
        plane = np.einsum("ay,bx->abyx", _cosines(grid[0], side), _cosines(grid[1], side)).reshape(side * side, -1)
        channels = size // plane.shape[1]
    else:
        length = shape[-1] if len(shape) > 1 else size
        channels = size // length
        plane = _cosines(length, min(length, max(1, SERIES_FUNCTIONS // channels)))
    functions = np.kron(np.eye(channels), plane)
    return Basis(functions.astype(np.float32), shape)


def _flat_square(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of records that may be square images written flat; a table of that length loses nothing by it."""
    size = int(np.prod(shape))
    side = round(size**0.5)
    is_flat = len([length for length in shape if length > 1]) == 1
    return (side, side) if is_flat and side >= 4 and side * side == size else None


def _cosines(length: int, count: int) -> npt.NDArray[np.float64]:
    """The first ``count`` functions of the orthonormal DCT-II, (count, length)."""
    order, place = np.arange(count)[:, None], np.arange(length)[None, :]
    waves = np.cos(np.pi * order * (place + 0.5) / length) * np.sqrt(2.0 / length)
    waves[0] /= np.sqrt(2.0)
    result: npt.NDArray[np.float64] = waves
    return result
