"""What kind of picture fits an input: an image, lines over time, or bars. Never a made-up image of a table.

The layout of a tensor does not say it: 64 numbers can be a picture written flat or 64 columns of a table. So neighbours are
asked: in pictures and series the values beside each other are alike, in tables they are not. That decides only what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from audits.data import Floats

_COLOURS = frozenset({1, 3, 4})
_LEAST_POINTS = 16  # of a series written flat
# Squared step between neighbours over that of any two values of the record: near 1 in a table, near 0 in a slow series.
_SIDES_ALIKE = 0.8  # of a picture, in both directions
_POINTS_ALIKE = 0.5  # of a series written flat, where a line would make a table look like something it is not


class Kind(Enum):
    """How a record is drawn."""

    IMAGE = "image"
    SERIES = "series"
    TABLE = "table"


@dataclass(frozen=True)
class Form:
    """How arrays of records become (K, channels, H, W), (K, channels, points) or (K, features).

    Attributes:
        folded: shape of one record before its axes are moved; flat squares are folded here.
        order: axes of the folded record in the order channels, height, width or channels, points.
    """

    kind: Kind
    folded: tuple[int, ...]
    order: tuple[int, ...]

    def arrange(self, records: Floats) -> Floats:
        """Records of the input's shape, (K, ...), brought into this form."""
        folded = records.reshape(len(records), *self.folded)
        return np.ascontiguousarray(folded.transpose(0, *(axis + 1 for axis in self.order)))


def form_of(records: Floats) -> Form:
    """The form that fits (K, ...) records.

    Three axes are an image by their layout, channels first or last. Two axes are an image where both sides have like
    neighbours, a series where one has, else a table. One axis is an image where it is a square of like neighbours.
    """
    sides = tuple(size for size in records.shape[1:] if size > 1)
    if len(sides) == 3:
        channels = 0 if sides[0] in _COLOURS or sides[2] not in _COLOURS else 2
        return Form(Kind.IMAGE, sides, (channels, *(axis for axis in range(3) if axis != channels)))
    rows = _comparable(records.reshape(len(records), *sides))
    if len(sides) == 2:
        return _two_axes(rows, declared=records.ndim == 4 and records.shape[1] == 1)
    size = int(np.prod(sides)) if len(sides) < 2 else 0
    side = round(size**0.5)
    if side >= 4 and side * side == size and _is_image(rows.reshape(-1, side, side)):
        return Form(Kind.IMAGE, (1, side, side), (0, 1, 2))
    if size >= _LEAST_POINTS and _step(rows, 1) < _POINTS_ALIKE:
        return Form(Kind.SERIES, (1, size), (0, 1))
    return Form(Kind.TABLE, (int(np.prod(records.shape[1:])),), (0,))


def _two_axes(rows: Floats, *, declared: bool) -> Form:
    height, width = rows.shape[1:]
    if declared or (min(height, width) >= 8 and _is_image(rows)):
        return Form(Kind.IMAGE, (1, height, width), (0, 1, 2))
    down, across = _step(rows, 1), _step(rows, 2)
    if min(down, across) >= _SIDES_ALIKE:
        return Form(Kind.TABLE, (height * width,), (0,))
    return Form(Kind.SERIES, (height, width), (1, 0) if down <= across else (0, 1))


def _is_image(rows: Floats) -> bool:
    return _step(rows, 1) < _SIDES_ALIKE and _step(rows, 2) < _SIDES_ALIKE


def _comparable(records: Floats) -> Floats:
    """Columns centred and of spread 1 over the records, since units differ; then what a whole record shares is taken out."""
    wide = records.astype(np.float64)  # the square of a large float32 is none
    centred = wide - wide.mean(axis=0)
    spread = centred.std(axis=0)
    compared = np.where(spread > 0, centred / np.where(spread > 0, spread, 1.0), 0.0)
    alone: Floats = (compared - compared.mean(axis=tuple(range(1, records.ndim)), keepdims=True)).astype(np.float32)
    return alone


def _step(rows: Floats, axis: int) -> float:
    """Mean squared step to the next value, over twice the mean square (von Neumann 1941, not squared up for small numbers)."""
    if rows.shape[axis] < 2:
        return 1.0
    total = 2.0 * float(np.mean(np.square(rows)))
    return float(np.mean(np.square(np.diff(rows, axis=axis)))) / total if total > 0 else 1.0
