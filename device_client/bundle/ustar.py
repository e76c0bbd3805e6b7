"""One 512-byte header of a ustar archive, read so that no two readers can take it differently.

Used by ``offline.py`` only. Pure: bytes in, ``UstarHeader`` out. Source: POSIX.1-1988 ustar interchange format; of it only
regular files with a short name. PAX and GNU extensions, the ``prefix`` field, links and every spelling of a number but one
are refused: each of them is a way to name a file twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from device_client.errors import FormatError

BLOCK_BYTES = 512
RECORD_BYTES = 20 * BLOCK_BYTES
ZERO_BLOCK = bytes(BLOCK_BYTES)

_MAGIC = b"ustar\x0000"
_REGULAR = b"0"
_NUMBER = re.compile(rb"[0-7]*\Z")
_OWNER = re.compile(rb"[A-Za-z0-9._-]{0,31}\Z")
_NUMBERS = {"mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12)}  # where, how long
_CHECKSUM = (148, 8)
_PERMISSIONS = 0o777


@dataclass(frozen=True)
class UstarHeader:
    """What a reader needs of a header that passed; owner, group, permissions and time mean nothing here.

    ``name`` is ASCII; what it may say is the caller's rule. ``size`` in bytes.
    """

    name: str
    size: int


def parse_header(block: bytes, *, where: str) -> UstarHeader:
    """Reads one header block.

    Args:
        block: exactly 512 bytes, not all of them zero.
        where: file and byte, for errors.

    Raises:
        FormatError: with the code of the rule; the numbers in the body are their order.
    """
    # 1. POSIX ustar, neither the older nor the GNU form, whose fields mean other things.
    if block[257:265] != _MAGIC:
        raise _refusal("not a ustar header", code="offline_magic", where=where, expected="ustar 00", actual=ascii(block[257:265]))
    # 2. The bytes are the ones that were written.
    _check_sum(block, where=where)
    # 3. A regular file: no link, folder, device, FIFO, and no record that renames or resizes the next member.
    if block[156:157] != _REGULAR:
        raise _refusal("not a regular file", code="offline_type", where=where, expected="type '0'", actual=ascii(block[156:157]))
    if any(block[157:257]):
        raise _refusal("a regular file with a link target", code="offline_type", where=where)
    # 4. Every number in the one spelling: octal, filled with zeros, ended by one NUL.
    numbers = {name: _number(block, name, start=start, length=length, where=where) for name, (start, length) in _NUMBERS.items()}
    # 5. No set-user-id, set-group-id or sticky bit.
    if numbers["mode"] & ~_PERMISSIONS:
        raise _refusal(
            "set-id or sticky bit", code="offline_mode", where=where, expected="permissions only", actual=f"{numbers['mode']:o}"
        )
    # 6. What a plain file does not use is empty, so that nothing hides there.
    _check_unused(block, where=where)
    # 7. One short name, ended by NUL and filled with NUL.
    return UstarHeader(_name(block, where=where), numbers["size"])


def _check_sum(block: bytes, *, where: str) -> None:
    """The sum of all bytes, its own field counted as spaces; written as six digits, NUL, space."""
    start, length = _CHECKSUM
    expected = sum(block) - sum(block[start : start + length]) + length * ord(" ")
    if block[start : start + length] != b"%06o\0 " % expected:
        raise _refusal(
            "header checksum differs",
            code="offline_checksum",
            where=where,
            expected=f"{expected:06o}",
            actual=ascii(block[start : start + length]),
        )


def _number(block: bytes, name: str, *, start: int, length: int, where: str) -> int:
    digits, end = block[start : start + length - 1], block[start + length - 1 : start + length]
    if end != b"\0" or not _NUMBER.match(digits):
        raise _refusal(
            f"'{name}' is not a plain octal number",
            code="offline_number",
            where=where,
            expected=f"{length - 1} octal digits and NUL",
            actual=ascii(block[start : start + length]),
        )
    return int(digits, 8)


def _check_unused(block: bytes, *, where: str) -> None:
    for name, start in (("uname", 265), ("gname", 297)):
        text, _, rest = block[start : start + 32].partition(b"\0")
        if any(rest) or not _OWNER.match(text):
            raise _refusal(f"'{name}' is not a plain name", code="offline_header", where=where)
    for name, start in (("devmajor", 329), ("devminor", 337)):
        if block[start : start + 8] not in {bytes(8), b"0000000\0"}:
            raise _refusal(f"a regular file with '{name}'", code="offline_header", where=where)
    if any(block[345:512]):
        raise _refusal("'prefix' or the bytes behind it are in use", code="offline_header", where=where)


def _name(block: bytes, *, where: str) -> str:
    text, _, rest = block[0:100].partition(b"\0")
    if any(rest):
        raise _refusal("bytes behind the end of a name", code="offline_name", where=where, actual=ascii(block[0:100].rstrip(b"\0")))
    try:
        return text.decode("ascii")
    except UnicodeDecodeError as e:
        raise _refusal("a name that is not ASCII", code="offline_name", where=where, actual=ascii(text)) from e


def _refusal(what: str, *, code: str, where: str, expected: str | None = None, actual: str | None = None) -> FormatError:
    return FormatError(
        what, code=code, where=where, expected=expected, actual=actual, hint="make the file again with `sealift export`"
    )
