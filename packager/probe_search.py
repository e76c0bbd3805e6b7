"""Looks for a probe that shows one given defect: a random search that keeps what moves the damaged copy further away.

Random probes alone miss channels that wake up only for particular inputs. Each step crosses the best probe so far with
fresh synthetic ones, so that the result is still made of ranges and a seed, not of data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.golden import record
from device_client.inference.session import Session
from packager.probes import ProbeSpec, make_probes

STEPS = 48
WIDTH = 16  # candidates per step
_SHARES = (0.02, 0.1, 0.3, 0.6)  # of the elements that a step replaces


def seek_probe(
    healthy: Session, damaged: Session, specs: Sequence[ProbeSpec], *, allowed: float, rng: np.random.Generator
) -> dict[str, NDArray[Any]] | None:
    """A probe, (1, ...) per input, whose outputs differ by more than ``allowed``, or ``None`` after ``STEPS`` steps.

    Costs up to ``STEPS * WIDTH`` runs of both models.
    """
    best: dict[str, NDArray[Any]] | None = None
    best_gap = 0.0
    for _ in range(STEPS):
        candidates = _cross(best, make_probes(specs, count=WIDTH, rng=rng), rng)
        gaps = _gaps(record(healthy, candidates), record(damaged, candidates))
        index = int(np.argmax(gaps))
        if best is None or gaps[index] >= best_gap:
            best = {name: array[index : index + 1] for name, array in candidates.items()}
            best_gap = float(gaps[index])
        if best_gap > allowed:
            return best
    return None


def _cross(
    best: Mapping[str, NDArray[Any]] | None, fresh: Mapping[str, NDArray[Any]], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    if best is None:
        return dict(fresh)
    share = rng.choice(_SHARES)
    return {name: np.where(rng.random(array.shape) < share, array, best[name]) for name, array in fresh.items()}


def _gaps(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Largest difference over all outputs, per probe; not a number counts as infinite."""
    gaps = np.zeros(len(next(iter(expected.values()))))
    for name, want in expected.items():
        difference = np.abs(want.astype(np.float64) - actual[name].astype(np.float64)).reshape(len(want), -1).max(axis=1)
        gaps = np.maximum(gaps, np.nan_to_num(difference, nan=np.inf))
    return gaps
