"""``CodebookDecoder``: the signed size bounds what it makes, however it is fed; what it accepts, a plain reading gives too.

The inner stream is what is worth changing, and LZMA hides it: an input that does not begin like a layer is put into one.
"""

from __future__ import annotations

import json
import lzma
import random
import struct
from collections.abc import Iterator

from device_client.install.codebook_decoder import MAGIC, CodebookDecoder, digits_per_byte, lzma_filters
from tests.fuzz.target import accepted, promise
from tests.fuzz.vectors import bodies

MAX_BYTES = 16_384
SIZES = (0, 5, 28, 100, 65_536, 1 << 20)
WORDS = (
    MAGIC,
    b"\x00\x00\x00\x00\x01",
    b"\x00\x00\x00\x00\x02\x04",
    b"\x00\x00\x00\x00\x03\x04\x02",
    b"\x00\x00\x00\x00\x00",
    b"\xff" * 4,
)


def fuzz_one(data: bytes) -> None:
    """See the module. The first byte chooses the signed size, by index or as the length of what a plain reading makes."""
    layer = data[1:] if data[1:].startswith(MAGIC) else MAGIC + _compressed(data[1:])
    plain = _plain(data[1:])
    choice = data[0] if data else 0
    size = len(plain) if plain is not None and choice & 8 else SIZES[choice % len(SIZES)]
    found = accepted(lambda: _decode(layer, size, step=len(layer) or 1))
    again = accepted(lambda: _decode(layer, size, step=7))
    promise(found == again, "it matters how the layer is cut")
    if found is not None:
        promise(len(found) == size, "another size than was signed")
        promise(layer != MAGIC + _compressed(data[1:]) or found == plain, "a plain reading gives other bytes")


def _decode(layer: bytes, size: int, *, step: int) -> bytes:
    found = bytearray()

    def out(piece: bytes) -> None:
        found.extend(piece)
        promise(len(found) <= size, "more than was signed")

    decoder = CodebookDecoder(out, size=size)
    for begin in range(0, len(layer), step):
        decoder.write(layer[begin : begin + step])
    decoder.finish()
    return bytes(found)


def _compressed(content: bytes) -> bytes:
    return lzma.compress(content, format=lzma.FORMAT_RAW, filters=[{**lzma_filters()[0], "preset": 0, "dict_size": 4096}])


def _plain(content: bytes) -> bytes | None:
    """What a container holds, read the simplest way; None where it is none, or makes more than the largest size here."""
    made, at = bytearray(), 4
    try:
        (length,) = struct.unpack_from("<I", content)
        skeleton, at = content[at : at + length], at + length
        while True:
            skipped, kind = struct.unpack_from("<IB", content, at)
            made += skeleton[:skipped]
            skeleton, at = skeleton[skipped:], at + 5
            if kind == 0:
                return bytes(made) if at == len(content) and not skeleton else None
            at = (_plain_raw, _plain_planes, _plain_codebook)[kind - 1](content, at, made)
            if at > len(content) or len(made) > SIZES[-1]:
                return None
    except (struct.error, IndexError):
        return None


def _plain_raw(content: bytes, at: int, made: bytearray) -> int:
    (length,) = struct.unpack_from("<I", content, at)
    made += content[at + 4 : at + 4 + length]
    return int(at + 4 + length)


def _plain_planes(content: bytes, at: int, made: bytearray) -> int:
    width, count = struct.unpack_from("<BI", content, at)
    at += 5
    if width not in {2, 4, 8} or width * count > SIZES[-1]:
        raise IndexError
    while count:
        group = min(count, 1 << 14)
        made += bytes(content[at + plane * group + index] for index in range(group) for plane in range(width))
        at, count = at + group * width, count - group
    return int(at)


def _plain_codebook(content: bytes, at: int, made: bytearray) -> int:
    width, last, count = struct.unpack_from("<BBI", content, at)
    at += 6
    if width not in {1, 2, 4, 8} or not last or width * count > SIZES[-1]:
        raise IndexError
    values = [content[at + index * width : at + index * width + width] for index in range(last + 1)]
    at += (last + 1) * width
    digits = digits_per_byte(last + 1)
    for begin in range(0, count, digits):
        rest, at = content[at], at + 1
        for _ in range(min(digits, count - begin)):
            rest, digit = divmod(rest, last + 1)
            made += values[digit]
        if rest:
            raise IndexError
    return int(at)


def seeds() -> Iterator[bytes]:
    """Every vector as a layer, and what is inside it where that can be read."""
    for body in bodies("codebook"):
        vector = json.loads(body)
        layer = bytes.fromhex(vector["layer"])
        yield b"\x08" + layer
        try:
            yield b"\x08" + lzma.decompress(layer[4:], format=lzma.FORMAT_RAW, filters=lzma_filters())
        except lzma.LZMAError:
            continue


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes to numbers and bytes; the inner stream is rebuilt around them."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if changed:
                changed[at % len(changed)] = rng.choice((0, 1, 2, 3, 4, 8, 127, 255, rng.randrange(256)))
            case 1:
                del changed[at : at + rng.randint(1, 4)]
            case 2:
                changed[at:at] = rng.choice(WORDS)
            case _:
                changed[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 7, 255, 1 << 20, 0xFFFFFFFF)))
    return bytes(changed)
