"""The offline file: metadata and blobs in one plain ustar, for a device that no network reaches. Read, never unpacked.

The file is opened once and read once from its first to its last byte: headers, names, order, digests, padding and end.
Nothing in it names a path on this machine; members are found by what they are. Metadata stays in memory, within limits;
of a blob only the place stays, and whoever opens it reads the same file again and checks the bytes it gets, since a
removable disk may give others by then. The rules are in ``docs/bundle-format.md``, "The offline file".

    with open_offline(path) as offline:
        root = offline.metadata[MetadataName("root", 1)]                # bytes; nothing about them is trusted yet
        bundle = verify_bundle(offline, agreed.manifest.digest, ...)    # a BlobSource like any other
        copy_blob(offline, digest, signed_size, out)

It deliberately does *not* read the metadata, choose a bundle or compare what is here with what a manifest lists:
``trust`` and the import do, exactly as they do for a server.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from device_client.bundle.digest import Digest
from device_client.bundle.layout import read_blob
from device_client.bundle.path import check_name
from device_client.bundle.ustar import BLOCK_BYTES, RECORD_BYTES, ZERO_BLOCK, UstarHeader, parse_header
from device_client.errors import FormatError, IntegrityError, LimitError, StateError, UsageError
from device_client.limits import DEFAULT_LIMITS, Limits

_CHUNK_BYTES = 1 << 20
_HINT = "make the file again with `sealift export`"
_MAX_VERSION = 2**31 - 1
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})\Z")
_ROLE_FILE = re.compile(r"metadata/([1-9][0-9]{0,9})\.(root|targets|snapshot|(?:release|audit)-([a-z0-9._-]+))\.json\Z")
_BIN = re.compile(r"-[0-9a-f]{1,4}\Z")  # a hash bin of a role, which TUF names so
_TIMESTAMP = "metadata/timestamp.json"
_LAYOUT_NAMES = ("oci-layout", "index.json")


@dataclass(frozen=True, order=True)
class MetadataName:
    """A role file: ``version`` is the one its name claims, and None for timestamp, whose name carries none."""

    role: str
    version: int | None = None

    def __str__(self) -> str:
        """The file name that TUF gives it, as a client asks for it."""
        return f"{self.role}.json" if self.version is None else f"{self.version}.{self.role}.json"


@dataclass(frozen=True)
class _Place:
    """Where a blob lies: first byte and length, in bytes."""

    start: int
    size: int


class OfflineFile:
    """An offline file that was read through and follows the format. Made by ``open_offline`` and ``read_offline`` only.

    A ``ClosedBlobSource``. For one thread: the streams of ``open_blob`` share one position in the file.
    """

    def __init__(self, file: BinaryIO, scan: _Scan, *, where: str) -> None:
        self._file = file
        self._where = where
        self._blobs = scan.blobs
        self.metadata: Mapping[MetadataName, bytes] = MappingProxyType(scan.metadata)
        """Role files by role and version, all of them unverified."""

    def blob_digests(self) -> set[Digest]:
        """The digests of all blobs; each was found to be that of its bytes when the file was opened."""
        return set(self._blobs)

    def blob_size(self, digest: Digest) -> int:
        """Length of a blob in bytes.

        Raises:
            IntegrityError: ``blob_missing``.
        """
        return self._place(digest).size

    def open_blob(self, digest: Digest) -> BinaryIO:
        """A stream over one blob. Its bytes come from the file anew, so the reader hashes them again.

        Raises:
            IntegrityError: ``blob_missing``.
        """
        return io.BufferedReader(_MemberStream(self._file, self._place(digest), where=f"{self._where}, {digest}"))

    def read(self, digest: Digest) -> bytes:
        """A blob's bytes, with the digest of these very bytes checked; memory is its size once.

        Raises:
            IntegrityError: ``blob_missing``, ``blob_digest_mismatch``, or ``blob_size_mismatch`` if the file shrank.
        """
        return read_blob(self, digest, self.blob_size(digest), where=self._where)

    def _place(self, digest: Digest) -> _Place:
        place = self._blobs.get(digest)
        if place is None:
            raise IntegrityError(
                "blob missing", code="blob_missing", where=f"{self._where}, {digest}", hint="the file does not hold this bundle"
            )
        return place


@contextmanager
def open_offline(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[OfflineFile]:
    """Opens a file and reads all of it once; closed at the end of the ``with`` block.

    Raises:
        UsageError: no such file, or not a regular file (``file_missing``).
        FormatError, LimitError, IntegrityError: what ``read_offline`` raises.
        StateError: the disk refused (``read_failed``).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not wait for its writer
    except OSError as e:
        raise UsageError("cannot read the offline file", code="file_missing", where=str(path), actual=e.strerror) from e
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError("not a regular file", code="file_missing", where=str(path))
    with os.fdopen(descriptor, "rb") as file:
        yield read_offline(file, where=str(path), limits=limits)


