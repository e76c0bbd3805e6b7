"""Pictures of private records: blurred before they leave memory, full only when the auditor asks for it.

Class means, held-outs and reconstructions are all private. The image file of a run holds what the report may show and no
more, so a report can be made again later without the records, and cannot show more than was decided at the run.
A coarse grid still shows a rough shape: blurred is less, and not nothing.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from audits.data import Floats
from device_client.errors import FormatError

Bytes = npt.NDArray[np.uint8]
COARSE = 4  # cells on a side of a blurred image
COARSE_POINTS = 12  # points of a blurred series
_MEANS, _HELD, _PREFIX = "class_means", "heldouts", "reconstruction/"


@dataclass(frozen=True)
class ReportImages:
    """What a report shows, as ``prepare`` made it: (C, channels, H, W) or (C, points); blurred unless ``private``."""

    class_means: Floats
    heldouts: Floats
    reconstructions: dict[str, Floats]
    private: bool

    def to_bytes(self) -> bytes:
        """An ``.npz`` without pickles; the same bytes for the same images."""
        arrays = {_MEANS: self.class_means, _HELD: self.heldouts, "private": np.array(self.private)}
        arrays |= {_PREFIX + name: images for name, images in self.reconstructions.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # keyword names are array names, mypy takes allow_pickle's type
        return buffer.getvalue()


def read_images(data: bytes, *, where: str) -> ReportImages:
    """Reads what ``to_bytes`` wrote.

    Raises:
        FormatError: another file, or arrays that are missing or pickled.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        rebuilt = {name.removeprefix(_PREFIX): images for name, images in found.items() if name.startswith(_PREFIX)}
        return ReportImages(found[_MEANS], found[_HELD], rebuilt, bool(found["private"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise FormatError("not the images of an audit", code="audit_images", where=where) from e


def prepare(images: Floats, *, private: bool) -> Floats:
    """Brings (C, ...) to (C, channels, H, W) for pictures or (C, points) for series, blurred unless ``private``."""
    grid = image_grid(images.shape[1:])
    if grid is None and images.ndim != 4:
        series = images.reshape(len(images), -1)
        return series if private else _pool(series, 1, COARSE_POINTS)
    height, width = grid if grid is not None else (images.shape[2], images.shape[3])
    planes = images.reshape(len(images), -1, height, width)
    return planes if private else _pool(_pool(planes, 2, COARSE), 3, COARSE)


def image_grid(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of records that are square images written flat, as handwritten digits often are; else None."""
    size = int(np.prod(shape))
    side = round(size**0.5)
    is_flat = len([length for length in shape if length > 1]) == 1
    return (side, side) if is_flat and side >= 4 and side * side == size else None


def png(pixels: Bytes) -> bytes:
    """A PNG file of (H, W) grey or (H, W, 3) colour, written here so that a report needs no imaging library."""
    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else 2
    rows = b"".join(b"\x00" + pixels[row].tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pool(values: Floats, axis: int, cells: int) -> Floats:
    """Means over ``cells`` nearly equal pieces of one axis; at most half of its length, so that something is always lost."""
    length = values.shape[axis]
    edges = np.linspace(0, length, max(1, min(cells, length // 2)) + 1).round().astype(int)
    pieces = [values.take(range(a, b), axis=axis).mean(axis=axis) for a, b in pairwise(edges)]
    return np.stack(pieces, axis=axis).astype(np.float32)
