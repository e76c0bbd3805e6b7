"""How a blob lies on the device's disk: a header, then chunks that are encrypted and authenticated one by one.

    header, 64 bytes   magic, version, cipher, chunk size, size of the content, id of the device's key, random salt
    chunk, each        nonce (12 bytes, random), ciphertext (of 256 KiB; the last one shorter), tag (16 bytes)

The key of a blob is derived from the device's store key, the whole header and the blob's digest; the associated data of a
chunk are the digest, its index, and whether it is the last. So a chunk that was changed, left out, moved, or taken from
another blob or device does not open. Nonces are random, not the index: a download that was cut off and goes on writes a chunk
again, perhaps with other content, and one nonce must never seal two contents.

Pure but for the randomness of salts and nonces. Knows no files (``partial.py``, ``store.py``), and does not compare the
content with its digest: the store hashes what it hands out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError

KEY_BYTES = 32
HEADER_BYTES = 64
CHUNK_BYTES = 256 * 1024  # content of a chunk; measured best of 64 KiB to 1 MiB
_NONCE_BYTES = 12
_TAG_BYTES = 16
OVERHEAD_BYTES = _NONCE_BYTES + _TAG_BYTES
RECORD_BYTES = CHUNK_BYTES + OVERHEAD_BYTES

_MAGIC = b"sealift\x00"
_VERSION = 1
_HEADER = struct.Struct(">8sBBHIQ8s32s")
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_INFO_BYTES = 8192  # the first core's paragraph


class Cipher(IntEnum):
    """Both have keys of 32, nonces of 12 and tags of 16 bytes."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


@dataclass(frozen=True)
class Header:
    """What a sealed blob begins with; ``size`` is the content's, in bytes."""

    cipher: Cipher
    size: int
    key_id: bytes
    salt: bytes

    @classmethod
    def new(cls, size: int, *, cipher: Cipher, key: bytes) -> Header:
        """For a blob that is about to be written, with a salt of its own."""
        return cls(cipher, size, key_id(key), os.urandom(32))

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Header:
        """Reads the header.

        Raises:
            IntegrityError: ``blob_format``: not sealed at all, or by a version that this one does not know.
        """
        if len(data) == HEADER_BYTES:
            magic, version, cipher, zero, chunk, size, owner, salt = _HEADER.unpack(data)
            if (magic, version, zero, chunk) == (_MAGIC, _VERSION, 0, CHUNK_BYTES) and cipher in set(Cipher):
                return cls(Cipher(cipher), size, owner, salt)
        raise IntegrityError(
            "not a blob that this version encrypted",
            code="blob_format",
            where=where,
            hint="the next poll removes it and downloads it again",
        )

    def to_bytes(self) -> bytes:
        """The 64 bytes."""
        return _HEADER.pack(_MAGIC, _VERSION, self.cipher, 0, CHUNK_BYTES, self.size, self.key_id, self.salt)

    @property
    def chunks(self) -> int:
        """How many there are; empty content is one empty chunk, so that its absence shows."""
        return max(1, -(-self.size // CHUNK_BYTES))

    def content_bytes(self, index: int) -> int:
        """Size of the content of chunk ``index``."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)


class Seal:
    """Opens and closes the chunks of one blob.

    Args:
        header: of the blob.
        digest: of its content.
        key: the device's store key.
        where: for errors.

    Raises:
        IntegrityError: ``blob_key``: it was sealed under another key.
    """

    def __init__(self, header: Header, digest: Digest, *, key: bytes, where: str) -> None:
        if not hmac.compare_digest(header.key_id, key_id(key)):
            raise IntegrityError(
                "the blob was encrypted under another key",
                code="blob_key",
                where=where,
                hint="it came from another device, or this one's store key was replaced; the next poll downloads it again",
            )
        self.header = header
        self._digest = bytes.fromhex(digest.hex)
        self._where = where
        own = HKDF(SHA256(), 32, header.salt, b"sealift blob" + header.to_bytes() + self._digest).derive(key)
        self._cipher = AESGCM(own) if header.cipher is Cipher.AES_256_GCM else ChaCha20Poly1305(own)

    def close(self, index: int, content: memoryview, record: memoryview) -> None:
        """Encrypts ``content`` into ``record``, which is ``OVERHEAD_BYTES`` longer."""
        nonce = os.urandom(_NONCE_BYTES)
        record[:_NONCE_BYTES] = nonce
        self._cipher.encrypt_into(nonce, content, self._associated(index), record[_NONCE_BYTES:])

    def open(self, index: int, record: memoryview, content: memoryview) -> None:
        """Decrypts ``record`` into ``content``.

        Raises:
            IntegrityError: ``blob_damaged``: not the chunk that was sealed at this place of this blob.
        """
        try:
            self._cipher.decrypt_into(bytes(record[:_NONCE_BYTES]), record[_NONCE_BYTES:], self._associated(index), content)
        except InvalidTag as e:
            raise damaged(self._where, f"chunk {index} of {self.header.chunks} does not open") from e

    def _associated(self, index: int) -> bytes:
        return self._digest + index.to_bytes(8) + bytes([index == self.header.chunks - 1])


def sealed_bytes(size: int) -> int:
    """Bytes on the disk of a blob with ``size`` bytes of content."""
    return HEADER_BYTES + size + OVERHEAD_BYTES * max(1, -(-size // CHUNK_BYTES))


def key_id(key: bytes) -> bytes:
    """Eight bytes that tell keys apart and say nothing about them."""
    return HKDF(SHA256(), 8, None, b"sealift store key id").derive(key)


def fastest_cipher(cpu_info: Path = _CPU_INFO) -> Cipher:
    """AES where the processor has instructions for it; without them ChaCha20 is several times faster."""
    try:
        with cpu_info.open("rb") as file:
            words = file.read(_CPU_INFO_BYTES).split()
    except OSError:
        return Cipher.AES_256_GCM
    return Cipher.AES_256_GCM if b"aes" in words else Cipher.CHACHA20_POLY1305


def damaged(where: str, actual: str) -> IntegrityError:
    """The one error for a sealed blob whose bytes on the disk were changed or cut."""
    return IntegrityError(
        "a stored blob is damaged",
        code="blob_damaged",
        where=where,
        actual=actual,
        hint="the next poll downloads it again; if it repeats, check the disk, and who can write there",
    )


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


def check_digest(expected: Digest, hasher: hashlib._Hash, *, where: str) -> None:
    """Compares what was hashed with what was signed.

    Raises:
        IntegrityError: ``blob_digest_mismatch``.
    """
    actual = Digest(hasher.hexdigest())
    if actual != expected:
        raise digest_mismatch(expected, actual, where=where)
