"""Changes to a ustar archive that keep most of it whole: one field, one member, one number, with the checksum set right again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

BLOCK, RECORD = 512, 10240
# name, first byte and length of each header field
FIELDS = (
    (0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (265, 32), (297, 32),
    (329, 8), (337, 8), (345, 155), (500, 12),
)  # fmt: skip
NAMES = (
    b"oci-layout", b"index.json", b"metadata/timestamp.json", b"metadata/1.root.json", b"metadata/2.release-digits.json",
    b"metadata/3.audit-digits-0f.json", b"metadata/4.targets.json", b"metadata/5.snapshot.json", b"../x", b"/etc/passwd",
    b"blobs/sha256/" + b"0" * 64, b"blobs/sha256/" + b"A" * 64, b"metadata/01.root.json", b"x" * 100, b"",
)  # fmt: skip
VALUES = (
    b"0000644\0", b"0004755\0", b"0000000\0", b"0000000 ", b"00000000000\0", b"00000000001\0", b"77777777777\0", b"00000001000\0",
    b"\x80\0\0\0\0\0\0\0\0\0\0\1", b"ustar\x0000", b"ustar  \0", b"0", b"1", b"2", b"5", b"x", b"L", b"\0", b" ", b"root",
)  # fmt: skip


@dataclass
class Member:
    """A header block and what follows it up to the next header."""

    header: bytearray
    data: bytes


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """An archive with one to three changes."""
    members = _split(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_CHANGES)(members, rng)
    body = b"".join(_joined(member) for member in members)
    if rng.random() < 0.1:
        return body
    end = 2 * BLOCK if rng.random() < 0.95 else BLOCK
    whole = body + bytes(end)
    whole += bytes(-len(whole) % (RECORD if rng.random() < 0.95 else BLOCK))
    return whole if rng.random() < 0.95 else whole + rng.choice((b"\0", b"x", bytes(BLOCK), whole[:BLOCK]))


def seal(header: bytearray) -> None:
    """Sets the checksum right."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)


def _split(data: bytes) -> list[Member]:
    """Members as far as their sizes can be read; whatever else is taken as data."""
    found: list[Member] = []
    at = 0
    while at + BLOCK <= len(data) and len(found) < 200:
        header = bytearray(data[at : at + BLOCK])
        if not any(header):
            break
        try:
            size = int(header[124:135], 8)
        except ValueError:
            size = 0
        stop = min(len(data), at + BLOCK + size)
        found.append(Member(header, data[at + BLOCK : stop]))
        at = stop + -stop % BLOCK
    return found or [Member(bytearray(BLOCK), data[:2000])]


def _joined(member: Member) -> bytes:
    return bytes(member.header) + member.data + bytes(-len(member.data) % BLOCK)


def _put(header: bytearray, start: int, length: int, value: bytes) -> None:
    header[start : start + length] = value[:length].ljust(length, b"\0")


def _field(members: list[Member], rng: random.Random) -> None:
    header = rng.choice(members).header
    start, length = rng.choice(FIELDS)
    if rng.random() < 0.5:
        _put(header, start, length, rng.choice(VALUES))
    else:
        header[start + rng.randrange(length)] = rng.choice((0, 32, 48, 55, 56, 255, rng.randrange(256)))
    if rng.random() < 0.9 and start != 148:
        seal(header)


def _name(members: list[Member], rng: random.Random) -> None:
    header = rng.choice(members).header
    _put(header, 0, 100, rng.choice((*NAMES, bytes(rng.choice(members).header[:100]).rstrip(b"\0"))))
    seal(header)


def _content(members: list[Member], rng: random.Random) -> None:
    """Other bytes; a blob's name follows them nine times out of ten."""
    member = rng.choice(members)
    data = bytearray(member.data)
    if data and rng.random() < 0.7:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        data = bytearray(rng.randbytes(rng.choice((0, 1, 511, 512, 513))))
    member.data = bytes(data)
    _put(member.header, 124, 12, b"%011o\0" % len(data))
    if member.header.startswith(b"blobs/sha256/") and rng.random() < 0.9:
        _put(member.header, 0, 100, b"blobs/sha256/" + hashlib.sha256(data).hexdigest().encode())
    seal(member.header)


def _order(members: list[Member], rng: random.Random) -> None:
    rng.shuffle(members)


def _drop(members: list[Member], rng: random.Random) -> None:
    if len(members) > 1:
        members.pop(rng.randrange(len(members)))


def _double(members: list[Member], rng: random.Random) -> None:
    other = rng.choice(members)
    members.insert(rng.randrange(len(members) + 1), Member(bytearray(other.header), other.data))


def _size(members: list[Member], rng: random.Random) -> None:
    """A size that is not the member's."""
    member = rng.choice(members)
    _put(member.header, 124, 12, b"%011o\0" % rng.choice((0, 1, len(member.data) + 1, 2**31, 2**33 - 1)))
    seal(member.header)


_CHANGES: tuple[Callable[[list[Member], random.Random], None], ...] = (
    _field, _field, _field, _name, _content, _content, _order, _drop, _double, _size,
)  # fmt: skip
