"""What lies on the disk is of no use to who has only the disk, and cannot be changed, cut or moved without being noticed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from device_client.bundle import Digest
from device_client.errors import FormatError, IntegrityError, SealiftError, StateError, TransportError
from device_client.install import store as store_module
from device_client.install.sealed import CHUNK_BYTES, HEADER_BYTES, RECORD_BYTES, Cipher, fastest_cipher, sealed_bytes
from device_client.install.store import BlobStore
from tests.unit.device.keys import FixedKey

SECRET = b"these weights are worth a lot"
BIG = (SECRET * (3 * CHUNK_BYTES // len(SECRET) + 1))[: 2 * CHUNK_BYTES + 1000]
BIG_DIGEST = Digest.of(BIG)
OTHER = BIG[::-1]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    found = BlobStore(tmp_path, key=FixedKey())
    found.put(BIG_DIGEST, BIG)
    return found


def blob(store: BlobStore, digest: Digest = BIG_DIGEST) -> Path:
    return store.root / "sha256" / digest.hex


def record(index: int) -> slice:
    return slice(HEADER_BYTES + index * RECORD_BYTES, HEADER_BYTES + (index + 1) * RECORD_BYTES)


def rewrite(path: Path, change: Callable[[bytearray], bytes | bytearray | None]) -> None:
    data = bytearray(path.read_bytes())
    changed = change(data)
    path.chmod(0o600)
    path.write_bytes(data if changed is None else changed)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(SealiftError) as caught:
        action()
    assert isinstance(caught.value, IntegrityError)
    return caught.value.code


def swap(data: bytearray) -> None:
    data[record(0)], data[record(1)] = data[record(1)], data[record(0)]


def take_from_another_blob(store: BlobStore) -> Callable[[bytearray], None]:
    store.put(Digest.of(OTHER), OTHER)
    other = blob(store, Digest.of(OTHER)).read_bytes()

    def change(data: bytearray) -> None:
        data[record(1)] = other[record(1)]

    return change


def drop_the_last(data: bytearray) -> bytes:
    """Cuts the last chunk and corrects the size, so that only authentication can notice."""
    size = 2 * CHUNK_BYTES
    data[16:24] = size.to_bytes(8)
    return bytes(data[: sealed_bytes(size)])


def flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 1

    return change


CHANGES: dict[str, tuple[Callable[[BlobStore], Callable[[bytearray], bytes | None]], str]] = {
    "the last chunk is torn": (lambda _: lambda data: bytes(data[:-1]), "blob_damaged"),
    "the last chunk is gone": (lambda _: lambda data: bytes(data[: record(2).start]), "blob_damaged"),
    "the last chunk is gone and the size is corrected": (lambda _: drop_the_last, "blob_damaged"),
    "a byte is appended": (lambda _: lambda data: bytes(data + b"x"), "blob_damaged"),
    "two chunks are swapped": (lambda _: swap, "blob_damaged"),
    "a chunk comes from another blob": (take_from_another_blob, "blob_damaged"),
    "a bit of the first nonce": (lambda _: flip(HEADER_BYTES), "blob_damaged"),
    "a bit of the content": (lambda _: flip(HEADER_BYTES + 1000), "blob_damaged"),
    "a bit of the last tag": (lambda _: flip(-1), "blob_damaged"),
    "a bit of the salt": (lambda _: flip(40), "blob_damaged"),
    "the other cipher is named": (lambda _: lambda data: bytes(data[:9] + b"\x02" + data[10:]), "blob_damaged"),
    "an unknown cipher is named": (lambda _: lambda data: bytes(data[:9] + b"\x09" + data[10:]), "blob_format"),
    "another version": (lambda _: flip(8), "blob_format"),
    "another chunk size": (lambda _: flip(12), "blob_format"),
    "another device's key id": (lambda _: flip(24), "blob_key"),
    "empty": (lambda _: lambda _data: b"", "blob_format"),
    "shorter than a header": (lambda _: lambda data: bytes(data[:63]), "blob_format"),
    "not encrypted, as older versions stored it": (lambda _: lambda _data: BIG, "blob_format"),
}


@pytest.mark.parametrize(("make", "code"), CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_blob_is_refused_and_makes_room_for_a_good_one(
    store: BlobStore, make: Callable[[BlobStore], Callable[[bytearray], bytes | None]], code: str
) -> None:
    rewrite(blob(store), make(store))
    assert code_of(lambda: store.read(BIG_DIGEST)) == code
    assert code_of(lambda: store.open_blob(BIG_DIGEST).read()) == code
    assert not store.is_intact(BIG_DIGEST)
    assert not blob(store).exists()
    store.put(BIG_DIGEST, BIG)
    assert store.read(BIG_DIGEST) == BIG


def test_a_whole_blob_under_another_name_does_not_open(store: BlobStore) -> None:
    name = Digest.of(b"a model that both roles accept")
    shutil.copy(blob(store), blob(store, name))
    assert code_of(lambda: store.read(name)) == "blob_damaged"


def test_another_device_cannot_read_the_card(store: BlobStore) -> None:
    stolen = BlobStore(store.root, key=FixedKey(b"x" * 32))
    assert code_of(lambda: stolen.read(BIG_DIGEST)) == "blob_key"
    assert store.read(BIG_DIGEST) == BIG


def test_the_disk_holds_no_plaintext_and_equal_blobs_look_different(tmp_path: Path) -> None:
    stores = [BlobStore(tmp_path / name, key=FixedKey()) for name in ("a", "b")]
    for store in stores:
        store.put(BIG_DIGEST, BIG)
    one, two = (blob(store).read_bytes() for store in stores)
    for data in (one, two):
        assert len(data) == sealed_bytes(len(BIG))
        assert SECRET not in data
    assert one[HEADER_BYTES:] != two[HEADER_BYTES:]


def test_authentic_chunks_of_other_content_are_refused_by_their_digest(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """B11: the ciphertext is this device's own, the plaintext is not what was signed."""
    wrong = Digest.of(b"something else of this size")
    with monkeypatch.context() as patch:
        patch.setattr("device_client.install.partial.check_digest", lambda *_, **__: None)
        store.put(wrong, BIG)
    assert code_of(lambda: store.read(wrong)) == "blob_digest_mismatch"
    assert code_of(lambda: store.open_blob(wrong).read()) == "blob_digest_mismatch"
    assert not store.is_intact(wrong)


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_every_size_comes_back_under_both_ciphers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cipher: Cipher, size: int
) -> None:
    monkeypatch.setattr(store_module, "fastest_cipher", lambda: cipher)
    data = os.urandom(size)
    store = BlobStore(tmp_path, key=FixedKey())
    with store.writer(Digest.of(data), size) as out:
        for begin in range(0, size, 70_001):
            out.write(data[begin : begin + 70_001])
    path = blob(store, Digest.of(data))
    assert path.read_bytes()[9] == cipher
    assert path.stat().st_size == sealed_bytes(size)
    assert store.read(Digest.of(data)) == data
    assert store.open_blob(Digest.of(data)).read() == data
    assert store.is_intact(Digest.of(data))


