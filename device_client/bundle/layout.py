"""Where blobs come from: the source protocol, exact reads, and an OCI image layout on disk.

Nothing is ever unpacked: a blob is found by its digest and read to exactly the size that a descriptor signs. The
layout directory is untrusted; ``index.json`` only says which manifest somebody put there, never which one to run.

    layout = LayoutDirectory(path)
    named = layout.manifest_descriptor()            # untrusted; a device takes digest and size from TUF instead
    bundle = verify_bundle(layout, named.digest, manifest_size=named.size, closed=True)
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from device_client.bundle import media_types
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, IntegrityError, LimitError, StateError, UsageError
from device_client.limits import DEFAULT_LIMITS, Limits

LAYOUT_VERSION = "1.0.0"
_CHUNK_BYTES = 1 << 20
_MAX_FOLDER_ENTRIES = 64  # far more than the folders may hold, so that a foreign file is named, and far less than a flood
_ROOT_NAMES = frozenset({"oci-layout", "index.json", "blobs"})


class BlobSource(Protocol):
    """Anything that can open a blob by digest: a layout, a store, a server. What it returns is not trusted."""

    def open_blob(self, digest: Digest) -> BinaryIO:
        """A stream of the blob's bytes, to be closed by the caller.

        Raises:
            IntegrityError: there is no such blob (``blob_missing``).
        """
        ...


@runtime_checkable
class ClosedBlobSource(BlobSource, Protocol):
    """A source that belongs to one bundle and can list what it holds."""

    def blob_digests(self) -> set[Digest]:
        """The digests of all blobs present, by name; their content is not checked."""
        ...


def read_blob(source: BlobSource, digest: Digest, size: int, *, where: str = "blob") -> bytes:
    """The blob's bytes, exactly ``size`` of them, with the digest of these very bytes checked.

    The caller bounds ``size``; memory is ``size`` once.

    Raises:
        IntegrityError: missing, shorter, longer, or other bytes.
    """
    with source.open_blob(digest) as stream:
        data = b"".join(_chunks(stream, size, where=_at(where, digest)))
    _check_digest(digest, Digest.of(data), where=where)
    return data


def read_blob_up_to(source: BlobSource, digest: Digest, max_bytes: int, *, where: str = "blob") -> bytes:
    """The blob's bytes where no signed size is known: at most ``max_bytes``, with the digest checked.

    Raises:
        LimitError: longer than ``max_bytes``; reading stopped there.
        IntegrityError: missing, or other bytes.
    """
    data = bytearray()
    with source.open_blob(digest) as stream:
        while chunk := stream.read(min(_CHUNK_BYTES, max_bytes + 1 - len(data))):
            data += chunk
            if len(data) > max_bytes:
                raise LimitError(
                    f"{where} too large", code="too_large", where=_at(where, digest), expected=f"at most {max_bytes} bytes"
                )
    _check_digest(digest, Digest.of(bytes(data)), where=where)
    return bytes(data)


def copy_blob(source: BlobSource, digest: Digest, size: int, out: BinaryIO, *, where: str = "blob") -> None:
    """Streams the blob into ``out`` with the checks of ``read_blob``.

    The digest is known only at the end, so ``out`` must be something that is thrown away when this raises: a
    temporary file that is renamed afterwards. Never more than ``size`` bytes are written.

    Raises:
        IntegrityError: missing, shorter, longer, or other bytes.
    """
    hasher = hashlib.sha256()
    with source.open_blob(digest) as stream:
        for chunk in _chunks(stream, size, where=_at(where, digest)):
            hasher.update(chunk)
            out.write(chunk)
    _check_digest(digest, Digest(hasher.hexdigest()), where=where)


def check_blob(source: BlobSource, digest: Digest, size: int, *, where: str = "blob") -> None:
    """Reads the blob once, keeping nothing.

    Raises:
        IntegrityError: missing, shorter, longer, or other bytes.
    """
    hasher = hashlib.sha256()
    with source.open_blob(digest) as stream:
        for chunk in _chunks(stream, size, where=_at(where, digest)):
            hasher.update(chunk)
    _check_digest(digest, Digest(hasher.hexdigest()), where=where)


class LayoutDirectory:
    """An OCI image layout in a folder, holding one bundle and nothing else.

    Opening lists the tree once: a link, a special file, a set-id bit, a foreign name or too many files refuse the
    whole folder before any content is read. A set-id bit or a stray file does no harm here, but whoever wrote the
    folder did not use our writer, and the next tool in the chain may be less careful.

    Raises:
        UsageError: ``path`` is no folder.
        FormatError: the tree holds anything that a layout does not.
        LimitError: more files than ``max_layers`` allows.
    """

    def __init__(self, path: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = path
        self._limits = limits
        if not path.is_dir():
            raise UsageError(
                "no such folder", code="bundle_not_found", where=str(path), hint="give the folder that `sealift pack` wrote"
            )
        self._blobs = self._scan()

    def manifest_descriptor(self) -> Descriptor:
        """The manifest that ``index.json`` names: exactly one, and nobody signed that.

        Raises:
            FormatError: no layout of version 1.0.0, a nested index, several manifests.
            LimitError: ``oci-layout`` or ``index.json`` beyond ``max_index_bytes``.
        """
        layout = Fields(self._read_json("oci-layout"), where="oci-layout", known=("imageLayoutVersion",))
        layout.text("imageLayoutVersion", choices=(LAYOUT_VERSION,))
        known = ("schemaVersion", "mediaType", "manifests", "annotations")
        index = Fields(self._read_json("index.json"), where="index.json", known=known)
        index.integer("schemaVersion", minimum=2, maximum=2)
        if "mediaType" in index:
            index.text("mediaType", choices=(media_types.INDEX,))
        found = index.items("manifests", _read_manifest_descriptor, max_items=self._limits.max_layers)
        if len(found) != 1:
            raise FormatError("not exactly one manifest", code="index_count", where="index.json", expected=1, actual=len(found))
        return found[0]

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Opens ``blobs/sha256/<hex>``; a link put there after the scan is refused, too."""
        path = self.path / "blobs" / "sha256" / digest.hex
        missing = IntegrityError("blob missing", code="blob_missing", where=str(path), hint="fetch the bundle again")
        if digest not in self._blobs:
            raise missing
        try:
            return _open_regular(path)
        except FileNotFoundError as e:
            raise missing from e

    def blob_digests(self) -> set[Digest]:
        """The digests of all blobs that the scan found, by name."""
        return set(self._blobs)

    def _scan(self) -> frozenset[Digest]:
        for name, mode in _entries(self.path, max_entries=_MAX_FOLDER_ENTRIES):
            if name not in _ROOT_NAMES:
                raise _foreign(self.path / name)
            _check_kind(self.path / name, mode, folder=name == "blobs")
        blobs = self.path / "blobs"
        for name, mode in _entries(blobs, max_entries=_MAX_FOLDER_ENTRIES):
            if name != "sha256":
                raise _foreign(blobs / name)
            _check_kind(blobs / name, mode, folder=True)
        found = set()
        for name, mode in _entries(blobs / "sha256", max_entries=self._limits.max_layers + 2):  # and config, manifest
            try:
                found.add(Digest(name))
            except FormatError as e:
                raise _foreign(blobs / "sha256" / name) from e
            _check_kind(blobs / "sha256" / name, mode, folder=False)
        return frozenset(found)

    def _read_json(self, name: str) -> object:
        bound = self._limits.max_index_bytes
        try:
            with _open_regular(self.path / name) as stream:
                data = stream.read(bound + 1)
        except FileNotFoundError as e:
            raise FormatError("not an OCI image layout", code="layout_missing_file", where=str(self.path / name)) from e
        return parse_strict(data, max_bytes=bound, where=name, limits=self._limits)


