"""Every kind of loss: so long as one copy of the memory survives, nothing that was remembered is lowered."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import Counter
from device_client.errors import StateError
from device_client.install import recovery
from device_client.install.enroll import enroll
from device_client.install.http import Answer
from device_client.install.mirror import Remembered, parse_mirror
from device_client.install.selftest import SelfTestReport
from device_client.trust.keys import fingerprint, key_from_json
from tests.simulator import AUDIT, RELEASE
from tests.unit.device.world import THE_MODEL, Bundle, FakeServer, World, bundle, payload_of

Change = Callable[[World], None]


def passes(*_: Any, **__: Any) -> SelfTestReport:
    return SelfTestReport(0.0, 0, "none")


def upgrade(world: World) -> Bundle:
    """Installs 2.0.0, withdraws 1.0.0, raises the floor: everything that is remembered goes up."""
    old = bundle("1.0.0", counter=1)
    world.publish(old)
    world.poll(selftest=passes)
    copy_memory(world, "day1")
    new = bundle("2.0.0", counter=2, scale=3.0)
    world.publish(new, seq=2)
    world.channel(new, floor=2)
    world.sim.publish(RELEASE)
    world.poll(selftest=passes)
    world.audit_entry(old, seq=3, status="withdrawn")
    world.sim.publish(AUDIT)
    world.server.offered = "1.0.0"
    assert world.refusal().code == "withdrawn"
    world.server.offered = "2.0.0"
    assert world.poll().result == "current"
    return new


@pytest.fixture
def upgraded(world: World) -> World:
    upgrade(world)
    return world


def remembered(world: World) -> Remembered:
    with world.state() as state:
        return state.remembered()


def mirrored(world: World) -> Remembered:
    return parse_mirror(world.device.folder.marks.read_bytes())


def copy_memory(world: World, name: str) -> None:
    kept = world.device.folder.path.parent / name
    kept.mkdir()
    shutil.copy2(world.device.folder.marks, kept)
    with sqlite3.connect(world.device.folder.state) as source, sqlite3.connect(kept / "state.db") as target:
        source.backup(target)
    source.close()
    target.close()
    (kept / "state.db").chmod(0o600)


def restore_memory(world: World, *names: str) -> None:
    for name in names:
        shutil.copy2(world.device.folder.path.parent / "day1" / name, world.device.folder.path / name)


def lose_database(world: World) -> None:
    world.device.folder.state.unlink()


def empty_database(world: World) -> None:
    world.device.folder.state.write_bytes(b"")


def overwrite_database(world: World) -> None:
    data = bytearray(world.device.folder.state.read_bytes())
    data[100:-100] = b"\xff" * (len(data) - 200)
    world.device.folder.state.write_bytes(data)


def truncate_database(world: World) -> None:
    data = world.device.folder.state.read_bytes()
    world.device.folder.state.write_bytes(data[: len(data) // 2])


def spoil_memory_rows(world: World) -> None:
    with world.state() as state, state.transaction():
        state._db.change("UPDATE counters SET manifest = 'x'")


def plant_trigger(world: World) -> None:
    connection = sqlite3.connect(world.device.folder.state)
    connection.execute("CREATE TRIGGER evil AFTER INSERT ON journal BEGIN DELETE FROM counters; END")
    connection.commit()
    connection.close()


def lose_mirror(world: World) -> None:
    world.device.folder.marks.unlink()


def damage_mirror(world: World) -> None:
    data = world.device.folder.marks.read_bytes()
    world.device.folder.marks.write_bytes(data.replace(b'"generation":1', b'"generation":9'))


REBUILT: dict[str, Change] = {
    "the database is gone": lose_database,
    "the database is empty": empty_database,
    "the database is overwritten": overwrite_database,
    "the database is cut": truncate_database,
    "the database holds rows that are no memory": spoil_memory_rows,
    "the database has another schema": plant_trigger,
}


def alarms(world: World) -> list[str]:
    with world.state() as state:
        return [str(entry.code) for entry in state.journal() if entry.event == "alarm" and entry.code != "withdrawn"]


@pytest.mark.parametrize("lose", REBUILT.values(), ids=REBUILT.keys())
def test_a_lost_database_is_made_anew_from_the_mirror(upgraded: World, lose: Change) -> None:
    before = remembered(upgraded)
    assert before.models[THE_MODEL].floor == before.models[THE_MODEL].counter == Counter(0, 2)
    assert before.models[THE_MODEL].withdrawn
    lose(upgraded)

    assert upgraded.refusal().code == "not_enrolled"
    now = remembered(upgraded)
    assert now == replace(before, generation=2, marks=now.marks)
    assert set(now.marks.versions) == set(before.marks.versions)
    assert {(f.role, f.keyset) for f in now.marks.times} == {(f.role, f.keyset) for f in before.marks.times}
    assert mirrored(upgraded) == now
    assert alarms(upgraded) == ["state_rebuilt"]

    upgraded.enroll()
    upgraded.server.offered = "1.0.0"
    assert upgraded.refusal().code == "withdrawn"
    upgraded.server.offered = "2.0.0"
    assert upgraded.poll(selftest=passes).result == "installed", "the same counter with the same bundle is no rollback"
    told = [(report["code"], report["generation"]) for report in upgraded.reports()]
    assert ("state_rebuilt", 2) in told


def test_the_lost_database_is_kept_for_people_to_look_at_but_not_for_ever(upgraded: World) -> None:
    for _ in range(recovery.MAX_SET_ASIDE + 2):
        overwrite_database(upgraded)
        upgraded.refusal()
    kept = sorted(path.name for path in upgraded.device.folder.path.glob("state.db.lost-*"))
    assert kept == [f"state.db.lost-{number}" for number in range(3, 3 + recovery.MAX_SET_ASIDE)]
    assert remembered(upgraded).generation == 1 + recovery.MAX_SET_ASIDE + 2


def test_a_log_that_outlived_its_database_does_not_get_into_the_new_one(upgraded: World) -> None:
    lose_database(upgraded)
    wal = upgraded.device.folder.path / "state.db-wal"
    wal.write_bytes(b"from another life" * 100)
    assert upgraded.refusal().code == "not_enrolled"
    assert remembered(upgraded).generation == 2


def test_an_interrupted_rebuild_is_done_again(upgraded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = remembered(upgraded)
    lose_database(upgraded)

    def cut(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recovery, "_set_aside", cut)
        with pytest.raises(KeyboardInterrupt):
            upgraded.poll()
    assert not upgraded.device.folder.state.exists()
    assert upgraded.refusal().code == "not_enrolled"
    assert remembered(upgraded).models == before.models
    assert not list(upgraded.device.folder.path.glob("state.db.new*"))


def test_a_database_put_back_from_an_old_copy_lowers_nothing(upgraded: World) -> None:
    before = remembered(upgraded)
    restore_memory(upgraded, "state.db")
    assert remembered(upgraded).models != before.models, "the copy is old indeed"
    upgraded.server.offered = "1.0.0"
    assert upgraded.refusal().code in {"withdrawn", "counter_rollback"}
    assert remembered(upgraded).models == before.models
    assert alarms(upgraded) == ["memory_restored"]
    assert ("alarm", "memory_restored") in [(report["event"], report["code"]) for report in upgraded.reports()]
    upgraded.server.offered = "2.0.0"
    assert upgraded.poll(selftest=passes).result == "installed"


@pytest.mark.parametrize(
    "lose", [lose_mirror, damage_mirror, lambda w: restore_memory(w, "marks.json")], ids=["lost", "damaged", "old"]
)
def test_a_lost_damaged_or_old_mirror_is_written_again(upgraded: World, lose: Change) -> None:
    before = remembered(upgraded)
    lose(upgraded)
    assert upgraded.poll().result == "current"
    assert mirrored(upgraded) == remembered(upgraded)
    assert remembered(upgraded).models == before.models
    assert alarms(upgraded) == ["memory_restored"]
    assert upgraded.poll().result == "current"
    assert alarms(upgraded) == ["memory_restored"], "said once"


def test_losing_one_after_the_other_lowers_nothing(upgraded: World) -> None:
    before = remembered(upgraded)
    lose_mirror(upgraded)
    upgraded.poll()
    lose_database(upgraded)
    upgraded.refusal()
    damage_mirror(upgraded)
    upgraded.refusal()
    restore_memory(upgraded, "state.db")
    upgraded.poll(selftest=passes)
    restore_memory(upgraded, "marks.json")
    upgraded.poll()
    assert remembered(upgraded).models == before.models
    assert remembered(upgraded).generation == 2


@pytest.mark.parametrize("lose", [lose_database, overwrite_database], ids=["gone", "damaged"])
@pytest.mark.parametrize("lose_copy", [lose_mirror, damage_mirror], ids=["gone", "damaged"])
def test_with_both_lost_nothing_pretends_to_remember(upgraded: World, lose: Change, lose_copy: Change) -> None:
    lose(upgraded)
    lose_copy(upgraded)
    files = {path.name for path in upgraded.device.folder.path.iterdir()}
    error = upgraded.refusal()
    assert error.code in {"state_missing", "state_damaged", "state_schema"}
    assert "both copies" in error.what
    assert "device init" in str(error.hint)
    assert {path.name for path in upgraded.device.folder.path.iterdir()} == files | {"lock"}


def test_all_put_back_to_one_old_day_is_not_seen_here(upgraded: World) -> None:
    """Said openly (DESIGN 4, limits): without a counter in hardware only the server sees it, by the marks in the reports."""
    before = remembered(upgraded)
    restore_memory(upgraded, "state.db", "marks.json")
    shutil.rmtree(upgraded.device.folder.metadata)
    upgraded.server.is_down = True
    upgraded.refusal()
    assert remembered(upgraded).models[THE_MODEL] != before.models[THE_MODEL]
    assert alarms(upgraded) == []


@pytest.mark.parametrize("newer", ["state.db", "marks.json"])
def test_a_newer_clients_memory_is_never_rebuilt_or_overwritten(upgraded: World, newer: str) -> None:
    folder = upgraded.device.folder
    if newer == "state.db":
        connection = sqlite3.connect(folder.state)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        folder.marks.write_bytes(folder.marks.read_bytes().replace(b'"schema":1', b'"schema":2'))
    before = (folder.state.read_bytes(), folder.marks.read_bytes())
    assert upgraded.refusal().code == "state_newer"
    assert (folder.state.read_bytes(), folder.marks.read_bytes()) == before


def test_a_foreign_copy_is_refused_and_not_taken_for_lost(upgraded: World) -> None:
    upgraded.device.folder.marks.chmod(0o644)
    assert upgraded.refusal().code == "state_owner"
    upgraded.device.folder.marks.chmod(0o600)
    upgraded.device.folder.state.chmod(0o644)
    assert upgraded.refusal().code == "state_owner"


def test_a_wiped_cache_costs_nothing_of_the_memory(upgraded: World) -> None:
    before = remembered(upgraded)
    shutil.rmtree(upgraded.device.folder.metadata)
    assert upgraded.poll().result == "current"
    assert remembered(upgraded).models == before.models
    assert alarms(upgraded) == []


def test_a_mirror_that_cannot_be_written_stops_the_commit(upgraded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("device_client.install.mirror.write_atomic", full)
    with upgraded.state() as state:
        with pytest.raises(StateError) as caught, state.transaction():
            state.raise_floor(THE_MODEL, Counter(1, 0))
        assert caught.value.code == "state_unwritable"
        assert state.memory(THE_MODEL).floor == Counter(0, 2)


KILLED = """
import os, signal, sys
from pathlib import Path
from device_client.bundle import Counter
from device_client.install import state_memory
from device_client.install.state import open_state
from tests.unit.device.world import THE_MODEL
write = state_memory.write_mirror
def write_and_die(path, data):
    write(path, data)
    os.kill(os.getpid(), signal.SIGKILL)
