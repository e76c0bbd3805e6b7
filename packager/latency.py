"""Latency as a ratio to the original, interleaved in one process, one thread, batch 1.

Absolute times on a shared machine are noise, and so are ratios of two separate runs: original and variant take turns
within each round, in alternating order, and the figure is the median of per-round ratios with a bootstrap interval.
Clock readings go to ``measurements.json`` only, never into the bundle.

What it does not show: other CPUs (a variant that is faster with VNNI may be slower without), or a loaded device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel

MIN_ROUNDS = 3
_BLOCK_S = 0.004  # calls are repeated to fill this time, so that the clock's resolution does not matter
_WARM_UP_CALLS = 5
_RESAMPLES = 1000


@dataclass(frozen=True)
class LatencyRatio:
    """Median of per-round ratios variant/original with its 95 % interval, and median times in milliseconds."""

    ratio: float
    low: float
    high: float
    rounds: int
    original_ms: float
    variant_ms: float

    def to_json(self) -> dict[str, object]:
        """As it stands in ``measurements.json``."""
        return {
            "how": "measured",
            "ratio": round(self.ratio, 4),
            "interval": [round(self.low, 4), round(self.high, 4)],
            "rounds": self.rounds,
            "original_ms": round(self.original_ms, 5),
            "variant_ms": round(self.variant_ms, 5),
            "method": "interleaved, one thread, batch 1, median of per-round ratios, bootstrap 95 %",
        }


def measure_ratio(
    original: CheckedModel,
    variant: CheckedModel,
    feeds: Mapping[str, NDArray[Any]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyRatio:
    """Times both models on the same single row.

    Args:
        original: what the ratio is to.
        variant: what is judged.
        feeds: one row per input.
        rounds: pairs of readings, at least ``MIN_ROUNDS``.
        clock: seconds, monotonic.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"at least {MIN_ROUNDS} rounds")
    with open_session(original) as first, open_session(variant) as second:
        for session in (first, second):
            for _ in range(_WARM_UP_CALLS):
                session.run(feeds)
        calls = max(1, round(_BLOCK_S / max(_time(first, feeds, 1, clock), 1e-6)))
        times = np.empty((rounds, 2))
        for index in range(rounds):
            order = ((0, first), (1, second)) if index % 2 == 0 else ((1, second), (0, first))
            for column, session in order:
                times[index, column] = _time(session, feeds, calls, clock)
    ratios = times[:, 1] / times[:, 0]
    rng = np.random.default_rng(0)
    medians = np.median(ratios[rng.integers(0, rounds, size=(_RESAMPLES, rounds))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    original_ms, variant_ms = np.median(times, axis=0) * 1000
    return LatencyRatio(float(np.median(ratios)), float(low), float(high), rounds, float(original_ms), float(variant_ms))


def _time(session: Session, feeds: Mapping[str, NDArray[Any]], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        session.run(feeds)
    return (clock() - start) / calls