def _read_manifest_descriptor(value: object, where: str) -> Descriptor:
    """Ordinary OCI tools repeat the manifest's ``artifactType`` here; ours is the only one accepted."""
    if isinstance(value, dict) and value.get("artifactType") == media_types.ARTIFACT_TYPE:
        value = {key: item for key, item in value.items() if key != "artifactType"}
    descriptor = Descriptor.from_json(value, where)
    if descriptor.media_type != media_types.MANIFEST:
        raise FormatError(
            "not an image manifest", code="index_nested", where=where, expected=media_types.MANIFEST, actual=descriptor.media_type
        )
    return descriptor


def _entries(path: Path, *, max_entries: int) -> list[tuple[str, int]]:
    """Names and modes in a folder, sorted, without following links and without listing more than the limit."""
    found: list[tuple[str, int]] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                found.append((entry.name, entry.stat(follow_symlinks=False).st_mode))
                if len(found) > max_entries:
                    raise LimitError(
                        "too many files in the bundle", code="too_many", where=str(path), expected=f"at most {max_entries}"
                    )
    except FileNotFoundError as e:
        raise FormatError("not an OCI image layout", code="layout_missing_file", where=str(path)) from e
    except OSError as e:
        raise StateError(f"cannot read the folder: {e.strerror}", code="read_failed", where=str(path)) from e
    return sorted(found)


def _check_kind(path: Path, mode: int, *, folder: bool) -> None:
    if stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode) and not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        return
    raise FormatError(
        "link, special file or set-id bit in a bundle",
        code="layout_foreign_file",
        where=ascii(str(path))[1:-1],
        expected="a folder" if folder else "a regular file",
        actual=stat.filemode(mode),
    )


def _foreign(path: Path) -> FormatError:
    return FormatError("foreign file in a bundle", code="layout_foreign_file", where=ascii(str(path))[1:-1])


def _open_regular(path: Path) -> BinaryIO:
    """Opens a regular file; never follows a link at the end of the path and never waits for a FIFO's writer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise  # what it means depends on the file: the caller knows
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise _foreign(path) from e
        raise StateError(f"cannot read the file: {e.strerror}", code="read_failed", where=str(path)) from e
    try:
        _check_kind(path, os.fstat(descriptor).st_mode, folder=False)
    except FormatError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _chunks(stream: BinaryIO, size: int, *, where: str) -> Iterator[bytes]:
    """Exactly ``size`` bytes; then the stream must end."""
    left = size
    while left:
        chunk = stream.read(min(_CHUNK_BYTES, left))
        if not chunk:
            raise IntegrityError("blob too short", code="blob_size_mismatch", where=where, expected=size, actual=size - left)
        left -= len(chunk)
        yield chunk
    if stream.read(1):
        raise IntegrityError("blob too long", code="blob_size_mismatch", where=where, expected=size, actual="more")


def _check_digest(expected: Digest, actual: Digest, *, where: str) -> None:
    if actual != expected:
        raise IntegrityError(
            "digest differs",
            code="blob_digest_mismatch",
            where=_at(where, expected),
            expected=expected,
            actual=actual,
            hint="download again; if it repeats, treat the mirror as compromised",
        )


def _at(where: str, digest: Digest) -> str:
    return f"{where}, blobs/sha256/{digest.hex}"
