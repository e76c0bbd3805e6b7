"""What must hold after any fault: old or new runs and is whole, nothing remembered is lowered, one clean cycle heals.

Knows the device through its public functions only: ``open_device``, ``open_model``, ``recover``, ``poll``, ``open_state`` and the
mirror.
"""

from __future__ import annotations

import copy
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_client.bundle import Digest, media_types
from device_client.errors import PolicyError, StateError
from device_client.install.boot import recover
from device_client.install.folder import open_device
from device_client.install.mirror import Remembered, merged, parse_mirror, read_mirror
from device_client.install.state import open_state
from device_client.trust.trusted_time import BootTime
from tests.faults.scenarios import Expected
from tests.unit.device.world import World, payload_of

STORE_IS_ENCRYPTED = True  # when it is, no weight may lie readable anywhere below the folder
# What closes the book on a deployment, and what is told once on the way there.
ENDS = frozenset({"installed", "refused", "rolled_back"})
ONCE = frozenset({"activated", *ENDS})
ALARMS = frozenset({"safe", "reset"})  # each belongs to one transaction; other alarms are judgements, made at every poll
_NO_ENDS = frozenset(
    {"known_bad", "superseded", "blob_digest_mismatch", "blob_missing", "not_enrolled"}
)  # reminders, and causes that lie on the way
_BOOTED_S = 20.0
_PIECE_BYTES = 32
_NEVER = datetime.min.replace(tzinfo=UTC)
_NOT_RUNNING = {"not_installed", "safe", "state_missing", "state_damaged", "state_schema", "stopped_by_policy"}


class InvariantError(AssertionError):
    """A device that did not come back as it must."""


def reboot(world: World, folder: Path, *, reports: Sequence[bytes], boots: int = 1) -> World:
    """The device in ``folder`` in a world like ``world``, whose server has seen ``reports``, some starts later."""
    again = copy.copy(world)
    again.server = copy.copy(world.server)
    again.server.blobs = dict(world.server.blobs)
    again.server.reports = list(reports)
    again.server.last_counter = max((payload_of(body)["counter"] for body in reports), default=0)
    again.boot = BootTime(world.boot.boot + "+" * boots, _BOOTED_S)
    again.device = open_device(folder)
    return again


def check_recovery(
    world: World,
    expected: Expected,
    *,
    acknowledged: Remembered,
    weights: Sequence[bytes],
    may_fail: bool = False,
    is_boot: bool = False,
) -> None:
    """Boots, looks, runs one clean cycle, and looks again.

    Args:
        world: the device after the fault, and the world as it was then.
        expected: what the scenario promises.
        acknowledged: what was committed to memory before the fault.
        weights: bytes of models, to be found nowhere on an encrypted disk.
        may_fail: the fault may have been told to the server as the reason of a failed poll.
        is_boot: the machine starts, so that ``device recover`` runs as well; what is asked of the model holds before it, too.

    Raises:
        InvariantError: what does not hold.
    """
    if not expected.needs_boot:
        _check_runs(world, expected, when="after the fault")
    if is_boot or expected.needs_boot:
        recover(world.device, clock=world.clock, uptime=world.uptime)
        _check_runs(world, expected, when="after the boot")
    check_no_weights(world.device.folder.path, weights)
    expected.heal(world)
    check_settled(world, expected, acknowledged=acknowledged, weights=weights, may_fail=may_fail)


def _check_runs(world: World, expected: Expected, *, when: str) -> None:
    found = runs(world)
    if found not in expected.runs:
        raise InvariantError(f"{when} {found} runs, expected one of {sorted(map(str, expected.runs))}")


def check_settled(
    world: World, expected: Expected, *, acknowledged: Remembered, weights: Sequence[bytes], may_fail: bool = False
) -> None:
    """What holds when a clean cycle is over."""
    found = runs(world)
    if found != expected.settled:
        raise InvariantError(f"after a clean cycle {found} runs, expected {expected.settled}")
    check_memory(world, acknowledged)
    check_reports(world, expected, may_fail=may_fail)
    check_no_weights(world.device.folder.path, weights)
    if expected.holds is not None:
        expected.holds(world)


