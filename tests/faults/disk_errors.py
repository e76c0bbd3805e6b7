"""Makes one call to the disk fail, in a live run: full from there on, read-only from there on, or an error of the device once.

The run must end well or with an error of Sealift's own, leave what ran as it was, and not keep the next clean cycle from finishing.

    for report in [disturb("update", folder, failure) for failure in Failure]: ...
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from device_client.errors import SealiftError
from device_client.install.machine import State
from device_client.install.mirror import merged
from tests.faults.aftermath import InvariantError, check_memory, check_no_weights, check_recovery, reboot, weights
from tests.faults.power import DEVICE, Prepared, committed, prepare, remove
from tests.faults.recorder import EscapedError, Recorder
from tests.unit.device.world import THE_MODEL, World


class Failure(Enum):
    """How the disk fails, and with which error."""

    FULL = "no space from here on"
    READ_ONLY = "read-only from here on"
    BROKEN = "an input/output error here"
    BROKEN_FILE = "input/output errors from here on, for this file"


_READS = frozenset({"open", "read", "open a database"})
_NEEDS_SPACE = frozenset({"write", "mkdir", "symlink", "link", "allocate", "commit", "fsync"})
_CODES = {
    Failure.FULL: (errno.ENOSPC, sqlite3.SQLITE_FULL, "database or disk is full"),
    Failure.READ_ONLY: (errno.EROFS, sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    Failure.BROKEN: (errno.EIO, sqlite3.SQLITE_IOERR, "disk I/O error"),
    Failure.BROKEN_FILE: (errno.EIO, sqlite3.SQLITE_IOERR, "disk I/O error"),
}


@dataclass(frozen=True)
class Report:
    """How many calls of a scenario were made to fail, and how the runs ended: the code of an error, or ``finished``."""

    scenario: str
    failure: Failure
    runs: int
    ends: Counter[str]


class Disturbance:
    """Fails call ``at`` (counted from 0) and, by its kind, those after it. Ends when ``over`` is set."""

    def __init__(self, failure: Failure, *, at: int) -> None:
        self.failure = failure
        self._at = at
        self._count = 0
        self._path: str | None = None
        self.hit: tuple[str, str] | None = None

    def __call__(self, kind: str, path: str) -> Exception | None:
        """For ``Recorder(fault=...)``."""
        count, self._count = self._count, self._count + 1
        if count < self._at or not self._applies(kind, path, is_first=count == self._at):
            return None
        self.hit = self.hit or (kind, path)
        number, code, text = _CODES[self.failure]
        if kind in {"commit", "open a database"}:
            error = sqlite3.OperationalError(text)
            error.sqlite_errorcode = code
            return error
        return OSError(number, os.strerror(number), path)

    def _applies(self, kind: str, path: str, *, is_first: bool) -> bool:
        match self.failure:
            case Failure.FULL:
                return kind in _NEEDS_SPACE
            case Failure.READ_ONLY:
                return kind not in _READS and kind != "fsync"
            case Failure.BROKEN:
                return is_first
        self._path = path if is_first else self._path
        return path == self._path


def disturb(name: str, folder: Path, failure: Failure, *, every: int = 1, start: int = 0) -> Report:
    """Runs a scenario once for every ``every``-th of its calls, which fails.

    Raises:
        InvariantError: names the call.
    """
    prepared = prepare(name, folder / "prepared")
    total = len(_calls(prepared, folder))
    ends: Counter[str] = Counter()
    for at in itertools.islice(range(total), start, None, every):
        fault = Disturbance(failure, at=at)
        try:
            ends[_run(prepared, folder, fault)] += 1
        except Exception as error:
            raise InvariantError(f"{name}: {failure.value}, call {at} of {total}, {fault.hit}: {error!r}") from error
    return Report(name, failure, sum(ends.values()), ends)


def _calls(prepared: Prepared, folder: Path) -> list[tuple[str, str]]:
    place = folder / "run"
    shutil.copytree(folder / "prepared", place, symlinks=True)
    world = reboot(prepared.world, place / DEVICE, reports=prepared.world.server.reports)
    with Recorder(place, fault=lambda *_: None) as recorder:
        prepared.expected.act(world)
    remove(place)
    return recorder.calls


def _run(prepared: Prepared, folder: Path, fault: Disturbance) -> str:
    place = folder / "run"
    shutil.copytree(folder / "prepared", place, symlinks=True)
    world = reboot(prepared.world, place / DEVICE, reports=prepared.world.server.reports)
    end = "finished"
    with Recorder(place, fault=fault) as recorder:
        try:
            prepared.expected.act(world)
        except SealiftError as error:
            end = error.code
            if end == "internal":
                raise InvariantError(f"an error that nobody expected: {error.__cause__!r}") from error
    memory = prepared.memory
    for _, found in committed(recorder, folder):
        memory = merged(memory, found, at=world.boot)
    after = reboot(world, place / DEVICE, reports=world.server.reports)
    if _took_a_bundle(after, prepared, fault):
        check_memory(after, memory)
        check_no_weights(after.device.folder.path, weights(after))
        remove(place)
        return "safe"
    check_recovery(after, prepared.expected, acknowledged=memory, weights=weights(after), may_fail=True)
    remove(place)
    return end


def _took_a_bundle(after: World, prepared: Prepared, fault: Disturbance) -> bool:
    """The disk did not give a blob, however often it was asked, of the only bundle to go back to: that one is lost, and the device
    is safe, also when the disk has come to itself. Only the next release or a person helps."""
    is_blob = fault.hit is not None and "/blobs/sha256/" in fault.hit[1]
    if fault.failure is not Failure.BROKEN_FILE or not is_blob or None in prepared.expected.runs:
        return False
    with after.state() as state:
        return state.progress(THE_MODEL).state is State.SAFE


__all__ = ["EscapedError", "Failure", "Report", "disturb"]
