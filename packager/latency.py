"""Latency as a ratio to the original, interleaved in one process, one thread on one core, batch 1.

Absolute times on a shared machine are noise, and so are ratios of two separate runs: original and variant take turns
within each round, in alternating order, and the figure is the median of per-round ratios with a bootstrap interval.
Rounds are added until half the interval's width is at most ``HALF_WIDTH``, up to a bound. The clock is the thread's CPU
time, where the system keeps it finely: one thread computes all the time, so that is its latency on an idle core, without
the turns of other processes (measured on a busy machine: as narrow after 30 to 60 rounds as wall time after 240). Clock
readings go to ``measurements.json`` only, never into the bundle.

What it does not show: other CPUs (a variant that is faster with VNNI may be slower without), or a loaded device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel

MIN_ROUNDS = 3
HALF_WIDTH = 0.03
MAX_GROWTH = 8
"""At most so many times the rounds that were asked for."""

_BLOCK_S = 0.004  # calls are repeated to fill this time, so that the clock's resolution does not matter
_FINE_S = 1e-6
_WARM_UP_CALLS = 5
_RESAMPLES = 1000
_MAX_FEEDS = 64

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LatencyRatio:
    """Median of per-round ratios variant/original with its 95 % interval, and median times in milliseconds.

    ``pinned``: whether the thread was held on one core.
    """

    ratio: float
    low: float
    high: float
    rounds: int
    original_ms: float
    variant_ms: float
    pinned: bool = False

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def to_json(self) -> dict[str, object]:
        """As it stands in ``measurements.json``."""
        return {
            "how": "measured",
            "ratio": round(self.ratio, 4),
            "interval": [round(self.low, 4), round(self.high, 4)],
            "rounds": self.rounds,
            "original_ms": round(self.original_ms, 5),
            "variant_ms": round(self.variant_ms, 5),
            "pinned": self.pinned,
            "settled": self.half_width <= HALF_WIDTH,
            "method": "interleaved, CPU time of one thread, batch 1, median of per-round ratios, bootstrap 95 %",
        }


def measure_ratio(
    original: CheckedModel,
    variant: CheckedModel,
    feeds: Feeds | Sequence[Feeds],
    *,
    rounds: int,
    clock: Callable[[], float] | None = None,
) -> LatencyRatio:
    """Times both models on the same rows; the thread is pinned meanwhile.

    Args:
        original: what the ratio is to.
        variant: what is judged.
        feeds: one row per input, or several such; each block of calls takes them in turn.
        rounds: pairs of readings to begin with, at least ``MIN_ROUNDS``; up to ``MAX_GROWTH`` times as many are taken.
        clock: seconds, monotonic; left out: the thread's CPU time, or wall time where that is coarse.

    Raises:
        ValueError: too few rounds, no feeds, or more than 64.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"at least {MIN_ROUNDS} rounds")
    several: tuple[Feeds, ...] = (feeds,) if isinstance(feeds, Mapping) else tuple(feeds)
    if not 1 <= len(several) <= _MAX_FEEDS:
        raise ValueError(f"1 to {_MAX_FEEDS} feeds")
    clock = clock or thread_clock()
    with pinned() as held, open_session(original) as first, open_session(variant) as second:
        for session in (first, second):
            for index in range(max(_WARM_UP_CALLS, len(several))):
                session.run(several[index % len(several)])
        calls = max(len(several), round(_BLOCK_S / max(_time(first, several, len(several), clock), 1e-6)))
        times: list[tuple[float, float]] = []
        while True:
            times += _rounds(first, second, several, calls=calls, count=rounds, begin=len(times), clock=clock)
            result = _summarise(np.array(times), pinned=held)
            if result.half_width <= HALF_WIDTH or len(times) >= MAX_GROWTH * rounds:
                return result


def thread_clock() -> Callable[[], float]:
    """CPU time of the calling thread, in seconds, or wall time where the system counts the former in coarse steps."""
    return time.thread_time if time.get_clock_info("thread_time").resolution <= _FINE_S else time.perf_counter


@contextmanager
def pinned() -> Iterator[bool]:
    """Holds the calling thread on one core and lets it go afterwards; yields whether the system could."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def _rounds(
    first: Session,
    second: Session,
    feeds: Sequence[Feeds],
    *,
    calls: int,
    count: int,
    begin: int,
    clock: Callable[[], float],
) -> list[tuple[float, float]]:
    found = []
    for index in range(begin, begin + count):
        if index % 2 == 0:
            original = _time(first, feeds, calls, clock)
            found.append((original, _time(second, feeds, calls, clock)))
        else:
            variant = _time(second, feeds, calls, clock)
            found.append((_time(first, feeds, calls, clock), variant))
    return found


def _summarise(times: NDArray[np.float64], *, pinned: bool) -> LatencyRatio:
    ratios = times[:, 1] / times[:, 0]
    rounds = len(ratios)
    rng = np.random.default_rng(0)
    medians = np.median(ratios[rng.integers(0, rounds, size=(_RESAMPLES, rounds))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    original_ms, variant_ms = np.median(times, axis=0) * 1000
    return LatencyRatio(float(np.median(ratios)), float(low), float(high), rounds, float(original_ms), float(variant_ms), pinned)


def _time(session: Session, feeds: Sequence[Feeds], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for index in range(calls):
        session.run(feeds[index % len(feeds)])
    return (clock() - start) / calls
