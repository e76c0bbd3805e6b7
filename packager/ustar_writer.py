"""Writes the one form of ustar that ``device_client/bundle/offline.py`` reads: regular files, short names, no owner, no time.

The same members in the same order give the same bytes. Contents are streamed, so memory does not grow with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from device_client.bundle.ustar import BLOCK_BYTES, RECORD_BYTES
from device_client.errors import IntegrityError
from device_client.trust.refs import BlobRef

_MAX_NAME_BYTES = 99  # and the NUL that ends it
_MAX_SIZE = 8**11 - 1  # eleven octal digits
Write = Callable[[bytes], None]


class UstarWriter:
    """Adds members to a file that is open for writing and seekable; ``close`` ends the archive, not the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, data: bytes) -> None:
        """A member whose bytes are at hand."""
        self._file.write(header(name, len(data)))
        self._file.write(data)
        self._pad(len(data))

    def add_blob(self, ref: BlobRef, copy: Callable[[Write], None]) -> None:
        """A blob under its digest, written by ``copy``, which may be called again by its owner after this raised.

        Raises:
            IntegrityError: other bytes, or more or fewer, than ``ref`` says; the next member is written over what there is.
        """
        start = self._file.tell()
        hasher, left = hashlib.sha256(), ref.length

        def write(data: bytes) -> None:
            nonlocal left
            left -= len(data)
            if left >= 0:
                hasher.update(data)
                self._file.write(data)

        self._file.write(header(f"blobs/sha256/{ref.digest.hex}", ref.length))
        try:
            copy(write)
            if left != 0 or hasher.hexdigest() != ref.digest.hex:
                raise IntegrityError("the blob is not what its name says", code="blob_digest_mismatch", where=str(ref.digest))
        except BaseException:
            self._file.seek(start)
            raise
        self._pad(ref.length)

    def close(self) -> None:
        """Two blocks of zeros, and more up to the end of the record."""
        self._file.write(bytes(2 * BLOCK_BYTES))
        self._file.write(bytes(-self._file.tell() % RECORD_BYTES))

    def _pad(self, size: int) -> None:
        self._file.write(bytes(-size % BLOCK_BYTES))


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a regular file: mode 0644, and zeros for owner, group and time.

    Raises:
        ValueError: a name or size that the form has no room for.
    """
    text = name.encode("ascii")
    if not 0 < len(text) <= _MAX_NAME_BYTES or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"no room for {name!r} of {size} bytes in a ustar header")
    fields = (
        (text, 100),
        (b"0000644\0", 8),
        (b"0000000\0", 8),
        (b"0000000\0", 8),
        (b"%011o\0" % size, 12),
        (b"%011o\0" % 0, 12),
    )
    before = b"".join(value.ljust(length, b"\0") for value, length in fields)
    after = (b"0" + bytes(100) + b"ustar\x0000").ljust(BLOCK_BYTES - len(before) - 8, b"\0")
    total = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % total + after
