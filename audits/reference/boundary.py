"""ART's HopSkipJump on the shipped bytes: how far a record is from the border of its class, by labels alone.

A cross-check: ART's label-only membership attack thresholds this distance. HopSkipJump draws from numpy's global generator,
which is seeded around the call and put back afterwards, and its starting points from one that cannot be seeded; so it gets
ours. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from audits.blackbox.oracle import Oracle
from audits.inversion import InputRange
from audits.reference.importing import importable_art

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_STARTS = 50  # random points among which one of another class is looked for


def boundary_distances(oracle: Oracle, x: Floats, *, bounds: InputRange, iterations: int, evaluations: int, seed: int) -> Doubles:
    """How far each record is from the nearest border that HopSkipJump finds, Euclidean, in input units, (N,).

    Works from labels alone. Members tend to lie deeper inside their class, so ART's label-only membership attack thresholds
    this. A small budget finds borders that are too far away, so only comparisons under one budget mean anything. NaN where no
    random point is of another class.
    NaN where no random point is of another class.

    Args:
        oracle: the model; every question is counted there.
        x: (N, ...), a few records.
        bounds: input range.
        iterations: of HopSkipJump.
        evaluations: answers for one gradient estimate, at most.
        seed: of everything random.

    Raises:
        MissingExtraError: ART is not installed.
    """

    def predict(rows: Any) -> Floats:
        return np.eye(oracle.classes, dtype=np.float32)[oracle.labels(np.asarray(rows, dtype=np.float32))]

    begins, known = _elsewhere(oracle, x, bounds=bounds, seed=seed)
    distances = np.full(len(x), np.nan)
    if not known.any():
        return distances
    with importable_art(), _seeded(seed):
        from art.attacks.evasion import HopSkipJump
        from art.estimators.classification import BlackBoxClassifier

        classifier = BlackBoxClassifier(predict, x.shape[1:], oracle.classes, clip_values=(bounds.low, bounds.high))
        attack = HopSkipJump(
            classifier,
            targeted=False,
            max_iter=iterations,
            max_eval=evaluations,
            init_eval=min(10, evaluations),
            verbose=False,
        )
        moved = attack.generate(x[known].copy(), x_adv_init=begins[known])
    distances[known] = np.linalg.norm((moved.astype(np.float64) - x[known]).reshape(int(known.sum()), -1), axis=1)
    return distances


def _elsewhere(oracle: Oracle, x: Floats, *, bounds: InputRange, seed: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A random point of another class for each record, (N, ...), and where one was found, (N,)."""
    rng = np.random.default_rng([seed, 41])
    noise = rng.uniform(bounds.low, bounds.high, size=(_STARTS, *x.shape[1:])).astype(np.float32)
    there, here = oracle.labels(noise), oracle.labels(x)
    other = there[None, :] != here[:, None]
    return noise[other.argmax(axis=1)], other.any(axis=1)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """ART draws from numpy's global generator; nobody else must notice."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
