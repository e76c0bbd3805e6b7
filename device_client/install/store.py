"""Blobs on the device's disk, by digest, encrypted. ``read`` is the only way to bytes, and it hashes what it returns.

A blob is written in ``blobs/partial``, hashed and encrypted on the way, synced, renamed to ``blobs/sha256``, and the folder synced:
a name that exists has complete content, also after a power cut. What a disk or a thief with write access does later is
found at the next read (``sealed.py``); what a thief with the card alone can read is the key provider's matter
(``at_rest_key.py``), and ``protection`` says it in ``status``. No plaintext ever touches the disk.

    store = open_store(folder)
    with store.writer(digest, size) as out:
        out.write(chunk)
    data = store.read(digest)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError, LimitError, StateError, VerificationError
from device_client.install.at_rest_key import StoreKey
from device_client.install.folder import DeviceFolder
from device_client.install.partial import BlobWriter
from device_client.install.sealed import CHUNK_BYTES, Cipher, fastest_cipher
from device_client.install.sealed_file import SealedBlob, SealedStream, check_folder, create_own, open_regular, unreadable
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.files import sync_folder

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_STALE_PARTIAL_S = 14 * 86_400.0


class Key(Protocol):
    """Where the store gets its key from; ``StoreKey`` in production."""

    @property
    def protection(self) -> str:
        """What it protects against, for people."""
        ...

    def load(self) -> bytes:
        """The key."""
        ...

    def load_or_create(self) -> bytes:
        """The key, made if there is none."""
        ...


def open_store(folder: DeviceFolder, *, limits: Limits = DEFAULT_LIMITS) -> BlobStore:
    """The blob store of a device; touches nothing before it is used."""
    return BlobStore(folder.blobs, key=StoreKey(folder.path), limits=limits)


class BlobStore:
    """The device's blobs under ``root``/sha256, and what is on its way there under ``root``/partial."""

    def __init__(self, root: Path, *, key: Key, limits: Limits = DEFAULT_LIMITS) -> None:
        self.root = root
        self._folder = root / "sha256"
        self._partial = root / "partial"
        self._key = key
        self._limits = limits
        self._is_certain = False  # that the folders outlive a power cut

    @property
    def protection(self) -> str:
        """What protects the blobs against whom, for people."""
        return self._key.protection

    def check_key(self) -> None:
        """Refuses to go on where the key cannot be had here and now: no blob could be told from a damaged one.

        A key that is gone for good passes: what it sealed is lost.

        Raises:
            StateError: what the key's provider or the disk says.
        """
        try:
            self._key.load()
        except StateError as error:
            if error.code != "store_key_missing":
                raise

    @cached_property
    def _cipher(self) -> Cipher:  # who only reads has no need to ask the processor, which takes longer than a small blob
        return fastest_cipher()

    def read(self, digest: Digest) -> bytes:
        """The blob's bytes, decrypted into one buffer and hashed there: these very bytes are what the digest names.

        Raises:
            IntegrityError: ``blob_missing``, ``blob_format``, ``blob_key``, ``blob_damaged`` or ``blob_digest_mismatch``.
            LimitError: larger than any blob may be.
            StateError: the disk or the key's provider refuses, or the folder is not ours alone.
        """
        with self._opened(digest) as blob:
            # The pages come zeroed from the kernel and are written once; nothing else holds the object, so that
            # the buffer is filled in place and handed out without a copy.
            buffer = io.BytesIO(bytes(blob.size))
            with buffer.getbuffer() as view:
                blob.read_whole_into(view)
        return buffer.getvalue()

    def open_blob(self, digest: Digest) -> BinaryIO:
        """``BlobSource`` for ``verify_bundle``: a stream that decrypts as it is read, and holds one chunk.

        Its end raises if the content is not the digest's; until then it is authenticated by this device's key only.
        """
        stack = contextlib.ExitStack()
        return io.BufferedReader(SealedStream(stack.enter_context(self._opened(digest)), stack), buffer_size=CHUNK_BYTES)

    def is_intact(self, digest: Digest) -> bool:
        """True if the blob is there with the right content; reads all of it. A damaged blob is removed."""
        content = memoryview(bytearray(CHUNK_BYTES))
        try:
            with self._opened(digest) as blob:
                while not blob.is_at_end:
                    blob.read_chunk_into(content[: blob.next_bytes])
                blob.check_digest()
        except IntegrityError:
            with self._writing():
                self._path(digest).unlink(missing_ok=True)
            return False
        except StateError as error:
            if error.code in {"store_unreadable", "store_key_missing"}:
                return False
            raise
        return True

    @contextmanager
    def writer(self, digest: Digest, size: int, *, resume: bool = False) -> Iterator[BlobWriter]:
        """A writer whose blob appears under its name only if all bytes came and are the right ones.

        Args:
            digest: of the content.
            size: of the content, in bytes.
            resume: take up what an earlier try left (``BlobWriter.written`` says how much), and leave what this one gets. Wrong
                content is never left.

        Raises:
            IntegrityError: other bytes than ``digest`` and ``size`` name; nothing stays on disk.
            StateError: the disk is full (``disk_full``) or refuses (``store_unwritable``); nothing stays on disk.
        """
        if size > self._limits.max_blob_bytes:
            raise LimitError("blob too large", code="too_large", where=str(digest), actual=size)
        key = self._key.load_or_create()
        part = self._partial / digest.hex
        keep = False
        try:
            with self._writing():
                self._make_folders()
                with create_own(part) as file:
                    writer = BlobWriter(file, digest, size, key=key, cipher=self._cipher)
                    writer.recover() if resume else writer.restart()
                    try:
                        yield writer
                        writer.check()
                    except (VerificationError, OSError):
                        raise
                    except BaseException:
                        keep = resume and writer.is_worth_keeping
                        raise
                    os.fchmod(file.fileno(), 0o400)
                    os.fsync(file.fileno())
                part.replace(self._path(digest))
                keep = True
                sync_folder(self._folder)
        finally:
            if not keep:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)

    def put(self, digest: Digest, data: bytes) -> None:
        """Stores bytes that are in memory already."""
        with self.writer(digest, len(data)) as out:
            out.write(data)

    def remove(self, digest: Digest) -> None:
        """Removes a blob, and what there is of it in ``partial``; no error if there is none.

        Raises:
            StateError: the disk refuses.
        """
        with self._writing():
            self._path(digest).unlink(missing_ok=True)
            (self._partial / digest.hex).unlink(missing_ok=True)

    def digests(self) -> set[Digest]:
        """The blobs that are there, by name; their content is not looked at."""
        with self._reading(self._folder):
            return {Digest(path.name) for path in _files(self._folder) if len(path.name) == 64}

    def size_bytes(self) -> int:
        """Bytes that blobs take on the disk, unfinished ones included."""
        with self._reading(self.root):
            return sum(_size_of(path) for folder in (self._folder, self._partial) for path in _files(folder))

    def partial_bytes(self, digest: Digest) -> int:
        """Bytes on the disk of an unfinished blob; 0 if there is none."""
        return _size_of(self._partial / digest.hex)

    def drop_partials(self, *, but: frozenset[Digest] = frozenset()) -> int:
        """Removes unfinished blobs to make room, except those of ``but``; returns how many."""
        with self._writing():
            return _remove_all(path for path in _files(self._partial) if path.name not in {digest.hex for digest in but})

    def sweep(self) -> int:
        """Removes what interrupted writes left and nobody will take up; returns how many. Only under the lock.

        Unfinished blobs stay, so that a download goes on where it ended, for two weeks after the last byte.
        """
        now = time.time()
        with self._writing():
            foreign = [path for path in _files(self._folder) if len(path.name) != 64]
            done = [path for path in _files(self._partial) if len(path.name) != 64 or (self._folder / path.name).exists()]
            stale = [path for path in _files(self._partial) if abs(now - _time_of(path)) > _STALE_PARTIAL_S]
            return _remove_all({*foreign, *done, *stale})

    def _make_folder(self) -> None:
        """Certain before the first blob is: a synced blob in a folder that a power cut forgets is gone."""
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self._folder.parent)

    def _path(self, digest: Digest) -> Path:
        return self._folder / digest.hex

    @contextmanager
    def _opened(self, digest: Digest) -> Iterator[SealedBlob]:
        path = self._path(digest)
        try:
            check_folder(self.root)
            check_folder(self._folder)
            with open_regular(path) as file:
                yield SealedBlob(file, digest, key=self._key.load, max_bytes=self._limits.max_blob_bytes)
        except FileNotFoundError as e:
            raise IntegrityError(
                "blob is not stored", code="blob_missing", where=str(digest), hint="poll again to download it"
            ) from e
        except OSError as e:
            raise unreadable(str(path), e) from e

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise unreadable(str(path), e) from e

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            is_full = e.errno in _FULL
            raise StateError(
                "the disk is full" if is_full else "cannot write a blob",
                code="disk_full" if is_full else "store_unwritable",
                where=str(self.root),
                actual=e.strerror,
                hint="free some space; the running model is not touched",
            ) from e

    def _make_folders(self) -> None:
        for folder in (self.root, self._folder, self._partial):
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # another thread may be here, too
                self._is_certain = False
            check_folder(folder)
        if not self._is_certain:  # once for each store: whoever made them may have been killed before they were synced
            sync_folder(self.root.parent)
            sync_folder(self.root)
            self._is_certain = True


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.is_dir()) if folder.is_dir() else []


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _time_of(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _remove_all(paths: Iterable[Path]) -> int:
    removed = 0
    for path in paths:
        path.unlink(missing_ok=True)
        removed += 1
    return removed
