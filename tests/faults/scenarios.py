"""What a device is in the middle of when its power goes or its disk fails: one function each.

A scenario prepares a world and returns what is done then (``act``: that is recorded, cut and disturbed) and what must hold
afterwards. ``power.py``, ``disk_errors.py`` and ``kills.py`` play every one of them. A new scenario is a few lines and an entry in
``SCENARIOS``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from device_client.bundle import Digest
from device_client.errors import SelfTestError, StateError, TransportError, VerificationError
from device_client.install import boot
from device_client.install.boot import find_fault, recover
from device_client.install.by_hand import reset, roll_back_by_hand
from device_client.install.collection import KEPT_COMMITTED, kept_deployments
from device_client.install.health import record_vote
from device_client.install.http import LostConnectionError
from device_client.install.rollback import Holdings
from device_client.install.sealed import CHUNK_BYTES
from device_client.install.selftest import SelfTestReport
from device_client.install.state import JournalEntry
from device_client.install.store import open_store
from device_client.trust.trusted_time import BootTime
from tests.simulator import AUDIT
from tests.unit.device.offline_files import import_into, release, write_file
from tests.unit.device.world import THE_MODEL, Bundle, FakeServer, World, bundle
from tests.unit.inference import models

Step = Callable[[World], None]
Told = Mapping[tuple[str, str], int]  # event, or the code of an alarm, and version
WATCHED = "[probation]\nminutes = 10\n"


def passes(*_: Any, **__: Any) -> SelfTestReport:
    """A self-test that passes at once; the real one is tested elsewhere."""
    return SelfTestReport(0.0, 0, "none")


def fails(*_: Any, **__: Any) -> SelfTestReport:
    """A self-test that finds other outputs."""
    raise SelfTestError("the model computes something else", code="selftest_mismatch", where="golden self-test")


def clean_poll(world: World) -> None:
    """One poll that nothing disturbs."""
    world.poll(selftest=passes)


def refused_poll(world: World) -> None:
    """One poll whose self-test fails, or is not even tried again."""
    _poll_in_vain(world, selftest=fails)


def install(world: World, version: str, *, counter: int, scale: float) -> Bundle:
    """Publishes a bundle and has the device install it."""
    made = bundle(version, counter=counter, scale=scale)
    world.publish(made)
    if world.poll(selftest=passes).result != "installed":
        raise AssertionError(f"{version} is not installed")
    return made


@dataclass(frozen=True)
class Expected:
    """What must hold whatever happens.

    Attributes:
        runs: scales that may run between the fault and the next clean cycle; None stands for a model that may not run yet.
        settled: the scale that runs after it.
        told: how often each end (event, version) is reported, once all is over.
        act: what the device is doing.
        cycle: what a clean cycle is here, if it is not the same again.
        wakes_at: what the wall clock shows after a power cut, if not what it showed before.
        needs_boot: nothing opens before ``device recover`` has run, since it is the disk's damage that the scenario is about.
        fails: codes that a failed poll may tell the server, since they are part of the scenario.
        holds: what else must hold after a clean cycle.
    """

    runs: frozenset[float | None]
    settled: float
    told: Told
    act: Step = clean_poll
    cycle: Step | None = None
    wakes_at: datetime | None = None
    needs_boot: bool = False
    fails: frozenset[str] = frozenset()
    holds: Step | None = None

    def heal(self, world: World) -> None:
        """One clean cycle."""
        (self.cycle or self.act)(world)


Scenario = Callable[[World], Expected]


def first_install(world: World) -> Expected:
    """Nothing runs; 1.0.0 comes."""
    world.publish(bundle("1.0.0", counter=1, scale=2.0))
    return Expected(frozenset({None, 2.0}), 2.0, {("installed", "1.0.0"): 1})


def update(world: World) -> Expected:
    """1.0.0 runs; 2.0.0 comes, with a channel that raises the floor."""
    install(world, "1.0.0", counter=1, scale=2.0)
    made = bundle("2.0.0", counter=2, scale=3.0)
    world.channel(made, floor=1)
    world.publish(made)
    return Expected(frozenset({2.0, 3.0}), 3.0, {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1})


def update_without_a_clock(world: World) -> Expected:
    """The same on a board without a battery: after the power cut its clock shows 1970."""
    return replace(update(world), wakes_at=datetime(1970, 1, 1, 0, 0, 30, tzinfo=UTC))


def refused_selftest(world: World) -> Expected:
    """1.0.0 runs; 2.0.0 fails its self-test and is remembered as bad."""
    install(world, "1.0.0", counter=1, scale=2.0)
    world.publish(bundle("2.0.0", counter=2, scale=3.0))
    told = {("installed", "1.0.0"): 1, ("refused", "2.0.0"): 1}
    return Expected(frozenset({2.0}), 2.0, told, refused_poll)


def withdrawal(world: World) -> Expected:
    """2.0.0 runs and is withdrawn; the device falls back to 1.0.0."""
    install(world, "1.0.0", counter=1, scale=2.0)
    second = install(world, "2.0.0", counter=2, scale=3.0)
    world.audit_entry(second, seq=5, status="withdrawn")
    world.sim.publish(AUDIT)
    world.server.offered = None
    told = {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1, ("rolled_back", "1.0.0"): 1}
    return Expected(frozenset({2.0, 3.0}), 2.0, told)


def lost_database(world: World) -> Expected:
    """The database is damaged; it is made anew from the mirror, and the model is installed again."""
    install(world, "1.0.0", counter=1, scale=2.0)
    with world.device.folder.state.open("r+b") as file:
        file.write(bytes(4096))
    return Expected(frozenset({None, 2.0}), 2.0, {("installed", "1.0.0"): 2}, _enrol_and_poll)


def lost_database_with_log(world: World) -> Expected:
    """The same, with the log of the damaged database still beside it: it must not become the new database's log."""
    install(world, "1.0.0", counter=1, scale=2.0)
    database = world.device.folder.state
    log = database.with_name(f"{database.name}-wal")
    with world.state() as state, state.transaction():
        state.write_journal(JournalEntry(world.now, "digits/ocr", "checked"))
    with world.state() as state:
        with state.transaction():
            state.set_enrolment("an older token", "accepted")
        left = log.read_bytes()
    log.write_bytes(left)
    log.chmod(0o600)
    with database.open("r+b") as file:
        file.write(bytes(4096))
    return Expected(frozenset({None, 2.0}), 2.0, {("installed", "1.0.0"): 2}, _enrol_and_poll)


