"""Offline files for tests: good ones made by the standard library, and ones with any byte of a header changed by hand."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from device_client.bundle.digest import Digest

BLOCK, RECORD = 512, 10240
Members = Mapping[str, bytes]


@dataclass(frozen=True)
class Header:
    """A ustar header as raw fields; what is not given is what tarfile writes for a plain file."""

    name: bytes = b""
    size: bytes = b"00000000000\0"
    mode: bytes = b"0000644\0"
    uid: bytes = b"0000000\0"
    gid: bytes = b"0000000\0"
    mtime: bytes = b"00000000000\0"
    checksum: bytes | None = None  # None: the right one
    kind: bytes = b"0"
    link: bytes = b""
    magic: bytes = b"ustar\x0000"
    uname: bytes = b""
    gname: bytes = b""
    devmajor: bytes = b""
    devminor: bytes = b""
    prefix: bytes = b""
    rest: bytes = b""

    def to_bytes(self) -> bytes:
        before = _fill((self.name, 100), (self.mode, 8), (self.uid, 8), (self.gid, 8), (self.size, 12), (self.mtime, 12))
        after = _fill((self.kind, 1), (self.link, 100), (self.magic, 8), (self.uname, 32), (self.gname, 32))
        after += _fill((self.devmajor, 8), (self.devminor, 8), (self.prefix, 155), (self.rest, 12))
        total = sum(before) + sum(after) + 8 * ord(" ")
        return before + (b"%06o\0 " % total if self.checksum is None else self.checksum) + after


def _fill(*fields: tuple[bytes, int]) -> bytes:
    return b"".join(value.ljust(length, b"\0") for value, length in fields)


def member(name: str | bytes, data: bytes = b"", **fields: bytes | None) -> bytes:
    """Header, content and padding of one member, with some header fields replaced."""
    text = name if isinstance(name, bytes) else name.encode()
    header = replace(Header(text, b"%011o\0" % len(data)), **fields)  # type: ignore[arg-type]
    return header.to_bytes() + data + bytes(-len(data) % BLOCK)


def closed(*parts: bytes) -> bytes:
    """Members, then the two zero blocks and zeros up to the end of the record."""
    body = b"".join(parts)
    return body + bytes(2 * BLOCK) + bytes(-(len(body) + 2 * BLOCK) % RECORD)


def archive(members: Members | Iterable[tuple[str, bytes]]) -> bytes:
    """An offline file made by hand."""
    items = members.items() if isinstance(members, Mapping) else members
    return closed(*(member(name, data) for name, data in items))


def by_tarfile(members: Members, *, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive made by the standard library."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def blob(data: bytes) -> tuple[str, bytes]:
    """Name and content of a blob."""
    return f"blobs/sha256/{Digest.of(data).hex}", data


def good_members(*blobs: bytes) -> dict[str, bytes]:
    """What a small good file holds; the metadata is not read by this reader."""
    return {
        "metadata/1.root.json": b'{"root": 1}',
        "metadata/2.root.json": b'{"root": 2}',
        "metadata/timestamp.json": b'{"timestamp": 1}',
        "metadata/4.snapshot.json": b'{"snapshot": 4}',
        "metadata/3.targets.json": b'{"targets": 3}',
        "metadata/12.release-digits.json": b'{"release": 12}',
        "metadata/7.audit-digits.json": b'{"audit": 7}',
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": b'{"schemaVersion":2,"manifests":[]}',
        **dict(blob(data) for data in (blobs or (b"a manifest", b"x" * 512, b"", b"y" * 1500))),
    }
