"""What happened to each running bundle since it was last handed over; handed over in small transactions, and none lost.

``slot.py`` counts, the pool's keeper hands over: every 30 seconds, after 1000 runs, and at the end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import fields

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import SealiftError
from device_client.install.health import Health

EVERY_S = 30.0
EVERY_RUNS = 1000
logger = logging.getLogger(__name__)

Record = Callable[[ModelPath, Digest, Health], None]


class HealthCounts:
    """Counts by model and bundle. Used by many threads.

    Args:
        record: hands counts over; may raise a ``SealiftError``, then they wait for the next time.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._counts: dict[tuple[ModelPath, Digest], Health] = {}
        self._handed_over_at = 0.0

    def add(self, model: ModelPath, manifest: Digest, health: Health) -> None:
        """Counts."""
        with self._lock:
            key = (model, manifest)
            self._counts[key] = _sum(self._counts.get(key, Health()), health)

    def is_due(self, now: float) -> bool:
        """Whether it is time to hand over; ``now`` in seconds of a monotonic clock."""
        with self._lock:
            if not self._counts:
                return False
            return now - self._handed_over_at >= EVERY_S or any(held.runs >= EVERY_RUNS for held in self._counts.values())

    def hand_over(self, now: float) -> None:
        """Hands everything over; what cannot be now waits for the next time."""
        with self._lock:
            taken, self._counts = self._counts, {}
            self._handed_over_at = now
        for (model, manifest), health in taken.items():
            try:
                self._record(model, manifest, health)
            except SealiftError as error:
                logger.warning("health of %s is kept for later: %s", model, error)
                self.add(model, manifest, health)


def _sum(first: Health, second: Health) -> Health:
    return Health(**{each.name: getattr(first, each.name) + getattr(second, each.name) for each in fields(Health)})