def test_what_is_read_is_new_each_time_and_never_shared(tmp_path: Path) -> None:
    """The buffer is filled in place; an object that Python keeps once, like a single byte, must not be the one."""
    store = BlobStore(tmp_path, key=FixedKey())
    for byte in range(256):
        store.put(Digest.of(bytes([byte])), bytes([byte]))
    assert [store.read(Digest.of(bytes([byte]))) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert bytes(1) == b"\x00"


def test_reading_holds_the_content_once(store: BlobStore) -> None:
    data = os.urandom(40 * CHUNK_BYTES)
    store.put(Digest.of(data), data)
    tracemalloc.start()
    try:
        assert len(store.read(Digest.of(data))) == len(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert store.is_intact(Digest.of(data))
        checking = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) + 4 * CHUNK_BYTES
    assert checking < 8 * CHUNK_BYTES


def test_the_processor_decides_the_cipher(tmp_path: Path) -> None:
    (tmp_path / "with").write_text("processor : 0\nflags : fpu aes avx\n")
    (tmp_path / "without").write_text("processor : 0\nFeatures : half neon vfpv4\n")
    assert fastest_cipher(tmp_path / "with") is Cipher.AES_256_GCM
    assert fastest_cipher(tmp_path / "without") is Cipher.CHACHA20_POLY1305
    assert fastest_cipher(tmp_path / "absent") is Cipher.AES_256_GCM


def leave_partial(store: BlobStore, data: bytes, *, upto: int) -> Path:
    """A download of ``data`` that ends after ``upto`` bytes."""
    digest = Digest.of(data)
    with contextlib.suppress(TransportError), store.writer(digest, len(data), resume=True) as out:
        out.write(data[out.written : upto])
        raise TransportError("cut", code="transport")
    return store.root / "partial" / digest.hex


def test_an_interrupted_download_keeps_whole_chunks_and_goes_on(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    part = leave_partial(store, BIG, upto=CHUNK_BYTES + 17)
    assert part.stat().st_size == HEADER_BYTES + RECORD_BYTES
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert SECRET not in part.read_bytes()
    assert store.sweep() == 0
    with store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        assert out.written == CHUNK_BYTES
        out.write(BIG[CHUNK_BYTES:])
    assert store.read(BIG_DIGEST) == BIG
    assert not part.exists()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda data: bytes(data[:-1]), 1),
        (lambda data: bytes(data + b"\0" * 5000), 2),
        (flip(-1), 1),
        (flip(HEADER_BYTES + 5), 0),
        (flip(0), 0),
        (flip(24), 0),
        (flip(23), 0),
        (lambda data: bytes(data[:HEADER_BYTES]) + bytes(RECORD_BYTES), 0),
        (lambda _: b"", 0),
    ],
)
def test_a_torn_or_changed_partial_is_taken_up_as_far_as_it_opens(
    tmp_path: Path, change: Callable[[bytearray], bytes | None], kept: int
) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    rewrite(leave_partial(store, BIG, upto=2 * CHUNK_BYTES), change)
    with store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        assert out.written == kept * CHUNK_BYTES
        out.write(BIG[out.written :])
    assert store.read(BIG_DIGEST) == BIG


