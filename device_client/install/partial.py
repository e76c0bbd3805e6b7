"""A blob that is being written: encrypted chunk by chunk into ``blobs/partial``, and taken up again after an interruption.

What a partial file holds is worth nothing until its digest has been compared: it was authenticated by this device, but it came
from the network. Taking it up again means decrypting and hashing all of it; the first chunk that does not open, torn by a power
cut or changed by somebody, and all after it are cut off.

    writer = BlobWriter(file, digest, size, key=key, cipher=cipher)
    writer.recover()                # or restart()
    writer.write(chunk)
    writer.check()
"""

from __future__ import annotations

import hashlib
from io import FileIO

from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError
from device_client.install.sealed import (
    CHUNK_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    RECORD_BYTES,
    Cipher,
    Header,
    Seal,
    check_digest,
)
from device_client.install.sealed_file import read_exactly, read_header


class BlobWriter:
    """Encrypts, hashes and writes; refuses a byte beyond its size at once. Holds two chunks in memory.

    Args:
        file: opened for reading and writing, without a buffer of its own.
        digest: of the content.
        size: of the content, in bytes.
        key: the device's store key.
        cipher: for new files; one that is taken up again keeps its own.
    """

    def __init__(self, file: FileIO, digest: Digest, size: int, *, key: bytes, cipher: Cipher) -> None:
        self._file = file
        self._digest = digest
        self._size = size
        self._key = key
        self._cipher = cipher
        self._plain = memoryview(bytearray(CHUNK_BYTES))
        self._record = memoryview(bytearray(RECORD_BYTES))
        self._hash = hashlib.sha256()
        self._index = 0
        self._filled = 0
        self._written = 0

    @property
    def written(self) -> int:
        """Bytes of content so far, those that ``recover`` found included."""
        return self._written

    @property
    def is_worth_keeping(self) -> bool:
        """True if whole chunks lie in the file."""
        return self._index > 0

    def restart(self) -> None:
        """Begins with an empty file and a new salt."""
        self._file.seek(0)
        self._file.truncate()
        header = Header.new(self._size, cipher=self._cipher, key=self._key)
        self._begin(Seal(header, self._digest, key=self._key, where="partial"))
        self._write_all(memoryview(header.to_bytes()))

    def recover(self) -> None:
        """Takes up what the file holds, as far as it opens; begins anew if that is nothing."""
        try:
            self._file.seek(0)
            header = Header.parse(read_header(self._file), where="partial")
            seal = Seal(header, self._digest, key=self._key, where="partial")
        except IntegrityError:
            return self.restart()
        if header.size != self._size:
            return self.restart()
        self._begin(seal)
        while self._index < header.chunks and self._recover_chunk(seal):
            pass
        end = HEADER_BYTES + self._index * RECORD_BYTES - (self._index * CHUNK_BYTES - self._written)
        self._file.seek(end)
        self._file.truncate()
        return None

    def write(self, data: bytes | memoryview) -> None:
        """Appends.

        Raises:
            IntegrityError: more bytes than the signed size (``blob_size_mismatch``).
        """
        if self._written + len(data) > self._size:
            raise size_mismatch(self._digest, self._size, f"more than {self._size}")
        rest = memoryview(data)
        while rest:
            if not self._filled and len(rest) >= CHUNK_BYTES:  # a whole chunk at once needs no copy
                self._written += CHUNK_BYTES
                self._flush(rest[:CHUNK_BYTES])
                rest = rest[CHUNK_BYTES:]
                continue
            piece = rest[: CHUNK_BYTES - self._filled]
            self._plain[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            self._written += len(piece)
            rest = rest[len(piece) :]
            if self._filled == CHUNK_BYTES:
                self._flush(self._plain)

    def check(self) -> None:
        """Writes the last chunk, and compares length and digest with what was signed.

        Raises:
            IntegrityError: ``blob_size_mismatch`` or ``blob_digest_mismatch``.
        """
        if self._written != self._size:
            raise size_mismatch(self._digest, self._size, self._written)
        if self._index < self._seal.header.chunks:
            self._flush(self._plain[: self._filled])
        check_digest(self._digest, self._hash, where="download")

    def _begin(self, seal: Seal) -> None:
        self._seal = seal
        self._hash = hashlib.sha256()
        self._index = self._filled = self._written = 0

    def _recover_chunk(self, seal: Seal) -> bool:
        size = seal.header.content_bytes(self._index)
        record, plain = self._record[: size + OVERHEAD_BYTES], self._plain[:size]
        if not read_exactly(self._file, record):
            return False
        try:
            seal.open(self._index, record, plain)
        except IntegrityError:
            return False
        self._hash.update(plain)
        self._index += 1
        self._written += size
        return True

    def _flush(self, plain: memoryview) -> None:
        record = self._record[: len(plain) + OVERHEAD_BYTES]
        self._hash.update(plain)
        self._seal.close(self._index, plain, record)
        self._write_all(record)
        self._index += 1
        self._filled = 0

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) or 0 :]


def size_mismatch(digest: Digest, expected: int, actual: object) -> IntegrityError:
    """The one error for a blob that is shorter or longer than was signed."""
    return IntegrityError(
        "blob size differs",
        code="blob_size_mismatch",
        where=str(digest),
        expected=f"{expected} bytes",
        actual=actual,
        hint="poll again; if it repeats, treat the server or mirror as compromised",
    )
