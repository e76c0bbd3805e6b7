"""Nothing that changes the disk escapes the log: what is not known fails loudly, what is logged leads to the disk that is there."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.disk import Commit, Kind, whole
from tests.faults.recorder import EscapedError, Recorder


def in_python(folder: Path) -> None:
    (folder / "a").write_bytes(b"one")
    with (folder / "a").open("r+b") as file:
        file.seek(1)
        file.write(b"w")
        file.truncate(2)
    with (folder / "a").open("ab") as file:
        file.write(b"!")
    (folder / "text").write_text("ä\n", encoding="utf-8")
    (folder / "empty").write_bytes(b"")


def through_descriptors(folder: Path) -> None:
    descriptor = os.open(folder / "b", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, b"0123")
    os.pwrite(descriptor, b"xy", 6)
    os.ftruncate(descriptor, 7)
    os.fchmod(descriptor, 0o400)
    os.fsync(descriptor)
    os.posix_fallocate(descriptor, 0, 12)
    os.close(descriptor)
    descriptor = os.open(folder / "c", os.O_RDWR | os.O_CREAT)
    with os.fdopen(os.dup(descriptor), "r+b") as file:
        file.write(b"dup")
    os.close(descriptor)


def with_names(folder: Path) -> None:
    (folder / "deep").mkdir(mode=0o700)
    (folder / "deep/file").write_bytes(b"x")
    (folder / "deep/file").rename(folder / "deep/moved")
    (folder / "link").symlink_to("deep/moved")
    (folder / "second").hardlink_to(folder / "deep/moved")
    (folder / "link").unlink()
    (folder / "deep").chmod(0o755)
    (folder / "gone").mkdir()
    (folder / "gone/file").write_bytes(b"x")
    shutil.rmtree(folder / "gone")


def with_temporary_files(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(b"temporary")
    Path(file.name).replace(folder / "final")
    descriptor, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(descriptor, "wb") as other:
        other.write(b"more")
    Path(name).unlink()


def with_a_database(folder: Path) -> None:
    connection = sqlite3.connect(folder / "db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (2)")
    connection.execute("COMMIT")
    connection.close()


KNOWN = (in_python, through_descriptors, with_names, with_temporary_files)


@pytest.mark.parametrize("change", KNOWN, ids=lambda change: str(change.__name__))
def test_the_log_of_a_change_leads_to_the_disk_that_is_there(change: Callable[[Path], None], place: Path) -> None:
    (place / "before").write_bytes(b"was there")
    with Recorder(place) as recorder:
        change(place)
    found = whole(recorder.base, recorder.events)
    for name, (kind, _, data) in found.items():
        assert kind is not Kind.FILE or (place / name).read_bytes() == data
    assert sorted(found) == sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_each_commit_is_one_event_and_a_rollback_is_none(place: Path) -> None:
    os.close(os.open(place / "db", os.O_CREAT))
    with Recorder(place) as recorder:
        with_a_database(place)
    assert len([event for event in recorder.events if isinstance(event, Commit)]) == 3


def with_utime(folder: Path) -> None:
    os.utime(folder / "file", (1, 1))


def with_mmap(folder: Path) -> None:
    with (folder / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[0] = 0


def with_sendfile(folder: Path) -> None:
    shutil.copyfile(folder / "file", folder / "copy")


def by_another_program(folder: Path) -> None:
    os.system(f"echo new > {folder}/other")


def with_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def out_of_the_folder(folder: Path) -> None:
    (folder / "file").rename(folder.with_name(f"{folder.name}-outside"))


def a_database_made_by_sqlite(folder: Path) -> None:
    sqlite3.connect(folder / "db").close()


def a_cursor(folder: Path) -> None:
    os.close(os.open(folder / "db", os.O_CREAT))
    connection = sqlite3.connect(folder / "db")
    try:
        connection.cursor()
    finally:
        connection.close()


UNKNOWN = (
    with_utime,
    with_mmap,
    with_sendfile,
    by_another_program,
    with_a_pipe,
    out_of_the_folder,
    a_database_made_by_sqlite,
    a_cursor,
)


@pytest.mark.parametrize("change", UNKNOWN, ids=lambda change: str(change.__name__))
def test_a_change_that_the_recorder_does_not_know_is_an_error(change: Callable[[Path], None], place: Path) -> None:
    (place / "in").mkdir()
    (place / "in/file").write_bytes(b"content")
    with pytest.raises(EscapedError), Recorder(place / "in"):
        change(place / "in")


def swallow(change: Callable[[Path], None], folder: Path) -> None:
    with contextlib.suppress(AssertionError):
        change(folder)


def test_an_escape_that_the_code_under_test_swallows_is_still_an_error(place: Path) -> None:
    (place / "file").write_bytes(b"content")
    with pytest.raises(EscapedError, match=r"os\.utime"), Recorder(place):
        swallow(with_utime, place)


def test_python_has_its_own_functions_back_afterwards(place: Path) -> None:
    before = (os.open, os.fsync, open, sqlite3.connect)
    with Recorder(place):
        assert os.open is not before[0]
    assert (os.open, os.fsync, open, sqlite3.connect) == before