def test_a_partial_that_was_complete_but_for_its_name_needs_no_byte(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    leave_partial(store, BIG, upto=2 * CHUNK_BYTES)
    store.put(BIG_DIGEST, BIG)
    blob(store).rename(tmp_path / "partial" / BIG_DIGEST.hex)  # as a power cut before the rename leaves it
    (tmp_path / "partial" / BIG_DIGEST.hex).chmod(0o600)
    with store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        assert out.written == len(BIG)
    assert store.read(BIG_DIGEST) == BIG


def test_a_chunk_that_is_written_again_never_has_the_same_nonce(tmp_path: Path) -> None:
    """Two contents under one nonce would give a thief their difference."""
    store = BlobStore(tmp_path, key=FixedKey())
    nonces = []
    for _ in range(2):
        part = leave_partial(store, BIG, upto=2 * CHUNK_BYTES)
        nonces.append(part.read_bytes()[record(1)][:12])
        os.truncate(part, record(1).start)
    assert nonces[0] != nonces[1]


def test_a_partial_with_the_wrong_content_is_removed_whole_and_the_next_try_begins_anew(tmp_path: Path) -> None:
    """R13: whoever spoils the beginning of a download has not spoiled the blob."""
    store = BlobStore(tmp_path, key=FixedKey())
    with contextlib.suppress(TransportError), store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        out.write(OTHER[:CHUNK_BYTES])
        raise TransportError("cut", code="transport")
    with pytest.raises(IntegrityError) as caught, store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        out.write(BIG[CHUNK_BYTES:])
    assert caught.value.code == "blob_digest_mismatch"
    assert store.size_bytes() == 0
    with store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        assert out.written == 0
        out.write(BIG)


def test_old_partials_and_those_of_stored_blobs_are_swept(store: BlobStore) -> None:
    old = leave_partial(store, OTHER, upto=CHUNK_BYTES)
    os.utime(old, (0, 0))
    (store.root / "partial" / BIG_DIGEST.hex).write_bytes(b"left when the name was there already")
    (store.root / "partial" / ".stray").write_bytes(b"")
    assert store.sweep() == 3
    assert store.read(BIG_DIGEST) == BIG


def test_the_store_says_what_it_holds_and_removes_it(store: BlobStore) -> None:
    part = leave_partial(store, OTHER, upto=CHUNK_BYTES)
    assert store.digests() == {BIG_DIGEST}
    assert store.size_bytes() == sealed_bytes(len(BIG)) + part.stat().st_size
    store.remove(BIG_DIGEST)
    store.remove(BIG_DIGEST)
    store.remove(Digest.of(OTHER))
    assert store.digests() == set()
    assert store.size_bytes() == 0


@pytest.mark.parametrize("name", ["sha256", "partial", "."])
@pytest.mark.parametrize("kind", ["a link", "open to others"])
def test_a_folder_that_somebody_else_may_write_is_refused(store: BlobStore, name: str, kind: str) -> None:
    """T03."""
    folder = (store.root / name).resolve()
    if kind == "a link":
        elsewhere = folder.with_name("elsewhere")
        folder.rename(elsewhere)
        folder.symlink_to(elsewhere)
    else:
        folder.chmod(0o777)
    with pytest.raises(StateError) as caught:
        store.put(Digest.of(OTHER), OTHER)
    assert caught.value.code == "store_owner"
    if name != "partial":
        with pytest.raises(StateError) as caught:
            store.read(BIG_DIGEST)
        assert caught.value.code == "store_owner"


def test_a_link_in_the_place_of_a_partial_is_not_written_through(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    store.put(Digest.of(b"x"), b"x")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "partial" / BIG_DIGEST.hex).symlink_to(victim)
    with store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
        out.write(BIG)
    assert victim.read_bytes() == b"precious"
    assert store.read(BIG_DIGEST) == BIG


def test_a_refusal_inside_a_resumable_write_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    for error in (FormatError("bad", code="encoding_refused"), OSError(28, "full")):
        with contextlib.suppress(SealiftError), store.writer(BIG_DIGEST, len(BIG), resume=True) as out:
            out.write(BIG[: 2 * CHUNK_BYTES])
            raise error
        assert store.size_bytes() == 0


def test_the_very_bytes_that_are_returned_were_hashed(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that changes between decryption and return is noticed, since the hash runs over the returned buffer."""
    real = hashlib.sha256

    class Flipping:
        def __init__(self) -> None:
            self._hash = real()

        def update(self, data: memoryview) -> None:
            if not data.readonly:
                data[0] ^= 1
            self._hash.update(data)

        def hexdigest(self) -> str:
            return self._hash.hexdigest()

    monkeypatch.setattr("device_client.install.sealed_file.hashlib.sha256", Flipping)
    assert code_of(lambda: store.read(BIG_DIGEST)) == "blob_digest_mismatch"
