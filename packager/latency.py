"""Latency as a ratio to the original, interleaved in one process, one thread on one core, batch 1.

Absolute times on a shared machine are noise, and so are ratios of two separate runs: original and variant take turns
within each round, in alternating order. So are ratios of two sessions: where their weights came to lie in memory makes one
faster than the other, for as long as they live (measured: a small network against itself, 5 % from pair to pair). Both models
are therefore opened again and again, in alternating order, while earlier pairs still hold their memory; the figure is the
geometric mean of the pairs' median ratios, and its interval is that of a bootstrap over pairs. Pairs are added until half its
width is at most ``HALF_WIDTH``, up to a bound. The clock is the thread's CPU time, where the system keeps it finely: one thread
computes all the time, so that is its latency on an idle core, without the turns of other processes (measured on a busy machine:
as narrow after 30 to 60 rounds as wall time after 240). Clock readings go to ``measurements.json`` only, never into the bundle.

What it does not show: other CPUs (a variant that is faster with VNNI may be slower without), or a loaded device.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
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
_ROUNDS_OF_A_PAIR = 4
_MIN_PAIRS = 4
_MAX_KEPT = 8  # pairs of sessions
_MAX_KEPT_BYTES = 256 * 1024 * 1024
_BYTES_IN_MEMORY = 8  # for each of a file, with what is folded and packed when it is opened
_RESAMPLES = 1000
_MAX_FEEDS = 64

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LatencyRatio:
    """Mean ratio variant/original over pairs of sessions with its 95 % interval, and median times in milliseconds.

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
            "method": "interleaved, CPU time of one thread, batch 1, sessions opened anew, bootstrap over them 95 %",
        }


def measure_ratio(
    original: CheckedModel,
    variant: CheckedModel,
    feeds: Feeds | Sequence[Feeds],
    *,
    rounds: int,
    half_width: float = HALF_WIDTH,
    clock: Callable[[], float] | None = None,
) -> LatencyRatio:
    """Times both models on the same rows; the thread is pinned meanwhile.

    Args:
        original: what the ratio is to.
        variant: what is judged.
        feeds: one row per input, or several such; each block of calls takes them in turn.
        rounds: pairs of readings to begin with, at least ``MIN_ROUNDS``, rounded up to whole pairs of sessions; up to
            ``MAX_GROWTH`` times as many are taken.
        half_width: of the interval that is narrow enough.
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
    pairs = max(_MIN_PAIRS, math.ceil(rounds / _ROUNDS_OF_A_PAIR))
    times: list[NDArray[np.float64]] = []
    with pinned() as held, _Pairs(original, variant) as opened:
        while True:
            for index in range(len(times), len(times) + pairs):
                first, second = opened.open(original_first=index % 2 == 0)
                times.append(_time_pair(first, second, several, clock=clock))
            result = _summarise(np.array(times), pinned=held)
            if result.half_width <= half_width or len(times) >= MAX_GROWTH * pairs:
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


class _Pairs:
    """Sessions of both models; the oldest pair is closed when a new one would hold too much memory."""

    def __init__(self, original: CheckedModel, variant: CheckedModel) -> None:
        self._models = (original, variant)
        size = _BYTES_IN_MEMORY * (len(original.data) + len(variant.data))
        self._kept = min(_MAX_KEPT, max(1, _MAX_KEPT_BYTES // max(size, 1)))
        self._open: deque[tuple[Session, Session]] = deque()

    def __enter__(self) -> _Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close()

    def open(self, *, original_first: bool) -> tuple[Session, Session]:
        if len(self._open) >= self._kept:
            self._close()
        one, other = (open_session(model) for model in (self._models if original_first else reversed(self._models)))
        pair = (one, other) if original_first else (other, one)
        self._open.append(pair)
        return pair

    def _close(self) -> None:
        for session in self._open.popleft():
            session.close()


def _time_pair(first: Session, second: Session, feeds: Sequence[Feeds], *, clock: Callable[[], float]) -> NDArray[np.float64]:
    """(rounds, 2): seconds per call of the original and of the variant."""
    for session in (first, second):
        for index in range(max(_WARM_UP_CALLS, len(feeds))):
            session.run(feeds[index % len(feeds)])
    calls = max(len(feeds), round(_BLOCK_S / max(_time(first, feeds, len(feeds), clock), 1e-6)))
    found = []
    for index in range(_ROUNDS_OF_A_PAIR):
        if index % 2 == 0:
            original = _time(first, feeds, calls, clock)
            found.append((original, _time(second, feeds, calls, clock)))
        else:
            variant = _time(second, feeds, calls, clock)
            found.append((_time(first, feeds, calls, clock), variant))
    return np.array(found)


def _summarise(times: NDArray[np.float64], *, pinned: bool) -> LatencyRatio:
    """From seconds, (pairs, rounds, 2)."""
    logs = np.log(np.median(times[..., 1] / times[..., 0], axis=1))
    rng = np.random.default_rng(0)
    means = logs[rng.integers(0, len(logs), size=(_RESAMPLES, len(logs)))].mean(axis=1)
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    original_ms, variant_ms = np.median(times, axis=(0, 1)) * 1000
    rounds = times.shape[0] * times.shape[1]
    return LatencyRatio(float(np.exp(logs.mean())), float(low), float(high), rounds, float(original_ms), float(variant_ms), pinned)


def _time(session: Session, feeds: Sequence[Feeds], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for index in range(calls):
        session.run(feeds[index % len(feeds)])
    return (clock() - start) / calls