def runs(world: World) -> float | None:
    """The scale of the model that opens and computes; None if the device says that there is none."""
    try:
        return world.running()
    except (StateError, PolicyError) as error:
        if error.code not in _NOT_RUNNING:
            raise InvariantError(f"the model does not open: {error}") from error
        return None


def check_memory(world: World, acknowledged: Remembered) -> None:
    """Both copies of the memory are at least as high as what was committed."""
    folder = world.device.folder
    for name, found in (("state.db", remembered(folder.state)), ("marks.json", mirrored(folder.marks))):
        if found is None or not _is_as_high(found, acknowledged, at=world.boot):
            raise InvariantError(f"{name} remembers less than was committed before the fault")


def check_reports(world: World, expected: Expected, *, may_fail: bool) -> None:
    """What is told once of each deployment reached the server exactly once, its end above all; nothing waits; no fault was one of
    the program's."""
    with world.state() as state:
        if state.outbox():
            raise InvariantError(f"{len(state.outbox())} reports wait after a clean cycle")
    by_counter = {(report["generation"], report["counter"]): report for report in world.reports()}
    failed = {each["code"] for each in by_counter.values() if each["event"] == "failed"}
    if "internal" in failed or (not may_fail and failed - _NO_ENDS - expected.fails):
        raise InvariantError(f"polls failed: {sorted(failed)}")
    told = Counter(filter(None, map(_told_once, by_counter.values())))
    if told != dict(expected.told):
        raise InvariantError(f"the server was told {json.dumps({str(key): n for key, n in sorted(told.items())})}")


def _told_once(report: dict[str, Any]) -> tuple[str, str] | None:
    """Event and version of a report that must not come twice; an alarm is its code."""
    event, code = report["event"], report["code"]
    if event == "alarm" and code in ALARMS:
        event = code
    elif event not in ONCE or code in _NO_ENDS:
        return None
    return event, (report["target"] or {}).get("version", "")


def check_no_weights(folder: Path, weights: Sequence[bytes], *, is_encrypted: bool | None = None) -> None:
    """No model lies readable on an encrypted disk."""
    if not (STORE_IS_ENCRYPTED if is_encrypted is None else is_encrypted):
        return
    for path in _files(folder):
        data = path.read_bytes()
        for weight in weights:
            if weight in data:
                raise InvariantError(f"weights lie readable in {path}")


def weights(world: World) -> list[bytes]:
    """Pieces of every model that the server holds, each of which is in no other file."""
    found = []
    for blob in list(world.server.blobs.values()):
        if blob.startswith(b"{") and media_types.WEIGHT.encode() in blob and b'"layers"' in blob:
            layers = json.loads(blob)["layers"]
            found += [Digest.parse(layer["digest"], where="layer") for layer in layers if layer["mediaType"] == media_types.WEIGHT]
    models = [world.server.blobs[digest] for digest in dict.fromkeys(found) if digest in world.server.blobs]
    return [data[at : at + _PIECE_BYTES] for data in models for at in (0, len(data) // 2, len(data) - _PIECE_BYTES)]


def remembered(path: Path) -> Remembered | None:
    """The memory in a database, or None if it is lost."""
    with suppress(StateError), open_state(path) as state:
        return state.remembered()
    return None


def mirrored(path: Path) -> Remembered | None:
    """The memory in a mirror, or None if it is lost."""
    data = read_mirror(path)
    return None if data is None else parse_mirror(data)


def _is_as_high(found: Remembered, before: Remembered, *, at: BootTime) -> bool:
    """Nothing is lost or lowered. Of times it is the reading that counts, not by which boot it is written down."""
    readings = {(floor.role, floor.keyset): floor.reading(at) for floor in found.marks.times}
    if any(readings.get((floor.role, floor.keyset), _NEVER) < floor.reading(at) for floor in before.marks.times):
        return False
    one, other = (replace(each, marks=replace(each.marks, times=())) for each in (found, before))
    return merged(one, other, at=at) == one


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode) and os.access(path, os.R_OK):
            yield path
