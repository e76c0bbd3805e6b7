"""An encoded layer is one plain frame that yields what was signed; anything else ends early and small."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from device_client.errors import SealiftError
from device_client.install.zstd_decoder import MAX_WINDOW_BYTES, ZstdDecoder

CONTENT = random.Random(3).randbytes(200_000) + bytes(900_000) + random.Random(4).randbytes(70_000)


def encode(data: bytes = CONTENT, *, window_log: int = 20, dictionary: bytes = b"", level: int = 3, **flags: bool) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log, **{"write_content_size": True, "write_checksum": True} | flags
    )
    given = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=given).compress(data)


def decode(data: bytes, *, size: int = len(CONTENT), step: int = 65_536) -> bytes:
    found = bytearray()

    def out(piece: bytes) -> None:
        assert 0 < len(piece) <= 128 * 1024
        found.extend(piece)
        if len(found) > size:
            raise OverflowError

    decoder = ZstdDecoder(out, size=size)
    for begin in range(0, len(data), step):
        decoder.write(data[begin : begin + step])
    decoder.finish()
    return bytes(found)


@pytest.mark.parametrize("step", [1 << 20, 65_536, 1000, 7, 1])
def test_a_frame_decodes_however_it_is_cut(step: int) -> None:
    data = encode() if step > 100 else encode(CONTENT[:5000])
    content = CONTENT if step > 100 else CONTENT[:5000]
    assert decode(data, size=len(content), step=step) == content


@pytest.mark.parametrize("flags", [{"write_content_size": False}, {"write_checksum": False}])
@pytest.mark.parametrize("window_log", [10, 17, 22])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, len(CONTENT)])
def test_every_form_of_header_is_read(flags: dict[str, bool], window_log: int, size: int) -> None:
    assert decode(encode(CONTENT[:size], window_log=window_log, **flags), size=size) == CONTENT[:size]


def with_dictionary() -> bytes:
    samples = [bytes([n % 7]) * 50 for n in range(100)]
    return encode(dictionary=zstandard.train_dictionary(1000, samples).as_bytes(), write_dict_id=True)


def wide() -> bytes:
    """A good frame, but its decoder must hold 8 MiB."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=23, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(CONTENT) + compressor.flush()


def bomb() -> bytes:
    """A gigabyte of zeros in 8192 RLE blocks of four bytes each."""
    block = (128 * 1024) << 3 | 1 << 1
    blocks = struct.pack("<I", block)[:3] + b"\x00"
    return b"\x28\xb5\x2f\xfd" + bytes([0b0000_0000, (20 - 10) << 3]) + blocks * 8192


SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "encoding_frame"),
    "not zstd": (lambda: b"GGUF" + bytes(100), "encoding_frame"),
    "cut in the header": (lambda: encode()[:7], "encoding_frame"),
    "cut in a block": (lambda: encode()[:1000], "encoding_frame"),
    "cut before the checksum": (lambda: encode()[:-4], "encoding_frame"),
    "cut in the checksum": (lambda: encode()[:-1], "encoding_frame"),
    "a flipped bit": (lambda: encode()[:150_000] + bytes([encode()[150_000] ^ 1]) + encode()[150_001:], "encoding_frame"),
    "a byte after the frame": (lambda: encode() + b"x", "encoding_frame"),
    "a second frame": (lambda: encode() + encode(b""), "encoding_frame"),
    "a skippable frame first": (lambda: SKIPPABLE + encode(), "encoding_frame"),
    "a skippable frame last": (lambda: encode() + SKIPPABLE, "encoding_frame"),
    "a dictionary": (with_dictionary, "encoding_frame"),
    "a dictionary of id zero": (lambda: b"\x28\xb5\x2f\xfd" + b"\x01\x50\x00" + b"\x01\x00\x00", "encoding_frame"),
    "another size in its header": (lambda: encode(CONTENT[:-1]), "encoding_frame"),
    "a block of the reserved kind": (lambda: b"\x28\xb5\x2f\xfd\x00\x50" + b"\x07\x00\x00", "encoding_frame"),
    "a block beyond 128 KiB": (lambda: b"\x28\xb5\x2f\xfd\x00\x50" + b"\xff\xff\xff", "encoding_frame"),
    "a window of 8 MiB": (wide, "encoding_window"),
    "a window of 3 TB": (lambda: b"\x28\xb5\x2f\xfd\x00\xff" + bytes(100), "encoding_frame"),
}


@pytest.mark.parametrize(("make", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_one_plain_frame_is_refused(make: Callable[[], bytes], code: str) -> None:
    data = make()
    for step in (65_536, 5)[: 2 if len(data) < 2000 else 1]:
        with pytest.raises(SealiftError) as caught:
            decode(data, step=step)
        assert caught.value.code == code


def test_a_bomb_ends_at_the_signed_size_and_is_never_in_memory() -> None:
    data = bomb()
    tracemalloc.start()
    try:
        with pytest.raises(OverflowError):
            decode(data, size=300_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_WINDOW_BYTES


def test_a_frame_whose_decoder_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(SealiftError) as caught:
        ZstdDecoder(lambda _: None, size=1)
    assert caught.value.code == "missing_extra"
