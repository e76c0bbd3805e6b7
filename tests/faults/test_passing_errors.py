"""An error of the disk that passes is no damage: a good database is never set aside, and every error has its code."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from device_client.errors import StateError
from device_client.install import at_rest_key, database, facts, recovery, sealed_file, store
from device_client.install.boot import recover
from device_client.install.by_hand import reset, roll_back_by_hand
from device_client.install.folder import Device
from device_client.install.lock import exclusive
from device_client.install.mirror import read_mirror
from device_client.install.state import open_state
from device_client.install.store import open_store
from tests.faults.scenarios import passes
from tests.unit.device.world import THE_MODEL, World


@pytest.fixture
def world(place: Path) -> World:
    made = World(place / "device")
    made.install()
    return made


def broken(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("code", ["state_damaged", "state_schema", "state_missing"])
def test_a_database_that_looks_lost_once_and_then_does_not_is_not_made_anew(
    code: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [StateError("a passing error", code=code)]

    def open_once_broken(path: Path) -> Any:
        if looks:
            raise looks.pop()
        return open_state(path)

    monkeypatch.setattr(recovery, "open_state", open_once_broken)
    assert world.poll(selftest=passes).result == "current"
    assert not list(world.device.folder.path.glob("*.lost-*"))


def test_a_page_that_the_disk_does_not_give_is_no_damage_to_the_database(world: World) -> None:
    real = sqlite3.connect(world.device.folder.state)

    class Unread:
        """What quick_check says when a read fails below it."""

        def execute(self, statement: str) -> Any:
            is_check = statement.startswith("PRAGMA quick_check")
            return real.execute("SELECT 'Page 7: unable to get the page. error code=266'" if is_check else statement)

    with pytest.raises(StateError) as caught:
        database._check_pages(Unread(), world.device.folder.state)  # type: ignore[arg-type]
    real.close()
    assert caught.value.code == "state_unwritable"


def look_at_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(Path, "lstat", broken)
    return lambda: database.open_database(world.device.folder.state)


def read_the_mirror(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(os, "fstat", broken)
    return lambda: read_mirror(world.device.folder.marks)


def make_a_database(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(database, "sync_folder", broken)
    return lambda: database.create_database(world.device.folder.path / "other.db")


def ask_for_the_runtime(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(facts.metadata, "version", broken)
    return facts.read_facts


def read_a_blob_as_a_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    blobs = open_store(world.device.folder)

    def read() -> object:
        with blobs.open_blob(min(blobs.digests())) as stream:
            monkeypatch.setattr(sealed_file, "read_exactly", broken)
            return stream.read()

    return read


def list_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(store, "_files", broken)
    return open_store(world.device.folder).sweep


@pytest.mark.parametrize(
    "case",
    [look_at_the_database, read_the_mirror, make_a_database, ask_for_the_runtime, read_a_blob_as_a_stream, list_the_store],
    ids=lambda case: str(case.__name__),
)
def test_an_error_of_the_disk_has_a_code(
    case: Callable[[World, pytest.MonkeyPatch], Callable[[], object]], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = case(world, monkeypatch)
    with pytest.raises(StateError) as caught:
        action()
    monkeypatch.undo()
    assert caught.value.code in {"state_unwritable", "facts_unreadable", "store_unreadable", "store_unwritable"}


def test_an_error_when_the_lock_is_let_go_does_not_hide_what_happened(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def close_and_fail(descriptor: int) -> None:
        close(descriptor)
        broken()

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close_and_fail)
        with pytest.raises(StateError, match="what happened"), exclusive(place / "lock"):
            raise StateError("what happened", code="busy")


def by_hand(device: Device, **clocks: Any) -> object:
    return roll_back_by_hand(device, THE_MODEL, **clocks)


@pytest.mark.parametrize("action", [recover, reset, by_hand], ids=lambda action: str(action.__name__))
def test_a_key_that_cannot_be_had_for_a_moment_does_not_cost_the_model(
    action: Callable[..., object], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(at_rest_key, "_read_bounded", broken)
        with pytest.raises(StateError) as caught:
            action(world.device, clock=world.clock, uptime=world.uptime)
    assert caught.value.code == "store_key_damaged"
    assert world.running() == 2.0


def test_a_blob_that_the_disk_gives_at_the_second_try_is_no_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, errors = sealed_file.read_exactly, [OSError(errno.EIO, "Input/output error")]

    def read_once_broken(file: FileIO, buffer: memoryview) -> bool:
        if errors:
            raise errors.pop()
        return real(file, buffer)

    monkeypatch.setattr(sealed_file, "read_exactly", read_once_broken)
    (found,) = recover(world.device, clock=world.clock, uptime=world.uptime)
    assert (found.result, errors) == ("sound", [])
    assert world.running() == 2.0


class Slowly(FileIO):
    """A file that gives some bytes at a time, as a read may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 7, 7)) or b""

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[:7]) or 0


def test_a_read_that_gives_less_than_was_asked_for_is_no_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_file, "FileIO", Slowly)
    assert world.running() == 2.0
