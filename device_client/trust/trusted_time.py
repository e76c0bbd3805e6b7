"""Trusted time: the clock may be wrong or moved, so what was signed says how late it is at least (DESIGN 4, "Time").

A floor is the statement "when the boot clock of boot B stood at S seconds, it was at least T". It comes from ``issued`` of a
verified role and is bound to the keys and threshold that signed it, so that rotating stolen keys drops what they claimed.
Offline roles give hard floors; snapshot and timestamp give soft ones. The wall clock never raises a floor.

    time = TrustedTime(floors)
    time.now()                      # max(clock, every floor + uptime counted since)

Pure, but for ``boot_time`` and the clock.
"""

from __future__ import annotations

import time as monotonic
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from device_client.bundle.digest import Digest
from device_client.trust.times import utc_now

SOFT_ROLES = ("snapshot", "timestamp")  # their keys are on the server
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class BootTime:
    """``seconds`` since the boot that ``boot`` names, sleep included."""

    boot: str
    seconds: float


@dataclass(frozen=True, order=True)
class TimeFloor:
    """It was at least ``time`` when boot ``boot`` was ``seconds`` old; ``keyset`` names who signed that (``keyset_digest``)."""

    role: str
    keyset: Digest
    time: datetime
    boot: str
    seconds: float

    @property
    def is_soft(self) -> bool:
        """Whether keys on the server signed it."""
        return self.role in SOFT_ROLES

    def reading(self, at: BootTime) -> datetime:
        """The time that it proves now: since the floor was stored the machine was up at least this long."""
        passed = at.seconds - self.seconds if at.boot == self.boot else at.seconds
        room = max(0.0, (_END_OF_TIME - self.time).total_seconds())  # a role may carry any date: adding to it must not overflow
        return self.time + timedelta(seconds=min(max(0.0, passed), room))

    def carried(self, at: BootTime) -> TimeFloor:
        """The same statement with the uptime since then counted in, so that the next boot goes on from here."""
        return TimeFloor(self.role, self.keyset, self.reading(at).replace(microsecond=0), at.boot, at.seconds)


class TrustedTime:
    """The latest of the clock and all floors.

    Args:
        floors: those whose keys are trusted now.
        clock: the wall clock, aware UTC.
        uptime: the boot clock.
    """

    def __init__(
        self,
        floors: Iterable[TimeFloor] = (),
        *,
        clock: Callable[[], datetime] = utc_now,
        uptime: Callable[[], BootTime] | None = None,
    ) -> None:
        self._floors = tuple(floors)
        self._clock = clock
        self._uptime = uptime or boot_time

    def now(self) -> datetime:
        """By which everything expires."""
        return self._latest(self._floors)

    def now_by_offline_roles(self) -> datetime:
        """Without what keys on the server claim.

        By this a signed ``not_before`` opens: a thief of the server's keys could otherwise open it early.
        """
        return self._latest(tuple(floor for floor in self._floors if not floor.is_soft))

    def with_floors(self, floors: Iterable[TimeFloor]) -> TrustedTime:
        """The same clocks with further floors."""
        return TrustedTime((*self._floors, *floors), clock=self._clock, uptime=self._uptime)

    def _latest(self, floors: tuple[TimeFloor, ...]) -> datetime:
        at = self._uptime()
        return max([self._clock(), *(floor.reading(at) for floor in floors)]).replace(microsecond=0)


def raised(floors: Iterable[TimeFloor], seen: Iterable[TimeFloor], *, at: BootTime) -> tuple[TimeFloor, ...]:
    """All floors with ``seen`` among them: for each role and key set the one that reads later. Never lowers one."""
    known: dict[tuple[str, Digest], TimeFloor] = {}
    for floor in (*floors, *seen):
        old = known.get((floor.role, floor.keyset))
        if old is None or floor.reading(at) > old.reading(at):
            known[floor.role, floor.keyset] = floor
    return tuple(sorted(known.values()))


def carried(floors: Iterable[TimeFloor], *, at: BootTime) -> tuple[TimeFloor, ...]:
    """All floors with the uptime since they were stored counted in."""
    return tuple(sorted(floor.carried(at) for floor in floors))


def boot_time() -> BootTime:
    """This machine's. Where the kernel names no boot, every process start counts as one: less is proven, nothing false."""
    boot = _boot_id()
    if boot is None:
        return BootTime(f"process-{_PROCESS}", monotonic.monotonic() - _PROCESS)
    return BootTime(boot, monotonic.clock_gettime(monotonic.CLOCK_BOOTTIME))


@cache  # it never changes while a process lives
def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None


_PROCESS = monotonic.monotonic()
