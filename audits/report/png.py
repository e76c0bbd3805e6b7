"""Pictures as PNG files, written here so that a report needs no imaging library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

from audits.data import Floats

Bytes = npt.NDArray[np.uint8]


def pixels(image: Floats, *, low: float, high: float) -> Bytes:
    """(channels, H, W) in the range ``low`` to ``high`` as (H, W, 3) colour where there are three channels, else (H, W) grey.

    Other numbers of channels are averaged. Values outside the range are moved to its ends.
    """
    scaled = np.clip((image - low) / ((high - low) or 1.0), 0.0, 1.0) * 255.0
    picked = np.moveaxis(scaled, 0, -1) if len(scaled) == 3 else scaled.mean(axis=0)
    return np.ascontiguousarray(picked.round().astype(np.uint8))


def data_uri(found: Bytes) -> str:
    """The picture as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(found)).decode("ascii")


def png(found: Bytes) -> bytes:
    """A PNG file of (H, W) grey or (H, W, 3) colour."""
    height, width = found.shape[:2]
    colour = 0 if found.ndim == 2 else 2
    rows = b"".join(b"\x00" + found[row].tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
