"""SHA-256 digests as a type, so that a string can never stand in for a checked value."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from device_client.errors import FormatError

_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, order=True)
class Digest:
    """A SHA-256 digest; ``hex`` is 64 lower-case hexadecimal characters.

    Written ``sha256:<hex>`` in every Sealift document. Other algorithms are refused, so that no reader has to
    rank them (DESIGN 3).
    """

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.match(self.hex):
            raise FormatError("not a sha256 digest", code="digest_syntax", actual=repr(self.hex)[:90])

    @classmethod
    def parse(cls, text: object, *, where: str = "digest") -> Digest:
        """Reads ``sha256:<hex>``.

        Raises:
            FormatError: another algorithm, another length, upper case, or not a string.
        """
        if not isinstance(text, str) or not text.startswith("sha256:") or not _HEX.match(text[7:]):
            raise FormatError(
                "not a sha256 digest", code="digest_syntax", where=where, expected="sha256:<64 hex>", actual=repr(text)[:90]
            )
        return cls(text[7:])

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of ``data``."""
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