state_memory.write_mirror = write_and_die
with open_state(Path(sys.argv[1])) as state, state.transaction():
    state.raise_floor(THE_MODEL, Counter(0, 2))
"""


def test_a_kill_between_mirror_and_commit_loses_nothing(world: World) -> None:
    world.publish(bundle("1.0.0", counter=1))
    world.poll(selftest=passes)
    ended = subprocess.run([sys.executable, "-c", KILLED, world.device.folder.state], cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == -9
    assert mirrored(world).models[THE_MODEL].floor == Counter(0, 2)
    assert remembered(world).models[THE_MODEL].floor == Counter(0, 0), "the commit did not happen"
    assert world.poll().result == "current", "a floor limits installations, never what runs"
    assert remembered(world).models[THE_MODEL].floor == Counter(0, 2)
    assert mirrored(world) == remembered(world)


class EnrolmentServer(FakeServer):
    def request(self, method: str, path: str, **kwargs: Any) -> Answer:
        assert path == "/v1/enroll"
        payload = payload_of(kwargs["body"])
        device_id = fingerprint(key_from_json(payload["public_key"], where="enrolment")).hex
        return Answer(201, {}, json.dumps({"device_id": device_id, "token": "token", "state": "accepted"}).encode())


def test_enrolling_brings_the_copies_together_as_a_poll_does(upgraded: World) -> None:
    before = remembered(upgraded)
    lose_database(upgraded)
    enroll(upgraded.device, http=EnrolmentServer(), clock=upgraded.clock, uptime=upgraded.uptime)
    assert remembered(upgraded).models == before.models
    assert alarms(upgraded) == ["state_rebuilt"]
    assert upgraded.poll(selftest=passes).result == "installed"


def test_a_new_device_has_both_copies_and_no_alarm(world: World) -> None:
    assert mirrored(world) == remembered(world) == Remembered()
    assert world.poll().result == "none"
    assert alarms(world) == []


def test_no_flipped_bit_of_the_database_lowers_the_memory_or_keeps_it_from_being_opened(upgraded: World) -> None:
    """Found so: a text that is no UTF-8, a header of a later SQLite, an error message that cannot be decoded."""
    folder = upgraded.device.folder
    good, mirror, before = folder.state.read_bytes(), folder.marks.read_bytes(), remembered(upgraded).models
    rng = random.Random(7)
    header = [
        (offset, 1 << rng.randrange(8)) for offset in range(100) if offset not in range(60, 64)
    ]  # user_version: `state_newer`
    told = [(18, 1), (19, 4), (47, 64), (good.index(b"CREATE TABLE marks") + 3, 128), (good.index(b"sha256:") + 3, 128)]
    for offset, bit in [*header, *told, *((rng.randrange(100, len(good)), 1 << rng.randrange(8)) for _ in range(80))]:
        for left in folder.path.glob("state.db*"):
            left.unlink()
        data = bytearray(good)
        data[offset] ^= bit
        write_private(folder.state, bytes(data))
        write_private(folder.marks, mirror)
        with recovery.open_memory(upgraded.device, THE_MODEL, now=upgraded.now, at=upgraded.boot) as state:
            assert state.remembered().models == before, offset
            state.active(THE_MODEL), state.held(THE_MODEL), state.progress(THE_MODEL), state.enrolment()
            with state.transaction():
                state.set_enrolment("token", "accepted")


def write_private(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
