"""What a clock and a meter said while packing: shown on the page and written to the measurements, never into the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packager.latency import LatencyRatio
from packager.measure.metered_run import MeteredPair


@dataclass(frozen=True)
class Readings:
    """What a clock and a meter said, by variant id; empty where nothing was measured."""

    latency: Mapping[str, LatencyRatio]
    energy: Mapping[str, MeteredPair]
