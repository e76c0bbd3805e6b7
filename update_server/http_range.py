"""One byte range of a blob, by RFC 9110 section 14; pure.

Several ranges, other units and nonsense are ignored, which the RFC allows and which answers with the whole blob.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


class UnsatisfiableRangeError(Exception):
    """The range begins at or after the end: 416."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``first`` to ``last``, both included, of something of ``size`` bytes."""

    first: int
    last: int
    size: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1

    @property
    def content_range(self) -> str:
        """The header value of a 206."""
        return f"bytes {self.first}-{self.last}/{self.size}"


def parse_range(header: str, *, size: int) -> ByteRange | None:
    """The range that is asked for; None if the header is to be ignored.

    Raises:
        UnsatisfiableRangeError: no byte of it exists.
    """
    match = _RANGE.match(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        wanted = min(int(match[2]), size)
        if wanted == 0:
            raise UnsatisfiableRangeError
        return ByteRange(size - wanted, size - 1, size)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise UnsatisfiableRangeError
    return ByteRange(first, last, size)


def matches(header: str, etag: str) -> bool:
    """Whether an ``If-None-Match`` list names ``etag`` (weak comparison) or is ``*``."""
    return header.strip() == "*" or etag in {tag.strip().removeprefix("W/") for tag in header.split(",")}
