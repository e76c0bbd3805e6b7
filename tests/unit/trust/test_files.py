"""Small files that are whole or absent: content before name, name before the report, nothing left behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from device_client.errors import UsageError
from device_client.trust.files import sync_folder, write_atomic, write_new


class Disk:
    """What reached the disk and in which order; ``refuse`` makes one kind of call fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        self.refuse = ""
        real_fsync, real_replace, real_link = os.fsync, os.replace, os.link

        def fsync(descriptor: int) -> None:
            target = Path(f"/proc/self/fd/{descriptor}").readlink()
            kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"file of {os.fstat(descriptor).st_size}"
            self._note("sync", f"{kind} in {target.name if kind == 'folder' else target.parent.name}")
            real_fsync(descriptor)

        def replace(source: str, target: str) -> None:
            self._note("name", f"{Path(source).parent.name}/{Path(target).name}")
            real_replace(source, target)

        def link(source: str, target: str) -> None:
            self._note("name", f"{Path(source).parent.name}/{Path(target).name}")
            real_link(source, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "link", link)

    def _note(self, kind: str, what: str) -> None:
        if kind == self.refuse:
            raise OSError(5, "refused")
        self.events.append((kind, what))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture(params=[write_atomic, write_new], ids=["atomic", "new"])
def write(request: pytest.FixtureRequest) -> object:
    return request.param


def test_content_is_on_disk_before_its_name_and_its_name_before_the_return(write, disk: Disk, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "inner" / "a", b"12345")
    assert disk.events == [("sync", "file of 5 in inner"), ("name", "inner/a"), ("sync", "folder in inner")]
    assert (tmp_path / "inner" / "a").read_bytes() == b"12345"


def test_folders_on_the_way_are_made_and_nothing_is_left_beside(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "one" / "two" / "a", b"x")
    write(tmp_path / "one" / "two" / "b", b"y")
    assert sorted(path.name for path in (tmp_path / "one" / "two").iterdir()) == ["a", "b"]


def test_a_file_has_its_mode_from_the_start_whatever_the_umask(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = os.umask(0o077)
    try:
        write(tmp_path / "usual", b"x")
        write(tmp_path / "secret", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "usual").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "secret").stat().st_mode & 0o7777 == 0o600


def test_an_atomic_write_replaces_and_a_new_one_never_does(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new")
    with pytest.raises(UsageError) as refusal:
        write_new(tmp_path / "a", b"newer")
    assert refusal.value.code == "file_exists"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


@pytest.mark.parametrize("refused", ["sync", "name"])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_other(refused: str, write, disk: Disk, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "old").write_bytes(b"old")
    disk.refuse = refused
    with pytest.raises(OSError, match="refused"):
        write(tmp_path / ("old" if write is write_atomic else "new"), b"12345")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old", b"old")]


def test_a_temporary_file_is_named_so_that_it_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (seen.append(Path(source).name), real(source, target))[1])
    write_atomic(tmp_path / "a", b"x")
    assert [name[:5] for name in seen] == [".new-"]


def test_writing_and_syncing_keep_no_file_open(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  (iterdir keeps one open itself)
    write(tmp_path / "a", b"x")
    sync_folder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


def test_only_a_folder_is_synced_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
