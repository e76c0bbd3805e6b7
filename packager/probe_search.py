"""Looks for a probe that shows one given defect: a random search that keeps what moves the damaged copy further away.

Random probes alone miss channels that wake up only for particular inputs. Each step crosses the best probe so far with
fresh synthetic ones, so that the result is still made of ranges and a seed, not of data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.golden import record
from device_client.inference.session import Session
from packager.footprint import activation_elements
from packager.probes import ProbeSpec, make_probes

WIDTH = 16  # candidates per step
_SHARES = (0.02, 0.1, 0.3, 0.6)  # of the elements that a step replaces
_WORK = 400_000_000  # elements that a whole search may touch; fewer steps for larger models
_ALL_WORK = 3_000_000_000  # elements that all searches in one model may touch
_STEPS = (4, 120)


@dataclass(frozen=True)
class SearchResult:
    """What a search found. ``probe``: (1, ...) per input, or ``None``; ``gap``: the largest difference seen anywhere."""

    probe: dict[str, NDArray[Any]] | None
    gap: float
    inputs: int


def seek_probe(
    healthy: Session, damaged: Session, specs: Sequence[ProbeSpec], *, allowed: float, steps: int, rng: np.random.Generator
) -> SearchResult:
    """Looks for a probe whose outputs differ by more than ``allowed``, in at most ``steps * WIDTH`` inputs."""
    best: dict[str, NDArray[Any]] | None = None
    best_gap = 0.0
    for step in range(1, steps + 1):
        candidates = _cross(best, make_probes(specs, count=WIDTH, rng=rng), rng)
        gaps = _gaps(record(healthy, candidates), record(damaged, candidates))
        index = int(np.argmax(gaps))
        if best is None or gaps[index] >= best_gap:
            best = {name: array[index : index + 1] for name, array in candidates.items()}
            best_gap = float(gaps[index])
        if best_gap > allowed:
            return SearchResult(best, best_gap, step * WIDTH)
    return SearchResult(None, best_gap, steps * WIDTH)


def searches(data: bytes) -> int:
    """How many searches of all steps may be made in this model, for the same reason."""
    return max(_ALL_WORK // (search_steps(data) * WIDTH * (len(data) + activation_elements(data))), 1)


def search_steps(data: bytes) -> int:
    """How many steps a search in this model may take; by its size, since a clock must not decide what is in a bundle."""
    return min(max(_WORK // (WIDTH * (len(data) + activation_elements(data))), _STEPS[0]), _STEPS[1])


def _cross(
    best: Mapping[str, NDArray[Any]] | None, fresh: Mapping[str, NDArray[Any]], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    if best is None:
        return dict(fresh)
    share = rng.choice(_SHARES)
    return {name: np.where(rng.random(array.shape) < share, array, best[name]) for name, array in fresh.items()}


def _gaps(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Largest difference over all outputs, per probe; not a number counts as infinite.

    A probe on which the healthy model gives no finite number is no probe: its gap is 0.
    """
    gaps = np.zeros(len(next(iter(expected.values()))))
    for name, want in expected.items():
        have = actual[name]
        if want.shape != have.shape:  # of outputs that select; the device's comparison refuses that for any probe
            gaps[:] = np.inf
            continue
        with np.errstate(invalid="ignore"):  # infinity less infinity
            difference = np.abs(want.astype(np.float64) - have.astype(np.float64)).reshape(len(want), -1).max(axis=1, initial=0.0)
        gaps = np.maximum(gaps, np.nan_to_num(difference, nan=np.inf))
    return np.where(finite_rows(expected), gaps, 0.0)


def finite_rows(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """For each probe, whether all outputs are finite: a device refuses any other number."""
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    rows: NDArray[np.bool_] = np.ones(len(next(iter(outputs.values()))), dtype=np.bool_)
    for array in floats:
        rows &= np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return rows