def lost_mirror(world: World) -> Expected:
    """marks.json is gone; it is made anew from the database, and an update comes."""
    install(world, "1.0.0", counter=1, scale=2.0)
    world.device.folder.marks.unlink()
    world.publish(bundle("2.0.0", counter=2, scale=3.0))
    return Expected(frozenset({2.0, 3.0}), 3.0, {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1})


def rotated_root(world: World) -> Expected:
    """Keys rotate twice before the update: roots are walked, cached roles forgotten."""
    install(world, "1.0.0", counter=1, scale=2.0)
    world.sim.rotate("timestamp")
    world.sim.rotate("snapshot")
    world.publish(bundle("2.0.0", counter=2, scale=3.0))
    return Expected(frozenset({2.0, 3.0}), 3.0, {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1})


def broken_download(world: World) -> Expected:
    """The model's bytes come damaged, then whole: nothing is held against the digest."""
    install(world, "1.0.0", counter=1, scale=2.0)
    made = bundle("2.0.0", counter=2, scale=3.0)
    world.publish(made)
    good = dict(world.server.blobs)
    data = bytearray(good[made.model()])
    data[_PIECE_BYTES + 1] ^= 1  # between the pieces by which ``aftermath.py`` looks for the model
    world.server.blobs[made.model()] = bytes(data)

    def repaired(world: World) -> None:
        world.server.blobs = good
        clean_poll(world)

    def broken_then_repaired(world: World) -> None:
        _poll_in_vain(world)
        repaired(world)

    told = {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1}
    return Expected(frozenset({2.0, 3.0}), 3.0, told, broken_then_repaired, repaired)


def probation_committed(world: World) -> Expected:
    """1.0.0 runs; 2.0.0 comes, is watched for ten minutes, and is committed."""
    install(world, "1.0.0", counter=1, scale=2.0)
    world.set_policy(WATCHED)
    world.publish(bundle("2.0.0", counter=2, scale=3.0))

    def watched(world: World) -> None:
        clean_poll(world)
        world.boot = BootTime(world.boot.boot, world.boot.seconds + 660.0)
        clean_poll(world)

    told = {("installed", "1.0.0"): 1, ("activated", "2.0.0"): 1, ("installed", "2.0.0"): 1}
    return Expected(frozenset({2.0, 3.0}), 3.0, told, watched)


