"""Energy of one inference by a meter: idle, original and variant take turns, and idle is taken off.

A meter sees the whole board or package, so each round first waits for as long as it will run, and the power seen then is
what the work is charged without. Beside the bundle only: readings are never the same twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel
from packager.latency import pinned
from packager.measure.energy import Energy
from packager.measure.meters import Meter, NoMeter

MIN_ROUNDS = 5
WINDOW_S = 0.25  # RAPL steps every millisecond, INA2xx chips average over up to 0.07 s
_SAMPLES_PER_WINDOW = 10  # of a meter that gives power
_RESAMPLES = 1000

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MeteredPair:
    """Energy per inference of original and variant, and of the variant over the original (1.0: the same)."""

    original: Energy
    variant: Energy
    ratio: float | None

    @classmethod
    def unavailable(cls, reason: str) -> MeteredPair:
        """No figures, and why."""
        gone = Energy.unavailable(reason)
        return cls(gone, gone, None)

    def to_json(self) -> dict[str, object]:
        """As it stands in ``measurements.json``."""
        return {
            **self.variant.to_json(),
            "original": self.original.to_json(),
            "ratio": None if self.ratio is None else round(self.ratio, 4),
        }


@dataclass(frozen=True)
class Pace:
    """Clock and sleep, in seconds; given by tests."""

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def measure_energy(
    original: Callable[[], object],
    variant: Callable[[], object],
    meter: Meter,
    *,
    rounds: int = MIN_ROUNDS,
    window_s: float = WINDOW_S,
    pace: Pace | None = None,
) -> MeteredPair:
    """Measures both; takes about ``3 * rounds * window_s`` seconds.

    Args:
        original: runs one inference.
        variant: runs one inference.
        meter: from ``find_meter``.
        rounds: at least ``MIN_ROUNDS``.
        window_s: seconds of each reading.
        pace: clock and sleep.

    Raises:
        ValueError: too few rounds.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"at least {MIN_ROUNDS} rounds")
    pace = pace or Pace()
    readings = np.empty((rounds, 2))
    try:
        for index in range(rounds):
            idle_uw = _window(meter, None, window_s, pace)[0]
            pairs = ((0, original), (1, variant)) if index % 2 == 0 else ((1, variant), (0, original))
            for column, run in pairs:
                power_uw, seconds, calls = _window(meter, run, window_s, pace)
                readings[index, column] = (power_uw - idle_uw) * seconds / calls
    except OSError as e:
        return MeteredPair.unavailable(f"{meter.name} stopped giving readings: {type(e).__name__}")
    return _summarise(readings, meter.name)


def meter_models(
    original: CheckedModel, variant: CheckedModel, feeds: Sequence[Feeds], *, meter: Meter | NoMeter, rounds: int = MIN_ROUNDS
) -> MeteredPair:
    """Measures two models in the device's sessions, the thread on one core; says why where there is no meter."""
    if isinstance(meter, NoMeter):
        return MeteredPair.unavailable(meter.reason)
    with pinned(), open_session(original) as first, open_session(variant) as second:
        return measure_energy(_in_turn(first, feeds), _in_turn(second, feeds), meter, rounds=rounds)


def _summarise(readings: NDArray[np.float64], name: str) -> MeteredPair:
    picks = np.random.default_rng(0).integers(0, len(readings), size=(_RESAMPLES, len(readings)))
    found = []
    for column in range(2):
        medians = np.median(readings[picks, column], axis=1)
        low, high = (float(value) for value in np.quantile(medians, [0.025, 0.975]))
        value = float(np.median(readings[:, column]))
        if low <= 0:
            found.append(Energy.unavailable(f"{name}: the work does not stand out from idle"))
        else:
            found.append(Energy(value, "measured", f"{name}, idle taken off, {len(readings)} interleaved rounds", (low, high)))
    original, variant = found
    ratio = None if original.value is None or variant.value is None else variant.value / original.value
    return MeteredPair(original, variant, ratio)


def _window(meter: Meter, run: Callable[[], object] | None, window_s: float, pace: Pace) -> tuple[float, float, int]:
    """Mean power in microwatts over about ``window_s``, the seconds that passed, and the calls that were made."""
    begun, calls = pace.clock(), 0
    first = 0 if meter.read_uj is None else meter.read_uj()
    samples: list[int] = []
    while (passed := pace.clock() - begun) < window_s:
        if run is None:
            pace.sleep(window_s / _SAMPLES_PER_WINDOW)
        else:
            run()
            calls += 1
        if meter.read_uw is not None and len(samples) * window_s <= passed * _SAMPLES_PER_WINDOW:
            samples.append(meter.read_uw())
    if meter.read_uj is not None:
        used = meter.read_uj() - first
        power = (used if used >= 0 else used + meter.wraps_at_uj) / passed
    else:
        power = sum(samples) / max(1, len(samples))
    return power, passed, max(1, calls)


def _in_turn(session: Session, feeds: Sequence[Feeds]) -> Callable[[], object]:
    """Runs the feeds one after another, again and again."""
    rows = cycle(feeds)
    return lambda: session.run(next(rows))
