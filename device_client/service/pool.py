"""All models of the service, and the keeper: a thread that looks once a second whether something else should run.

What should run is in the device's database, which other processes change. It is not held open: a database that is set aside
as damaged and made anew must not have a stranger in its files. The keeper looks at size and times of the database's files and
reads it when they changed, and every 30 seconds in any case; a look costs microseconds, a read a millisecond or two.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from device_client.bundle.path import ModelPath
from device_client.errors import PolicyError, SealiftError, StateError
from device_client.inference.model import Installed, find_installed, runnable
from device_client.install.folder import Device, DeviceFolder
from device_client.install.health import record_health
from device_client.install.state import open_state
from device_client.service.counts import HealthCounts, Record
from device_client.service.slot import Slot, Target
from device_client.service.worker_process import WorkerLimits, WorkerProcess, start_worker

LOOK_EVERY_S = 1.0
READ_EVERY_S = 30.0
_SETTLED_NS = 1_000_000_000
"""A file that changed less than this before it was looked at may change again without a difference in its times."""
logger = logging.getLogger(__name__)


class Pool:
    """A slot for each model that the device follows. Close it."""

    def __init__(self, device: Device, *, record: Record | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._settings, self._clock = device.folder, device.config.service, clock
        self._counts = HealthCounts(record or (lambda *found: record_health(device.folder, *found)))
        self._slots = {model: self._slot(model) for model in device.config.models}
        self._watch = StateWatch(device.folder, clock=clock)
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Reads what should run, and starts the keeper. No worker starts before somebody needs it."""
        self.look()
        self._keeper.start()

    def slot(self, model: ModelPath) -> Slot:
        """The slot of a followed model."""
        return self._slots[model]

    def look(self) -> None:
        """One round of the keeper."""
        now = self._clock()
        if self._watch.has_changed():
            self._read()
        for slot in self._slots.values():
            slot.follow()
            if self._settings.idle_minutes:
                slot.end_if_unused(idle_s=60.0 * self._settings.idle_minutes)
        if self._counts.is_due(now):
            self._counts.hand_over(now)

    def close(self, *, grace_s: float) -> None:
        """Ends all workers, after what they work on, and hands over what was counted."""
        self._ending.set()
        if self._keeper.is_alive():
            self._keeper.join(timeout=grace_s)
        closing = [threading.Thread(target=slot.close, kwargs={"grace_s": grace_s}) for slot in self._slots.values()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._counts.hand_over(self._clock())

    def _keep(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            self.look()

    def _read(self) -> None:
        try:
            with open_state(self._folder.state) as state:
                for model, slot in self._slots.items():
                    try:
                        slot.aim(Target(runnable(state, model).manifest))
                    except (PolicyError, StateError) as refusal:
                        if refusal.code not in {"stopped_by_policy", "not_installed", "safe"}:
                            raise
                        slot.aim(Target(None, refusal))
        except SealiftError as error:  # damaged, or just being made anew: what runs goes on
            self._watch.forget()
            logger.warning("the state cannot be read, what runs goes on: %s", error)

    def _slot(self, model: ModelPath) -> Slot:
        return Slot(
            model,
            find=lambda: find_installed(self._folder, model),
            start=self._start_worker,
            counts=self._counts,
            clock=self._clock,
        )

    def _start_worker(self, installed: Installed) -> WorkerProcess:
        settings = self._settings
        limits = WorkerLimits.for_model(
            installed, load_timeout_s=settings.load_timeout_s, max_message_bytes=settings.max_message_bytes
        )
        return start_worker(installed, cwd=self._folder.empty, limits=limits)


class StateWatch:
    """Whether the database may have changed since the last look."""

    def __init__(self, folder: DeviceFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = (folder.state, Path(f"{folder.state}-wal"))
        self._clock = clock
        self._seen: object = None
        self._read_at = 0.0

    def has_changed(self) -> bool:
        """True at the first look, after a change, as long as a change is fresh, and every ``READ_EVERY_S`` seconds."""
        now, signs = self._clock(), tuple(map(_signs, self._files))
        if signs == self._seen and now - self._read_at < READ_EVERY_S:
            return False
        is_settled = all(found is None or time.time_ns() - found[2] > _SETTLED_NS for found in signs)
        self._seen, self._read_at = signs if is_settled else None, now
        return True

    def forget(self) -> None:
        """The next look finds a change."""
        self._seen = None


def _signs(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116  # a hundred thousand times a day
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