def probation_rolled_back(world: World) -> Expected:
    """2.0.0 is watched, and an application votes against it."""
    install(world, "1.0.0", counter=1, scale=2.0)
    world.set_policy(WATCHED)
    made = install(world, "2.0.0", counter=2, scale=3.0)

    def voted_down(world: World) -> None:
        with _judging_by(world):
            record_vote(world.device.folder, THE_MODEL, made.digest, good=False)
        _poll_in_vain(world)

    told = {("installed", "1.0.0"): 1, ("activated", "2.0.0"): 1, ("rolled_back", "1.0.0"): 1}
    return Expected(frozenset({2.0, 3.0}), 2.0, told, voted_down)


def rollback_by_hand(world: World) -> Expected:
    """2.0.0 runs, and a person goes back to 1.0.0; after a fault again, if it was in vain."""
    _install_two(world)

    def go_back(world: World) -> None:
        if world.running() == 3.0:
            roll_back_by_hand(world.device, THE_MODEL, clock=world.clock, uptime=world.uptime)
        clean_poll(world)

    return Expected(frozenset({2.0, 3.0}), 2.0, {**_TWO, ("rolled_back", "1.0.0"): 1}, go_back)


def boot_recovery(world: World) -> Expected:
    """2.0.0 is damaged on the disk; the device goes back to 1.0.0 at boot."""
    _damage(world, _install_two(world))
    told = {**_TWO, ("rolled_back", "1.0.0"): 1}
    return Expected(frozenset({2.0}), 2.0, told, _boot_and_poll, needs_boot=True)


def nothing_left(world: World) -> Expected:
    """The only bundle is damaged on the disk; the device is safe, polls, and has it again."""
    _damage(world, install(world, "1.0.0", counter=1, scale=2.0))
    told = {("installed", "1.0.0"): 2, ("safe", "1.0.0"): 1}
    return Expected(frozenset({None, 2.0}), 2.0, told, _boot_and_poll, needs_boot=True)


def garbage_collection(world: World) -> Expected:
    """The fourth release comes: blobs and evidence of the first go, what may run again stays whole."""
    for number in (1, 2, 3):
        install(world, f"{number}.0.0", counter=number, scale=number + 1.0)
    world.publish(bundle("4.0.0", counter=4, scale=5.0))
    told = {("installed", f"{number}.0.0"): 1 for number in (1, 2, 3, 4)}
    return Expected(frozenset({4.0, 5.0}), 5.0, told, holds=_holds_three_whole)


def offline_import(world: World) -> Expected:
    """2.0.0 comes in a file that a person brings."""
    install(world, "1.0.0", counter=1, scale=2.0)
    world.server.offered = None
    path = write_file(world.device.folder.path.parent / "brought.tar", release(world, bundle("2.0.0", counter=2, scale=3.0)))

    def bring(world: World) -> None:
        import_into(world, path, selftest=passes)
        clean_poll(world)

    return Expected(frozenset({2.0, 3.0}), 3.0, {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1}, bring)


def reset_by_hand(world: World) -> Expected:
    """2.0.0 runs; a person resets the device to its factory bundle, and it polls: after a fault, if it was in vain, again."""
    install(world, "1.0.0", counter=1, scale=2.0)
    with world.state() as state, state.transaction():
        found = state.active(THE_MODEL)
        if found is None:
            raise AssertionError("nothing runs")
        state.mark_factory(found)
    install(world, "2.0.0", counter=2, scale=3.0)

    def start_over(world: World) -> None:
        with world.state() as state:
            is_reset = any(entry.code == "reset" for entry in state.journal(limit=20))
        if not is_reset:
            reset(world.device, clock=world.clock, uptime=world.uptime)
        clean_poll(world)

    told = {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 2, ("reset", ""): 1}
    return Expected(frozenset({2.0, 3.0}), 3.0, told, start_over)


def resumed_download(world: World) -> Expected:
    """The connection breaks in the model's second chunk; the next poll goes on with what is there."""
    world.server = RangedServer()
    install(world, "1.0.0", counter=1, scale=2.0)
    noise = np.random.default_rng(7).integers(0, 256, CHUNK_BYTES + 4096, np.uint8)
    world.publish(bundle("2.0.0", counter=2, scale=3.0, data=_linear_with(noise, scale=3.0)))

    def mended(world: World) -> None:
        world.server.breaks_at = None  # type: ignore[attr-defined]
        clean_poll(world)

    def broken_then_resumed(world: World) -> None:
        world.server.breaks_at = CHUNK_BYTES + 1024  # type: ignore[attr-defined]
        with contextlib.suppress(TransportError):
            clean_poll(world)
        mended(world)

    told = {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1}
    return Expected(frozenset({2.0, 3.0}), 3.0, told, broken_then_resumed, mended, fails=frozenset({"transport"}))


