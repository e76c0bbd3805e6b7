"""Blobs on the device's disk, by digest. ``read`` is the only way to bytes, and it hashes what it returns.

A blob is written beside its name, hashed while it is written, synced, renamed, and the folder synced: a name that
exists has complete content, also after a power cut. What a disk or a thief with write access does later is found at
the next read. Blobs are **not encrypted** yet; ``PROTECTION`` says so in ``status``.

    with store.writer(digest, size) as out:
        out.write(chunk)
    data = store.read(digest)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError, LimitError, StateError
from device_client.install.folder import DeviceFolder
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.files import sync_folder

PROTECTION = "blobs are stored unencrypted: no protection against a stolen disk"
_TEMPORARY = ".new-"
_CHUNK_BYTES = 1 << 20


class BlobWriter:
    """A blob being written; refuses a byte beyond its size at once."""

    def __init__(self, file: BinaryIO, digest: Digest, size: int) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._digest = digest
        self._size = size
        self.written = 0

    def write(self, chunk: bytes) -> None:
        """Appends.

        Raises:
            IntegrityError: more bytes than the signed size (``blob_size_mismatch``).
        """
        self.written += len(chunk)
        if self.written > self._size:
            raise _size_mismatch(self._digest, self._size, f"more than {self._size}")
        self._hash.update(chunk)
        self._file.write(chunk)

    def check(self) -> None:
        """Compares length and digest with what was signed.

        Raises:
            IntegrityError: ``blob_size_mismatch`` or ``blob_digest_mismatch``.
        """
        if self.written != self._size:
            raise _size_mismatch(self._digest, self._size, self.written)
        actual = Digest(self._hash.hexdigest())
        if actual != self._digest:
            raise digest_mismatch(self._digest, actual, where="download")


class BlobStore:
    """The device's blobs under ``root``/sha256."""

    def __init__(self, root: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._folder = root / "sha256"
        self._limits = limits

    def read(self, digest: Digest) -> bytes:
        """The blob's bytes, hashed after they were read: these very bytes are what the digest names.

        Raises:
            IntegrityError: ``blob_missing`` or ``blob_digest_mismatch``.
            LimitError: larger than any blob may be.
        """
        path = self._path(digest)
        try:
            with _open(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size > self._limits.max_blob_bytes:
                    raise LimitError("blob too large", code="too_large", where=path.name, actual=size)
                data = file.read()
        except FileNotFoundError as e:
            raise IntegrityError(
                "blob is not stored", code="blob_missing", where=str(digest), hint="poll again to download it"
            ) from e
        except OSError as e:
            raise StateError("cannot read a blob", code="store_unreadable", where=str(path), actual=e.strerror) from e
        actual = Digest.of(data)
        if actual != digest:
            raise digest_mismatch(digest, actual, where=str(path))
        return data

    def open_blob(self, digest: Digest) -> BinaryIO:
        """``BlobSource`` for ``verify_bundle``: a stream over bytes that ``read`` has checked."""
        return io.BytesIO(self.read(digest))

    def is_intact(self, digest: Digest) -> bool:
        """True if the blob is there with the right content; reads all of it. A damaged blob is removed."""
        try:
            hasher = hashlib.sha256()
            with _open(self._path(digest)) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    hasher.update(chunk)
        except OSError:
            return False
        if hasher.hexdigest() == digest.hex:
            return True
        self._path(digest).unlink(missing_ok=True)
        return False

    @contextmanager
    def writer(self, digest: Digest, size: int) -> Iterator[BlobWriter]:
        """A writer whose blob appears under its name only if all bytes came and are the right ones.

        Raises:
            IntegrityError: other bytes than ``digest`` and ``size`` name; nothing stays on disk.
            StateError: the disk is full or refuses (``store_unwritable``).
        """
        if size > self._limits.max_blob_bytes:
            raise LimitError("blob too large", code="too_large", where=str(digest), actual=size)
        temporary: str | None = None
        try:
            self._make_folder()
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY)
            with os.fdopen(descriptor, "wb") as file:
                writer = BlobWriter(file, digest, size)
                yield writer
                writer.check()
                file.flush()
                os.fchmod(descriptor, 0o400)
                os.fsync(descriptor)
            Path(temporary).replace(self._path(digest))
            temporary = None
            sync_folder(self._folder)
        except OSError as e:
            raise StateError(
                "cannot write a blob",
                code="store_unwritable",
                where=str(self._folder),
                actual=e.strerror,
                hint="free some space; the running model is not touched",
            ) from e
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink(missing_ok=True)

    def put(self, digest: Digest, data: bytes) -> None:
        """Stores bytes that are in memory already."""
        with self.writer(digest, len(data)) as out:
            out.write(data)

    def remove(self, digest: Digest) -> None:
        """Removes a blob; nothing if it is not there."""
        self._path(digest).unlink(missing_ok=True)

    def digests(self) -> set[Digest]:
        """What is stored, by name; nothing is read."""
        names = (path.name for path in self._folder.iterdir()) if self._folder.is_dir() else ()
        return {Digest(name) for name in names if len(name) == 64}

    def sweep(self) -> int:
        """Removes what interrupted writes left; returns how many. Only under the lock: a live writer looks the same."""
        removed = 0
        for path in self._folder.glob(f"{_TEMPORARY}*") if self._folder.is_dir() else ():
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    def _make_folder(self) -> None:
        """Certain before the first blob is: a synced blob in a folder that a power cut forgets is gone."""
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self._folder.parent)

    def _path(self, digest: Digest) -> Path:
        return self._folder / digest.hex


def open_store(folder: DeviceFolder, *, limits: Limits = DEFAULT_LIMITS) -> BlobStore:
    """The store of a device's folder."""
    return BlobStore(folder.blobs, limits=limits)


def digest_mismatch(expected: Digest, actual: Digest, *, where: str) -> IntegrityError:
    """The one error for bytes that are not what a digest names."""
    return IntegrityError(
        "blob digest differs",
        code="blob_digest_mismatch",
        where=where,
        expected=expected,
        actual=actual,
        hint="poll again; if it repeats, treat the server, mirror or disk as compromised",
    )


def _open(path: Path) -> BinaryIO:
    """Opens a regular file without following a link; a pipe put in its place neither blocks nor counts."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _size_mismatch(digest: Digest, expected: int, actual: object) -> IntegrityError:
    return IntegrityError(
        "blob size differs",
        code="blob_size_mismatch",
        where=str(digest),
        expected=f"{expected} bytes",
        actual=actual,
        hint="poll again; if it repeats, treat the server or mirror as compromised",
    )
