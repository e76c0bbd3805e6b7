"""Stores a model in the ``codebook`` encoding; ``device_client/install/codebook_decoder.py`` reads it, and defines the form.

Lossless: the bytes that run are the bytes that were packed. What it gains over zstd is measured on INT8 and on clustered
weights: indices are packed before they are entropy-coded, the bytes of floating-point numbers are coded place by place, and
LZMA's adaptive literals suit weights better than zstd's tables do (3 to 8 % smaller on five INT8 models).
"""

from __future__ import annotations

import lzma
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import UsageError
from device_client.install.codebook_decoder import (
    CODEBOOK,
    END,
    MAGIC,
    MAX_SEGMENTS,
    MAX_SKELETON_BYTES,
    PLANE_ITEMS,
    PLANES,
    RAW,
    digits_per_byte,
    lzma_filters,
)
from packager.encode.regions import Codebook, Region, covered, find_regions

ENCODING = "codebook"
_MAX_NUMBERS = 2**32 - 1


def encode_codebook(data: bytes) -> bytes:
    """The layer. Deterministic with one version of liblzma; 1 to 3 s per MB, and some 15 times the model in memory.

    Raises:
        UsageError: the file does not fit the format: too many tensors, or too much that is no tensor (``encode_unfit``).
    """
    regions = find_regions(data)
    if len(regions) >= MAX_SEGMENTS or len(data) - covered(regions) > MAX_SKELETON_BYTES or len(data) > _MAX_NUMBERS:
        raise UsageError(
            "the model does not fit the codebook encoding", code="encode_unfit", hint="store it as it is, or with zstd"
        )
    skeleton, segments, cursor = [], [], 0
    for region in regions:
        skeleton.append(data[cursor : region.begin])
        segments.append(_segment(region, skipped=region.begin - cursor))
        cursor = region.end
    skeleton.append(data[cursor:])
    segments.append(struct.pack("<IB", len(data) - cursor, END))
    text = b"".join(skeleton)
    content = b"".join([struct.pack("<I", len(text)), text, *segments])
    filters = [{**lzma_filters()[0], "preset": 9 | lzma.PRESET_EXTREME}]
    return MAGIC + lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters)


def _segment(region: Region, *, skipped: int) -> bytes:
    words = region.words
    if region.codebook is not None:
        book = region.codebook
        head = struct.pack("<IBBBI", skipped, CODEBOOK, region.width, len(book.values) - 1, len(words))
        return head + book.values.tobytes() + _packed(book)
    if region.width == 1:
        return struct.pack("<IBI", skipped, RAW, len(words)) + words.tobytes()
    return struct.pack("<IBBI", skipped, PLANES, region.width, len(words)) + _planes(words)


def _packed(book: Codebook) -> bytes:
    """Indices as digits of numbers in the base of the table's length, the first index in the lowest digit."""
    entries = len(book.values)
    digits = digits_per_byte(entries)
    padded = np.concatenate([book.indices, np.zeros(-len(book.indices) % digits, np.intp)]).reshape(-1, digits)
    return bytes((padded * entries ** np.arange(digits)).sum(axis=1).astype(np.uint8).tobytes())


def _planes(words: NDArray[Any]) -> bytes:
    """All lowest bytes, then all next ones, in groups of ``PLANE_ITEMS`` numbers."""
    groups = (words[begin : begin + PLANE_ITEMS] for begin in range(0, len(words), PLANE_ITEMS))
    return b"".join(group.view(np.uint8).reshape(len(group), -1).T.tobytes() for group in groups)
