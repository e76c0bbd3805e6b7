"""Where people prepare a release: a folder that they share, or the server, behind one protocol.

Holds published roles, drafts (a role's next version while it collects signatures) and blobs. Bytes only; what they
mean is checked by `sign` and `publish` here and again by the server's admission.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError, UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.files import sync_folder, write_atomic, write_new
from device_client.trust.refs import BlobRef

_CHUNK_BYTES = 1 << 20


class Staging(Protocol):
    """What `sign` and `publish` need of a repository."""

    @property
    def name(self) -> str:
        """The folder or URL, for messages."""

    def role_bytes(self, role: str) -> bytes | None:
        """The newest published version of a role."""

    def draft(self, role: str) -> bytes | None:
        """The prepared next version of a role."""

    def put_draft(self, role: str, data: bytes, *, replace: bool) -> None:
        """Stores a prepared version, or the same one with more signatures."""

    def has_blob(self, ref: BlobRef) -> bool:
        """Whether the blob is there already."""

    def blob_bytes(self, ref: BlobRef) -> bytes:
        """A small blob, checked."""

    def put_blob(self, ref: BlobRef, source: BinaryIO) -> None:
        """Stores a blob, checking its digest and length on the way."""

    def publish(self, role: str) -> int:
        """Makes the draft of ``role`` the published version; returns that version."""


class DirStaging:
    """A folder: ``metadata/N.<role>.json``, ``drafts/<role>.json``, ``blobs/sha256/<hex>``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """The folder."""
        return str(self._folder)

    def role_bytes(self, role: str) -> bytes | None:
        """The newest published version of a role; None before the first."""
        version = self.version_of(role)
        return None if version == 0 else _read(self._role_path(role, version))

    def version_of(self, role: str) -> int:
        """The newest published version number; 0 before the first."""
        pattern = re.compile(rf"([1-9][0-9]{{0,9}})\.{re.escape(role)}\.json\Z")
        folder = self._folder / "metadata"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return max((int(match[1]) for name in names if (match := pattern.match(name))), default=0)

    def write_role(self, role: str, version: int, data: bytes) -> None:
        """Stores a published version; never overwrites one."""
        write_new(self._role_path(role, version), data)

    def draft(self, role: str) -> bytes | None:
        """The prepared next version of a role; None if there is none."""
        path = self._folder / "drafts" / f"{role}.json"
        return _read(path) if path.exists() else None

    def put_draft(self, role: str, data: bytes, *, replace: bool) -> None:
        """Stores a prepared version; that it may replace the one there was decided by `sign`."""
        write_atomic(self._folder / "drafts" / f"{role}.json", data)

    def has_blob(self, ref: BlobRef) -> bool:
        """Whether the blob is there already."""
        path = self.blob_path(ref.digest)
        return path.is_file() and path.stat().st_size == ref.length

    def blob_bytes(self, ref: BlobRef) -> bytes:
        """A small blob, checked.

        Raises:
            IntegrityError: it is missing or is not what its name says.
        """
        out = io.BytesIO()
        try:
            with self.blob_path(ref.digest).open("rb") as file:
                copy_checked(file, out, ref=ref)
        except FileNotFoundError as e:
            raise IntegrityError("the blob is missing", code="blob_missing", where=str(ref.digest)) from e
        return out.getvalue()

    def put_blob(self, ref: BlobRef, source: BinaryIO) -> None:
        """Stores a blob.

        Raises:
            IntegrityError: the bytes are not those of ``ref``.
        """
        target = self.blob_path(ref.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".new-") as temporary:
            copy_checked(source, temporary, ref=ref)
            temporary.flush()
            os.fsync(temporary.fileno())
            if not target.exists():
                os.link(temporary.name, target)
        sync_folder(target.parent)

    def publish(self, role: str) -> int:
        """Moves the draft to ``metadata/``; the caller has verified it."""
        data = self.draft(role)
        if data is None:
            raise UsageError("nothing is prepared for this role", code="draft_missing", where=role, hint="run `sealift sign` first")
        version = self.version_of(role) + 1
        self.write_role(role, version, data)
        (self._folder / "drafts" / f"{role}.json").unlink()
        return version

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob is stored."""
        return self._folder / "blobs" / "sha256" / digest.hex

    def _role_path(self, role: str, version: int) -> Path:
        return self._folder / "metadata" / f"{version}.{role}.json"


def copy_checked(source: BinaryIO, out: IO[bytes], *, ref: BlobRef) -> None:
    """Copies exactly the blob that ``ref`` names, in bounded memory.

    Raises:
        IntegrityError: other bytes, fewer or more.
    """
    hasher = hashlib.sha256()
    left = ref.length
    while chunk := source.read(min(_CHUNK_BYTES, left + 1)):
        left -= len(chunk)
        if left < 0:
            break
        hasher.update(chunk)
        out.write(chunk)
    if left != 0 or hasher.hexdigest() != ref.digest.hex:
        raise IntegrityError("the blob is not what its name says", code="blob_digest_mismatch", where=str(ref.digest))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(DEFAULT_LIMITS.max_targets_bytes + 1)
    if len(data) > DEFAULT_LIMITS.max_targets_bytes:
        raise UsageError("the file is too long for TUF metadata", code="too_large", where=str(path))
    return data
