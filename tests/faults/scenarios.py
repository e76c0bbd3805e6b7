"""What a device is in the middle of when its power goes or its disk fails: one function each.

A scenario prepares a world and returns what is done then (``act``: that is recorded, cut and disturbed) and what must hold
afterwards. ``power.py``, ``disk_errors.py`` and ``kills.py`` play every one of them. A new scenario is a few lines and an entry in
``SCENARIOS``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from device_client.errors import SelfTestError, StateError, VerificationError
from device_client.install.selftest import SelfTestReport
from device_client.install.state import JournalEntry
from tests.simulator import AUDIT
from tests.unit.device.world import Bundle, World, bundle

Step = Callable[[World], None]
Told = Mapping[tuple[str, str], int]  # event and version


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
    """

    runs: frozenset[float | None]
    settled: float
    told: Told
    act: Step = clean_poll
    cycle: Step | None = None
    wakes_at: datetime | None = None

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
    world.server.blobs[made.model()] = bytes(len(good[made.model()]))

    def repaired(world: World) -> None:
        world.server.blobs = good
        clean_poll(world)

    def broken_then_repaired(world: World) -> None:
        _poll_in_vain(world)
        repaired(world)

    told = {("installed", "1.0.0"): 1, ("installed", "2.0.0"): 1}
    return Expected(frozenset({2.0, 3.0}), 3.0, told, broken_then_repaired, repaired)


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
}


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