def read_offline(file: BinaryIO, *, where: str = "offline file", limits: Limits = DEFAULT_LIMITS) -> OfflineFile:
    """Reads an open file from its beginning to its end. It must be seekable, and stay open while the result is used.

    Memory: the metadata, one place for each blob, and one chunk of 1 MiB, whatever the file holds.

    Raises:
        FormatError: anything that the format does not allow (codes ``offline_*``).
        LimitError: too many members (``too_many``), or a member, the metadata or the whole beyond its bound (``too_large``).
        IntegrityError: a blob whose bytes are not what its name says (``blob_digest_mismatch``).
        StateError: the disk refused (``read_failed``).
    """
    scan = _Scan(file, where=where, limits=limits)
    scan.read()
    return OfflineFile(file, scan, where=where)


class _Scan:
    """One pass over the file. Collects, and refuses at the first byte that breaks a rule."""

    def __init__(self, file: BinaryIO, *, where: str, limits: Limits) -> None:
        self._file = file
        self._where = where
        self._limits = limits
        self._at = 0
        self._names: set[str] = set()
        self._metadata_bytes = 0
        self.metadata: dict[MetadataName, bytes] = {}
        self.blobs: dict[Digest, _Place] = {}

    def read(self) -> None:
        """Members until the first zero block, then exactly the end."""
        _seek(self._file, 0, where=self._where)
        while (block := self._take(BLOCK_BYTES)) != ZERO_BLOCK:
            self._member(parse_header(block, where=self._place(self._at - BLOCK_BYTES)))
        self._end()
        missing = [name for name in (*_LAYOUT_NAMES, _TIMESTAMP) if name not in self._names]
        if missing:
            raise self._refusal("a member is missing", code="offline_incomplete", expected=missing[0])

    def _member(self, header: UstarHeader) -> None:
        if header.name in self._names:
            raise self._refusal("a name occurs twice", code="offline_duplicate", actual=header.name)
        if len(self._names) >= self._limits.max_offline_members:
            raise self._limit("too many members", code="too_many", expected=f"at most {self._limits.max_offline_members}")
        self._names.add(header.name)
        blob = _BLOB.match(header.name)
        role_file = _metadata_name(header.name)
        if blob:
            self._blob(Digest(blob[1]), header.size)
        elif role_file:
            self._metadata(role_file, header)
        elif header.name in _LAYOUT_NAMES:
            # Nobody signed these two and a device does not look at them; they make the content an OCI layout for others.
            self._check_size(header, self._limits.max_index_bytes)
            self._take(header.size)
        else:
            raise self._refusal(
                "a name that an offline file does not have",
                code="offline_name",
                expected="oci-layout, index.json, blobs/sha256/<64 hex>, metadata/<n>.<role>.json or metadata/timestamp.json",
                actual=ascii(header.name),
            )
        padding = self._take(-header.size % BLOCK_BYTES)
        if any(padding):
            raise self._refusal("bytes behind the end of a member", code="offline_padding", actual=header.name)

    def _metadata(self, name: MetadataName, header: UstarHeader) -> None:
        """Metadata comes first, so that a device has decided what it wants before the long part begins."""
        if len(self._names) - 1 > len(self.metadata):
            raise self._refusal("metadata behind another member", code="offline_order", actual=header.name)
        self._check_size(header, _role_bound(name.role, self._limits))
        self._metadata_bytes += header.size
        if self._metadata_bytes > self._limits.max_offline_metadata_bytes:
            bound = self._limits.max_offline_metadata_bytes
            raise self._limit("metadata too large", code="too_large", expected=f"at most {bound} bytes in all")
        self.metadata[name] = self._take(header.size)

    def _blob(self, digest: Digest, size: int) -> None:
        self._check_size(UstarHeader(str(digest), size), self._limits.max_blob_bytes)
        self.blobs[digest] = _Place(self._at, size)
        hasher = hashlib.sha256()
        left = size
        while left:
            chunk = self._take(min(left, _CHUNK_BYTES))
            hasher.update(chunk)
            left -= len(chunk)
        actual = Digest(hasher.hexdigest())
        if actual != digest:
            raise IntegrityError(
                "a blob's bytes are not what its name says",
                code="blob_digest_mismatch",
                where=self._place(self._at - size),
                expected=digest,
                actual=actual,
                hint="copy the file again; if it repeats, treat the disk or its source as compromised",
            )

    def _end(self) -> None:
        """A second zero block, zeros up to the end of the record of 20 blocks, and then nothing."""
        padding = self._take(BLOCK_BYTES + -(self._at + BLOCK_BYTES) % RECORD_BYTES)
        if any(padding) or _read(self._file, 1, where=self._where):
            raise self._refusal(
                "bytes behind the end", code="offline_trailing", expected=f"zeros up to a multiple of {RECORD_BYTES}, then nothing"
            )

    def _check_size(self, header: UstarHeader, bound: int) -> None:
        if header.size > bound:
            raise self._limit(f"{header.name} too large", code="too_large", expected=f"at most {bound} bytes", actual=header.size)
        bound = self._limits.max_offline_bytes
        if self._at + header.size > bound:
            raise self._limit("offline file too large", code="too_large", expected=f"at most {bound} bytes")

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, which the caller has bounded."""
        data = _read(self._file, size, where=self._where)
        if len(data) != size:
            raise self._refusal("the file ends too early", code="offline_truncated", expected=f"{size} bytes", actual=len(data))
        self._at += size
        return data

    def _place(self, at: int) -> str:
        return f"{self._where}, byte {at}"

    def _refusal(self, what: str, *, code: str, expected: object = None, actual: object = None) -> FormatError:
        return FormatError(what, code=code, where=self._place(self._at), expected=expected, actual=actual, hint=_HINT)

    def _limit(self, what: str, *, code: str, expected: object = None, actual: object = None) -> LimitError:
        return LimitError(what, code=code, where=self._place(self._at), expected=expected, actual=actual, hint=_HINT)


class _MemberStream(io.RawIOBase):
    """The bytes of one member, with a position of its own."""

    def __init__(self, file: BinaryIO, place: _Place, *, where: str) -> None:
        super().__init__()
        self._file = file
        self._at = place.start
        self._end = place.start + place.size
        self._where = where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        _seek(self._file, self._at, where=self._where)
        data = _read(self._file, min(len(view), self._end - self._at), where=self._where)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _metadata_name(name: str) -> MetadataName | None:
    if name == _TIMESTAMP:
        return MetadataName("timestamp")
    match = _ROLE_FILE.match(name)
    if match is None or int(match[1]) > _MAX_VERSION or not _is_role(match[3]):
        return None
    return MetadataName(match[2], int(match[1]))


def _is_role(line: str | None) -> bool:
    """A top-level role, or a release or audit role of a legal line, or a bin of one."""
    return line is None or _is_line(line) or _is_line(_BIN.sub("", line))


def _is_line(text: str) -> bool:
    try:
        check_name(text, what="line")
    except FormatError:
        return False
    return True


def _role_bound(role: str, limits: Limits) -> int:
    bounds = {"root": limits.max_root_bytes, "snapshot": limits.max_snapshot_bytes, "timestamp": limits.max_timestamp_bytes}
    return bounds.get(role, limits.max_targets_bytes)


def _seek(file: BinaryIO, position: int, *, where: str) -> None:
    try:
        file.seek(position)
    except OSError as e:
        raise _read_failed(e, where=where) from e


def _read(file: BinaryIO, size: int, *, where: str) -> bytes:
    """Up to ``size`` bytes; fewer only at the end of the file."""
    try:
        return file.read(size)
    except OSError as e:
        raise _read_failed(e, where=where) from e


def _read_failed(error: OSError, *, where: str) -> StateError:
    return StateError(f"cannot read the file: {error.strerror}", code="read_failed", where=where, hint="check the disk")