SCENARIOS: dict[str, Scenario] = {
    "first install": first_install,
    "update": update,
    "update without a clock": update_without_a_clock,
    "refused self-test": refused_selftest,
    "withdrawal": withdrawal,
    "lost database": lost_database,
    "lost database with its log": lost_database_with_log,
    "lost mirror": lost_mirror,
    "rotated root": rotated_root,
    "broken download": broken_download,
    "resumed download": resumed_download,
    "probation committed": probation_committed,
    "probation rolled back": probation_rolled_back,
    "rollback by hand": rollback_by_hand,
    "boot recovery": boot_recovery,
    "nothing left": nothing_left,
    "garbage collection": garbage_collection,
    "import": offline_import,
    "reset": reset_by_hand,
}


class RangedServer(FakeServer):
    """A server that goes on with a download. ``breaks_at`` is where the connection is lost."""

    breaks_at: int | None = None

    def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
        return self._send(path, 0, write)

    def resume(self, path: str, *, size: int, offset: int, etag: str, write: Callable[[bytes], None]) -> int:
        return self._send(path, offset, write)

    def _send(self, path: str, offset: int, write: Callable[[bytes], None]) -> int:
        data = self.blobs[Digest(path.rpartition("/")[2])]
        end = len(data) if self.breaks_at is None else self.breaks_at
        for begin in range(offset, min(end, len(data)), _STEP_BYTES):
            write(data[begin : min(begin + _STEP_BYTES, end)])
        if end < len(data):
            raise LostConnectionError("the connection is lost", code="transport", where=path)
        return len(data) - offset


_STEP_BYTES = 65536
_PIECE_BYTES = 32
_TWO: Told = {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1}


def _linear_with(noise: Any, *, scale: float) -> bytes:
    """A model of some hundred kilobytes, most of which it does not use."""
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    weight = numpy_helper.from_array(np.full((3,), scale, np.float32), "w")
    found: bytes = models.model([node], initializers=[weight, numpy_helper.from_array(noise, "noise")]).SerializeToString()
    return found


def _install_two(world: World) -> Bundle:
    """1.0.0 ran, 2.0.0 runs and is returned; nothing more is offered."""
    install(world, "1.0.0", counter=1, scale=2.0)
    made = install(world, "2.0.0", counter=2, scale=3.0)
    world.server.offered = None
    return made


def _damage(world: World, made: Bundle) -> None:
    """One byte of the model is another."""
    path = world.device.folder.blobs / "sha256" / made.model().hex
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    path.chmod(0o400)


def _boot_and_poll(world: World) -> None:
    recover(world.device, clock=world.clock, uptime=world.uptime)
    clean_poll(world)


def _holds_three_whole(world: World) -> None:
    """What the device may go back to is what was signed for, to the last byte."""
    with world.state() as state:
        held = Holdings(world.device, state, open_store(world.device.folder), THE_MODEL)
        kept = kept_deployments(state, THE_MODEL)
        faults = [str(fault) for deployment in kept if (fault := find_fault(held, deployment)) is not None]
    if len(kept) != KEPT_COMMITTED or faults:
        raise AssertionError(f"{len(kept)} bundles are kept; faults: {faults}")


@contextlib.contextmanager
def _judging_by(world: World) -> Iterator[None]:
    """A vote is acted upon by the world's clocks."""
    real = boot.judge
    boot.judge = lambda folder, model: real(folder, model, clock=world.clock, uptime=world.uptime)  # type: ignore[assignment]
    try:
        yield
    finally:
        boot.judge = real


def _enrol_and_poll(world: World) -> None:
    """The memory is restored by the first poll, which then finds that it must enrol."""
    _poll_in_vain(world)
    world.enroll()
    clean_poll(world)


def _poll_in_vain(world: World, **arguments: Any) -> None:
    with contextlib.suppress(VerificationError):
        try:
            world.poll(**{"selftest": passes} | arguments)
        except StateError as error:
            if error.code != "not_enrolled":
                raise
