"""Synthetic golden probes: inputs made from declared ranges and a seed, never from data.

Several shapes of signal, because noise alone leaves parts of a network idle: noise over the whole range, values at both
ends of it, near silence (where biases speak), smooth fields, faint noise around a level, sparse spikes, and ramps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Field = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeSpec:
    """An input to make probes for. ``shape`` is that of one row, without the batch; ``low`` and ``high`` bound it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def make_probes(specs: Sequence[ProbeSpec], *, count: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """``count`` probes: input name to array, (count, ...), of the input's dtype, every value within its range."""
    rows = [{spec.name: _probe(spec, kind=index % len(_FIELDS), rng=rng) for spec in specs} for index in range(count)]
    return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in specs}


def join_probes(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One set of probes after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _probe(spec: ProbeSpec, *, kind: int, rng: np.random.Generator) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iub":
        return np.asarray(rng.integers(int(spec.low), int(spec.high) + 1, size=spec.shape), dtype=dtype)
    span = spec.high - spec.low
    zero = min(1.0, max(0.0, -spec.low / span)) if span else 0.0
    values = spec.low + _FIELDS[kind](spec.shape, zero, rng) * span
    # The narrower type may round outwards.
    return np.asarray(np.clip(values.astype(dtype), dtype.type(spec.low), dtype.type(spec.high)))


# Each makes a field of values in [0, 1], the share of the range; ``zero`` is where the value 0 lies, or is nearest.


def _noise(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    return rng.random(shape)


def _ends(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    return np.asarray(rng.random(shape) < rng.random(), dtype=np.float64)


def _silence(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    return np.clip(zero + 0.01 * rng.standard_normal(shape), 0.0, 1.0)


def _smooth(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    """Coarse noise, stretched by linear interpolation along each axis."""
    field: _Field = rng.random(tuple(min(size, 4) for size in shape))
    for axis, size in enumerate(shape):
        positions = np.linspace(0.0, field.shape[axis] - 1.0, num=size)
        low = np.floor(positions).astype(np.int64)
        high = np.minimum(low + 1, field.shape[axis] - 1)
        weight = (positions - low).reshape([-1 if index == axis else 1 for index in range(field.ndim)])
        field = np.take(field, low, axis=axis) * (1 - weight) + np.take(field, high, axis=axis) * weight
    return field


def _faint(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    return np.clip(rng.random() + 0.1 * rng.standard_normal(shape), 0.0, 1.0)


def _spikes(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    return np.where(rng.random(shape) < 0.1, rng.random(shape), zero)


def _ramp(shape: tuple[int, ...], zero: float, rng: np.random.Generator) -> _Field:
    ramp = np.linspace(0.0, 1.0, num=max(1, math.prod(shape))).reshape(shape)
    return np.asarray((ramp * rng.integers(1, 4) + rng.random()) % 1.0)


_FIELDS: tuple[Callable[[tuple[int, ...], float, np.random.Generator], _Field], ...] = (
    _noise,
    _ends,
    _silence,
    _smooth,
    _faint,
    _spikes,
    _ramp,
)
