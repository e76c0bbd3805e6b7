"""Blobs on local disk, named by their SHA-256: written beside, hashed while writing, synced, renamed into place.

Content-addressed and immutable. Readers of the store (`verify_bundle`, devices) check digests themselves; that a name
here is right is a promise only about what came in through ``Upload``, since whoever holds the disk can change it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError, LimitError, StateError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.files import sync_folder
from device_client.trust.refs import BlobRef

_TEMPORARY_PREFIX = ".new-"
_CHUNK_BYTES = 1 << 20


class BlobStore:
    """``folder/sha256/<hex>``; a ``BlobSource`` for ``verify_bundle``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "sha256"
        self._folder.mkdir(parents=True, exist_ok=True)

    def path_of(self, digest: Digest) -> Path:
        """Where the blob is or would be."""
        return self._folder / digest.hex

    def size_of(self, digest: Digest) -> int | None:
        """Size in bytes, or None if the blob is not there."""
        try:
            return self.path_of(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Opens a blob, unchecked.

        Raises:
            IntegrityError: ``blob_missing``.
        """
        try:
            return self.path_of(digest).open("rb")
        except FileNotFoundError as e:
            raise IntegrityError(
                "the blob is not stored", code="blob_missing", where=str(digest), hint="upload the blobs before publishing"
            ) from e

    def check_present(self, ref: BlobRef, *, where: str) -> None:
        """The blob is there with that length; a look at the folder, not at the bytes.

        Raises:
            IntegrityError: ``blob_missing`` or ``blob_size_mismatch``.
        """
        size = self.size_of(ref.digest)
        if size is None:
            raise IntegrityError(
                "a listed blob is not stored", code="blob_missing", where=f"{where}: {ref.digest}", hint="upload the blobs first"
            )
        if size != ref.length:
            raise IntegrityError("blob size differs", code="blob_size_mismatch", where=where, expected=ref.length, actual=size)

    def check_bytes(self, ref: BlobRef, *, where: str) -> None:
        """The blob is there, and its bytes are what its name says; one pass in bounded memory.

        A copy whose bytes are others is removed: it is of no use to anybody, and while it is there nobody sends a good one.

        Raises:
            IntegrityError: ``blob_missing``, ``blob_size_mismatch`` or ``blob_digest_mismatch``.
        """
        self.check_present(ref, where=where)
        hasher = hashlib.sha256()
        with self.open_blob(ref.digest) as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
        actual = Digest(hasher.hexdigest())
        if actual != ref.digest:
            self.path_of(ref.digest).unlink(missing_ok=True)
            raise IntegrityError(
                "the stored blob was damaged",
                code="blob_digest_mismatch",
                where=where,
                expected=ref.digest,
                actual=actual,
                hint="the damaged copy was removed: publish again to send the blob anew, and find out who changed the disk",
            )

    def begin_upload(self, digest: Digest, *, max_bytes: int = DEFAULT_LIMITS.max_blob_bytes) -> Upload:
        """A blob being written; use it as a context manager and ``commit`` it."""
        return Upload(self.path_of(digest), digest, max_bytes=max_bytes)

    def remove_leftovers(self) -> int:
        """Deletes temporary files of uploads that a crash ended; call only while no upload runs. Returns how many."""
        leftovers = list(self._folder.glob(f"{_TEMPORARY_PREFIX}*"))
        for path in leftovers:
            path.unlink()
        return len(leftovers)


class Upload:
    """One blob on its way in; whatever happens, no temporary file stays."""

    def __init__(self, target: Path, digest: Digest, *, max_bytes: int) -> None:
        self._target = target
        self._digest = digest
        self._max_bytes = max_bytes
        self._hasher = hashlib.sha256()
        self._length = 0
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_TEMPORARY_PREFIX)
        self._file = os.fdopen(descriptor, "wb")
        self._temporary = Path(name)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Appends bytes.

        Raises:
            LimitError: ``too_large`` beyond the limit.
            StateError: ``storage_full``.
        """
        self._length += len(chunk)
        if self._length > self._max_bytes:
            raise LimitError(
                "blob too large", code="too_large", where=str(self._digest), expected=f"at most {self._max_bytes} bytes"
            )
        self._hasher.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as e:
            raise _storage_error(e, self._digest) from e

    def commit(self) -> BlobRef:
        """Checks the digest and makes the blob visible, on disk to stay.

        Raises:
            IntegrityError: ``blob_digest_mismatch``.
            StateError: ``storage_full``.
        """
        actual = Digest(self._hasher.hexdigest())
        if actual != self._digest:
            raise IntegrityError(
                "the uploaded bytes are not what their name says",
                code="blob_digest_mismatch",
                where="upload",
                expected=self._digest,
                actual=actual,
                hint="send the blob again",
            )
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            self._temporary.rename(self._target)
            sync_folder(self._target.parent)
        except OSError as e:
            raise _storage_error(e, self._digest) from e
        return BlobRef(self._digest, self._length)


def _storage_error(error: OSError, digest: Digest) -> StateError:
    return StateError(
        f"cannot store the blob: {error.strerror}", code="storage_full", where=str(digest), hint="free disk space, then try again"
    )
