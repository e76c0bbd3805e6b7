"""Opens the device's state for changes, after bringing both copies of its memory together.

Called under the lock, by whoever is about to change something. So long as one of ``state.db`` and ``marks.json`` survives,
nothing that was remembered is lowered: not by a lost file, a damaged one, or an old copy put back. Each of these is told: an
alarm in the journal and in the next report. Both lost, or both put back to the same old day, is beyond what this machine can
see; the server sees it, by the marks in the reports.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, LimitError, StateError
from device_client.install.database import create_database
from device_client.install.factory import bring_back_factory
from device_client.install.folder import Device
from device_client.install.ledger import Ledger
from device_client.install.mirror import Remembered, encode_mirror, merged, parse_mirror, read_mirror
from device_client.install.state import DeviceState, open_state
from device_client.trust.files import sync_folder
from device_client.trust.trusted_time import BootTime

logger = logging.getLogger(__name__)

MAX_SET_ASIDE = 4  # damaged databases that are kept for people to look at
LOOKS = 3  # at a database before it counts as lost
_LOST = ("state_missing", "state_damaged", "state_schema")
_PARTS = ("", "-wal", "-shm")  # of one database; -wal holds commits that are not in the main file yet


def open_memory(device: Device, model: ModelPath, *, now: datetime, at: BootTime) -> DeviceState:
    """The open state, with a memory that is as high as either copy.

    Args:
        device: whose folder is locked.
        model: what the caller is about to work on; alarms are reported with it.
        now: for the journal.
        at: the boot clock, by which time floors are compared.

    The steps:
        1. The database, and the memory in it; or why it is lost. A foreign owner, or a newer client's, is never touched.
        2. The mirror, likewise.
        3. Both are lost: nothing here may pretend to remember.
        4. Only the database is lost: it is set aside, and a new one is made from the mirror, of the next generation.
        5. Both are there: each is raised to the higher of the two.

    Raises:
        StateError: ``state_missing``, ``state_owner``, ``state_newer``, ``state_unwritable``, ``state_full``; for a lost
            database without a good mirror also ``state_damaged`` or ``state_schema``.
    """
    state, remembered, lost = _read_state(device)  # 1
    try:
        mirror, data = _read_mirror(device.folder.marks)  # 2
        if state is None or remembered is None:
            if mirror is None:  # 3
                raise _both_lost(device, lost)
            return _rebuilt(device, model, mirror, lost, now=now, at=at)  # 4
        if mirror is None:
            what = "marks.json was missing" if data is None else "marks.json was damaged"
        else:
            both = merged(remembered, mirror, at=at)  # 5
            behind = (("state.db", both != remembered), ("marks.json", encode_mirror(both) != data))
            what = " and ".join(f"{name} was behind" for name, is_behind in behind if is_behind)
            remembered = both
        if what:
            _level(device, state, model, remembered, what, now=now, at=at)
    except BaseException:
        if state is not None:
            state.close()
        raise
    return state


def _read_state(device: Device) -> tuple[DeviceState | None, Remembered | None, StateError | None]:
    """The database and its memory, or why it is lost: found so every time that it is looked at, not by a disk's passing error."""
    lost: StateError | None = None
    for _ in range(LOOKS):
        try:
            state, remembered = _look_at_state(device)
        except StateError as e:
            if e.code not in _LOST:
                raise
            lost = e
        else:
            return state, remembered, None
    return None, None, lost


def _look_at_state(device: Device) -> tuple[DeviceState, Remembered]:
    state = open_state(device.folder.state)
    try:
        for model in device.config.models:  # a poll could not go on without these
            state.progress(model), state.active(model), state.held(model)
        return state, state.remembered()
    except BaseException:
        state.close()
        raise


def _read_mirror(path: Path) -> tuple[Remembered | None, bytes | None]:
    data = read_mirror(path)
    if data is None:
        return None, None
    try:
        return parse_mirror(data), data
    except (FormatError, LimitError) as e:
        logger.warning("%s is damaged: %s", path, e)
        return None, data


def _level(
    device: Device, state: DeviceState, model: ModelPath, both: Remembered, what: str, *, now: datetime, at: BootTime
) -> None:
    logger.warning("%s; restored from the other copy", what)
    with state.transaction():
        state.restore(both, at=at)
        _tell(device, state, model, code="memory_restored", detail=f"{what}: restored from the other copy", now=now)


def _rebuilt(
    device: Device, model: ModelPath, mirror: Remembered, lost: StateError | None, *, now: datetime, at: BootTime
) -> DeviceState:
    try:
        return _rebuild(device, model, mirror, lost, now=now, at=at)
    except OSError as e:
        where = str(device.folder.state)
        raise StateError("the state cannot be made anew", code="state_unwritable", where=where, actual=e.strerror) from e


def _rebuild(
    device: Device, model: ModelPath, mirror: Remembered, lost: StateError | None, *, now: datetime, at: BootTime
) -> DeviceState:
    """Complete beside its place, then renamed: a power cut leaves the loss as it was, to be found again."""
    path = device.folder.state
    making = path.with_name(f"{path.name}.new")
    for part in _PARTS:
        making.with_name(making.name + part).unlink(missing_ok=True)
    logger.warning("the state is rebuilt from marks.json: %s", lost)
    create_database(making)
    with open_state(making) as state:
        with state.transaction():
            state.restore(replace(mirror, generation=mirror.generation + 1), at=at)
        factory = [each for each in device.config.models if bring_back_factory(device, state, each, now=now) is not None]
        why = "missing" if lost is None or lost.code == "state_missing" else "damaged"
        runs = f"the factory bundle of {', '.join(map(str, factory))} runs" if factory else "nothing is installed"
        detail = f"state.db was {why}: made anew from marks.json; {runs}, and the device must enrol again"
        with state.transaction():
            _tell(device, state, model, code="state_rebuilt", detail=detail, now=now)
    _set_aside(path)
    sync_folder(path.parent)  # first: SQLite would take a log that came back under the old name for the new database's
    making.rename(path)
    sync_folder(path.parent)
    return open_state(path)


def _set_aside(path: Path) -> None:
    """Moves what is left of a lost database out of the way; beyond its bound the oldest goes."""
    kept = sorted(path.parent.glob(f"{path.name}.lost-[0-9]*"), key=lambda each: each.stat().st_mtime_ns)
    names = {each.name.removesuffix("-wal").removesuffix("-shm") for each in kept}
    number = 1 + max((int(name.rpartition("-")[2]) for name in names if name.rpartition("-")[2].isdigit()), default=0)
    for part in _PARTS:  # the main file first: without it, a log that stayed behind is found and moved by the next try
        left = path.with_name(path.name + part)
        if left.exists():
            left.rename(path.with_name(f"{path.name}.lost-{number}{part}"))
    for old in range(1, number - MAX_SET_ASIDE + 1):
        for part in _PARTS:
            path.with_name(f"{path.name}.lost-{old}{part}").unlink(missing_ok=True)


def _tell(device: Device, state: DeviceState, model: ModelPath, *, code: str, detail: str, now: datetime) -> None:
    Ledger(device, state, model, clock=lambda: now).note("alarm", now, code=code, detail=detail)


def _both_lost(device: Device, lost: StateError | None) -> StateError:
    return StateError(
        "both copies of the device's memory are lost",
        code="state_missing" if lost is None else lost.code,
        where=str(device.folder.path),
        actual=lost.what if lost is not None else None,
        hint="put state.db or marks.json back from a copy; or make a new device in a new folder with `sealift device init`,"
        " which then knows of no withdrawal and no floor",
    )
