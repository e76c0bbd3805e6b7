"""Vectors of the ``codebook`` encoding of model layers."""

from __future__ import annotations

import json
import struct

from .documents import Json, vector
from .lzma_writer import lzma_literals

MAGIC = b"SLC\x01"
END, RAW, PLANES, CODEBOOK = range(4)
TEXT = b"the bytes between two tensors"
TERNARY = [0, 1, 2, 2, 1, 0, 0]  # seven indices: five in the first byte, two in the second
FLOATS = [struct.pack("<f", value) for value in (0.0, 0.25, -0.25)]


def raw(data: bytes, *, skipped: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<IBI", skipped, RAW, len(data) if length is None else length) + data


def planes(data: bytes, width: int, *, skipped: int = 0, count: int | None = None) -> bytes:
    numbers = len(data) // width if width else 0
    groups = [data[begin : begin + width * 16_384] for begin in range(0, len(data), width * 16_384 or 1)]
    body = b"".join(group[index::width] for group in groups for index in range(width))
    return struct.pack("<IBBI", skipped, PLANES, width, numbers if count is None else count) + body


def codebook(values: list[bytes], packed: bytes, count: int, *, skipped: int = 0, width: int | None = None) -> bytes:
    size = len(values[0]) if width is None else width
    return struct.pack("<IBBBI", skipped, CODEBOOK, size, len(values) - 1, count) + b"".join(values) + packed


def end(skipped: int = 0) -> bytes:
    return struct.pack("<IB", skipped, END)


def container(*segments: bytes, skeleton: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<I", len(skeleton) if length is None else length) + skeleton + b"".join(segments)


def layer(*segments: bytes, skeleton: bytes = b"", length: int | None = None, with_end: bool = True) -> bytes:
    return MAGIC + lzma_literals(container(*segments, skeleton=skeleton, length=length), with_end=with_end)


def packed(indices: list[int], entries: int, digits: int) -> bytes:
    groups = [indices[begin : begin + digits] for begin in range(0, len(indices), digits)]
    return bytes(sum(index * entries**place for place, index in enumerate(group)) for group in groups)


def numbers(indices: list[int], values: list[bytes]) -> bytes:
    return b"".join(values[index] for index in indices)


def codebook_vectors() -> dict[str, bytes]:
    found = {f"ok-{name}": ("ok", about, body, content) for name, (about, body, content) in good().items()}
    bad: dict[str, tuple[str, str, bytes, bytes]] = {
        name: ("encoding_container", about, body, content) for name, (about, body, content) in broken().items()
    }
    made = {}
    for name, (expect, about, body, content) in (found | bad).items():
        value: Json = {"layer": body.hex(), "size": len(content), "content": content.hex() if expect == "ok" else None}
        made[name] = vector(expect, about, json.dumps(value, sort_keys=True, indent=1).encode() + b"\n")
    return made


def good() -> dict[str, tuple[str, bytes, bytes]]:
    ternary, content = codebook(FLOATS, packed(TERNARY, 3, 5), 7), numbers(TERNARY, FLOATS)
    two = [b"\x01", b"\xff"]
    bits = [0, 1, 1, 0, 1, 0, 0, 0, 1]
    sixteen = [bytes([value, 0x80]) for value in range(16)]
    some = [3, 15, 0, 7, 9]
    many = [struct.pack("<Q", value) for value in range(256)]
    words = struct.pack("<5f", 1.0, -2.0, 3.5, 0.0, 1e-3)
    halves = struct.pack("<3H", 1, 0x3C00, 0xFFFF)
    return {
        "raw": ("bytes as they are", layer(raw(b"plain"), end()), b"plain"),
        "ternary": ("three values, five indices in a byte, the last byte with two", layer(ternary, end()), content),
        "binary": (
            "two values of one byte, eight in a byte",
            layer(codebook(two, packed(bits, 2, 8), 9), end()),
            numbers(bits, two),
        ),
        "sixteen": (
            "sixteen values of two bytes, two in a byte",
            layer(codebook(sixteen, packed(some, 16, 2), 5), end()),
            numbers(some, sixteen),
        ),
        "whole-table": (
            "256 values of eight bytes, one in a byte",
            layer(codebook(many, bytes([255, 0, 7]), 3), end()),
            numbers([255, 0, 7], many),
        ),
        "planes-4": ("floats by byte planes", layer(planes(words, 4), end()), words),
        "planes-2": ("halves by byte planes", layer(planes(halves, 2), end()), halves),
        "skeleton-only": ("no tensor", layer(end(len(TEXT)), skeleton=TEXT), TEXT),
        "empty-segments": (
            "segments of nothing",
            layer(raw(b""), planes(b"", 4), codebook(FLOATS, b"", 0), raw(b"x"), end()),
            b"x",
        ),
        "all-kinds": (
            "skeleton before, between and after segments of each kind",
            layer(
                raw(b"\x07" * 3, skipped=5),
                planes(words, 4),
                codebook(FLOATS, packed(TERNARY, 3, 5), 7, skipped=1),
                end(len(TEXT) - 6),
                skeleton=TEXT,
            ),
            TEXT[:5] + b"\x07" * 3 + words + TEXT[5:6] + content + TEXT[6:],
        ),
    }


def broken() -> dict[str, tuple[str, bytes, bytes]]:
    """Layer, and what the signed size is that of."""
    plain, ternary = b"plain", numbers(TERNARY, FLOATS)
    good_layer = layer(raw(plain), end())
    return {
        "empty": ("no byte", b"", plain),
        "magic": ("begins like something else", b"ONNX" + good_layer[4:], plain),
        "magic-cut": ("ends in its first bytes", MAGIC[:3], plain),
        "later-form": ("a form that is not defined", b"SLC\x02" + good_layer[4:], plain),
        "cut": ("ends in the LZMA stream", good_layer[:-3], plain),
        "no-end-marker": ("the LZMA stream does not end", layer(raw(plain), end(), with_end=False), plain),
        "damaged": ("no LZMA stream", MAGIC + b"\xff" * 40, plain),
        "byte-after": ("a byte after the LZMA stream", good_layer + b"x", plain),
        "two-streams": ("a second layer behind the first", good_layer + good_layer, plain),
        "no-end-segment": ("the last segment is missing", layer(raw(plain)), plain),
        "segment-after-end": ("a segment behind the last one", layer(raw(plain), end(), raw(b"")), plain),
        "byte-after-end": ("a byte behind the last segment", layer(raw(plain), end(), b"x"), plain),
        "kind": ("an unknown kind of segment", layer(struct.pack("<IB", 0, 4), end()), plain),
        "skeleton-huge": ("a skeleton of 4 GiB", layer(end(), length=0xFFFFFFFF), plain),
        "skeleton-beyond-size": ("a skeleton longer than the model", layer(end(6), skeleton=b"longer"), plain),
        "skeleton-cut": ("less skeleton than it says", layer(end(5), skeleton=b"", length=5), plain),
        "skeleton-left": ("skeleton that no segment writes", layer(raw(b"ni"), end(3), skeleton=b"plai"), plain),
        "skeleton-twice": ("more skeleton than there is", layer(raw(b"", skipped=4), end(1), skeleton=b"plai"), plain),
        "shorter": ("makes fewer bytes than were signed", layer(raw(b"plai"), end()), plain),
        "longer": ("makes more bytes than were signed", layer(raw(b"plain!"), end()), plain),
        "raw-huge": ("promises 4 GiB of bytes", layer(raw(b"", length=0xFFFFFFFF)), plain),
        "raw-cut": ("fewer bytes than a segment says", layer(raw(b"pla", length=5)), plain),
        "planes-huge": ("promises 32 GiB of numbers", layer(planes(b"", 8, count=0xFFFFFFFF)), plain),
        "planes-width-3": ("numbers of three bytes", layer(planes(b"abc", 3), end()), b"abc"),
        "planes-width-1": ("planes of single bytes, which are bytes", layer(planes(b"abc", 1), end()), b"abc"),
        "codebook-huge": ("promises 16 GiB of numbers", layer(codebook(FLOATS, b"", 0xFFFFFFFF)), ternary),
        "codebook-width-0": ("numbers of no byte", layer(codebook(FLOATS, b"", 7, width=0), end()), ternary),
        "codebook-width-16": ("numbers of 16 bytes", layer(codebook(FLOATS, b"", 1, width=16), end()), ternary),
        "one-value": ("a table of one value", layer(codebook(FLOATS[:1], b"\0", 7), end()), ternary),
        "index": ("an index beyond its table", layer(codebook(FLOATS, b"\xf3\x00", 7), end()), ternary),
        "last-index": ("an index beyond its table in the last byte", layer(codebook(FLOATS, b"\x00\x09", 7), end()), ternary),
        "indices-cut": ("fewer indices than numbers", layer(codebook(FLOATS, b"\x00", 7)), ternary),
        "table-cut": ("half a table", layer(codebook(FLOATS, b"", 7)[:-5]), ternary),
    }
