"""A name in the store means complete content; every read hashes what it returns."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest

from device_client.bundle import Digest
from device_client.errors import IntegrityError, LimitError, StateError
from device_client.install.store import BlobStore
from device_client.limits import Limits
from tests.unit.device.keys import FixedKey

DATA = b"weights"
DIGEST = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, key=FixedKey())


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())


def test_what_was_written_is_read_back_and_is_read_only(store: BlobStore, tmp_path: Path) -> None:
    store.put(DIGEST, DATA)
    assert store.read(DIGEST) == DATA
    assert store.open_blob(DIGEST).read() == DATA
    assert store.is_intact(DIGEST)
    assert stat.S_IMODE((tmp_path / "sha256" / DIGEST.hex).stat().st_mode) == 0o400


@pytest.mark.parametrize(
    ("data", "code"), [(b"weightz", "blob_digest_mismatch"), (b"weight", "blob_size_mismatch"), (b"weights!", "blob_size_mismatch")]
)
def test_other_bytes_leave_nothing_behind(store: BlobStore, tmp_path: Path, data: bytes, code: str) -> None:
    with pytest.raises(IntegrityError) as caught, store.writer(DIGEST, len(DATA)) as out:
        out.write(data)
    assert caught.value.code == code
    assert names(tmp_path) == []


def test_a_flood_is_stopped_at_the_signed_size(store: BlobStore) -> None:
    taken: list[bytes] = []

    def flood() -> None:
        with store.writer(DIGEST, len(DATA)) as out:
            for chunk in (DATA, b"x", b"y"):
                out.write(chunk)
                taken.append(chunk)

    with pytest.raises(IntegrityError):
        flood()
    assert taken == [DATA]


def test_an_interrupted_write_is_invisible_and_swept(store: BlobStore, tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), store.writer(DIGEST, len(DATA)) as out:
        out.write(DATA)
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    (tmp_path / "sha256" / ".new-left-by-a-power-cut").write_bytes(b"half")
    assert store.sweep() == 1
    assert names(tmp_path) == []


def test_a_swapped_file_is_found_at_the_next_read(store: BlobStore, tmp_path: Path) -> None:
    store.put(DIGEST, DATA)
    path = tmp_path / "sha256" / DIGEST.hex
    path.unlink()
    path.write_bytes(b"evil")
    with pytest.raises(IntegrityError) as caught:
        store.read(DIGEST)
    assert caught.value.code == "blob_format"
    assert not store.is_intact(DIGEST)
    assert not path.exists(), "a damaged blob makes room for a good one"


def test_a_link_in_the_store_is_not_followed(store: BlobStore, tmp_path: Path) -> None:
    store.put(DIGEST, DATA)
    path = tmp_path / "sha256" / DIGEST.hex
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    with pytest.raises(StateError):
        store.read(DIGEST)


def test_a_missing_blob_is_an_integrity_error_with_a_remedy(store: BlobStore) -> None:
    with pytest.raises(IntegrityError) as caught:
        store.read(DIGEST)
    assert caught.value.code == "blob_missing"
    assert caught.value.hint


def test_a_blob_beyond_the_bound_is_neither_written_nor_read(tmp_path: Path) -> None:
    BlobStore(tmp_path, key=FixedKey()).put(DIGEST, DATA)
    small = BlobStore(tmp_path, key=FixedKey(), limits=Limits(max_blob_bytes=3))
    with pytest.raises(LimitError):
        small.read(DIGEST)
    with pytest.raises(LimitError), small.writer(DIGEST, len(DATA)):
        raise AssertionError("not reached")


def test_a_full_disk_is_one_error_and_leaves_the_store_as_it_was(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(DIGEST, DATA)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError) as caught:
        store.put(Digest.of(b"other"), b"other")
    assert caught.value.code == "disk_full"
    assert names(tmp_path) == [DIGEST.hex]


def test_content_is_synced_before_its_name_appears_and_the_folder_after(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    store.put(DIGEST, DATA)
    assert events == ["folder", "folder", "file", "rename", "folder"], "the folder of blobs itself is certain first"
    events.clear()
    store.put(Digest.of(b"second"), b"second")
    assert events == ["file", "rename", "folder"]


def test_a_pipe_in_place_of_a_blob_neither_blocks_nor_counts(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    digest = Digest.of(b"blob")
    store._path(digest).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(store._path(digest))
    assert not store.is_intact(digest)
    with pytest.raises(IntegrityError) as caught:
        store.read(digest)
    assert caught.value.code == "blob_missing"
