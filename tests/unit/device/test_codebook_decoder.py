"""A layer in the codebook encoding yields what was signed, however it arrives, in memory and time that the signed size bounds.

Forms and defects, one by one, are the vectors of ``tests/vectors/codebook``; here is what no single file shows.
"""

from __future__ import annotations

import json
import lzma
import tracemalloc
from pathlib import Path

import pytest

from device_client.errors import SealiftError
from device_client.install.codebook_decoder import MAX_SEGMENTS, MAX_SKELETON_BYTES, CodebookDecoder, digits_per_byte, lzma_filters
from device_client.install.download import Wanted
from device_client.install.store import BlobStore
from device_client.trust.refs import BlobRef
from tests.unit.device.keys import FixedKey
from tests.unit.device.test_download_encoded import fetch
from tests.vectors.codebooks import MAGIC, codebook, container, end, layer, planes, raw
from tests.vectors.generate import HERE

VECTORS = sorted((HERE / "codebook").glob("*.vec"))


def quickly(*segments: bytes, skeleton: bytes = b"") -> bytes:
    """A layer by the library's encoder; the vectors' own takes seconds for a megabyte."""
    return MAGIC + lzma.compress(container(*segments, skeleton=skeleton), format=lzma.FORMAT_RAW, filters=lzma_filters())


BOMB = quickly(codebook([b"\0" * 8, b"\1" * 8], bytes(2_000_000), 16_000_000), end())


def decode(data: bytes, *, size: int, step: int) -> bytes:
    found = bytearray()
    decoder = CodebookDecoder(found.extend, size=size)
    for begin in range(0, len(data), step):
        decoder.write(data[begin : begin + step])
    decoder.finish()
    return bytes(found)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_it_does_not_matter_how_a_layer_is_cut(path: Path) -> None:
    header, body = path.read_bytes().split(b"\n\n", 1)
    vector = json.loads(body)
    data, size = bytes.fromhex(vector["layer"]), vector["size"]
    for step in (1, 3, 64):
        if header.startswith(b"expect: ok"):
            assert decode(data, size=size, step=step).hex() == vector["content"]
        else:
            with pytest.raises(SealiftError) as caught:
                decode(data, size=size, step=step)
            assert caught.value.code == "encoding_container"


def test_long_segments_come_out_whole_and_in_short_pieces() -> None:
    numbers = bytes(range(256)) * 800
    halves = [b"\x00\x3c", b"\x00\xbc"]
    bits = bytes(range(256)) * 60
    content = numbers + numbers + b"".join(halves[byte >> place & 1] for byte in bits for place in range(8))
    data = quickly(raw(numbers), planes(numbers, 4), codebook(halves, bits, len(bits) * 8), end())
    pieces: list[bytes] = []
    decoder = CodebookDecoder(pieces.append, size=len(content))
    decoder.write(data)
    decoder.finish()
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 128 * 1024


def test_a_bomb_is_refused_at_its_head() -> None:
    made: list[int] = []
    with pytest.raises(SealiftError) as caught:
        CodebookDecoder(lambda piece: made.append(len(piece)), size=100_000).write(BOMB)
    assert caught.value.code == "encoding_container"
    assert not made


def test_memory_does_not_follow_the_output() -> None:
    sizes: list[int] = []
    tracemalloc.start()
    try:
        decoder = CodebookDecoder(lambda piece: sizes.append(len(piece)), size=128_000_000)
        decoder.write(BOMB)
        decoder.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 128_000_000
    assert peak < 4_000_000, "LZMA's dictionary, and pieces"


def test_a_finished_decoder_leaves_nothing_for_the_collector() -> None:
    tracemalloc.start()
    try:
        for _ in range(5):
            decode(layer(raw(b"plain"), end()), size=5, step=100)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 900_000, "each holds a dictionary of 1 MiB while it lives"


def test_segments_that_make_nothing_are_counted() -> None:
    data = quickly(*[codebook([b"\0", b"\1"], b"", 0)] * (MAX_SEGMENTS + 1))
    with pytest.raises(SealiftError) as caught:
        decode(data, size=10, step=65_536)
    assert "65536" in str(caught.value)


def test_the_skeleton_is_bounded_whatever_was_signed() -> None:
    longest = MAX_SKELETON_BYTES
    assert decode(quickly(end(longest), skeleton=bytes(longest)), size=longest, step=1000) == bytes(longest)
    with pytest.raises(SealiftError):
        decode(quickly(end(longest + 1), skeleton=bytes(longest + 1)), size=longest + 1, step=1000)


@pytest.mark.parametrize(("entries", "digits"), [(2, 8), (3, 5), (4, 4), (6, 3), (7, 2), (16, 2), (17, 1), (256, 1)])
def test_as_many_indices_share_a_byte_as_fit(entries: int, digits: int) -> None:
    assert digits_per_byte(entries) == digits


def test_a_device_stores_the_decoded_model(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", key=FixedKey())
    values = [b"\0\0\x80?", b"\0\0\x80\xbf", b"\0\0\0\0"]
    content, sent = b"".join(values) * 5, layer(codebook(values, bytes([21 % 243]) * 3, 15), end())
    content = decode(sent, size=60, step=1000)
    wanted = Wanted(BlobRef.of(sent), BlobRef.of(content), "codebook")
    assert fetch(store, wanted, sent) == len(sent)
    assert store.read(wanted.content.digest) == content
    assert fetch(store, wanted) == 0, "it is there"


def test_a_python_without_lzma_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lzma", None)
    with pytest.raises(SealiftError) as caught:
        CodebookDecoder(lambda _: None, size=1)
    assert caught.value.code == "lzma_missing"
