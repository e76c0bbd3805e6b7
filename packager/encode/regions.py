"""Where the tensors of an ONNX file lie in its bytes, and how each one is best written: what the codebook encoder works on.

Finding them is a search for their bytes, not a parse of the file: a wrong guess could not do harm, because the encoder's output
is decoded and compared, and every byte outside a region is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from device_client.install.codebook_decoder import digits_per_byte

MIN_TENSOR_BYTES = 32
_MAX_ENTRIES = 256
_HEAD_BYTES = 11
_WIDTHS = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.UINT32: 4,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.UINT64: 8,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.INT16: 2,
    onnx.TensorProto.UINT16: 2,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1,
}
_WORDS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


@dataclass(frozen=True)
class Codebook:
    """The distinct values of a region, as ascending little-endian words of ``width`` bytes, and an index for each number."""

    values: NDArray[Any]
    indices: NDArray[np.intp]


@dataclass(frozen=True)
class Region:
    """A run of numbers in the file.

    Attributes:
        begin: offset of its first byte.
        words: its numbers as unsigned little-endian words, whatever they mean.
        codebook: the table and indices, where its values are few enough that this is smaller; else None.
    """

    begin: int
    words: NDArray[Any]
    codebook: Codebook | None

    @property
    def width(self) -> int:
        """Bytes of one number: 1, 2, 4 or 8."""
        return int(self.words.dtype.itemsize)

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.begin + self.words.nbytes


def find_regions(data: bytes) -> list[Region]:
    """The tensors' bytes in a model file, in order and without overlaps; those of small tensors are left where they are.

    A tensor whose rows each take few values, and together many (a scale of its own for every channel), becomes one region
    for each row.
    """
    found: list[Region] = []
    cursor = 0
    for tensor in _tensors(onnx.load_from_string(data).graph):
        width, raw = _WIDTHS.get(tensor.data_type), _stored_bytes(tensor)
        if width is None or len(raw) < MIN_TENSOR_BYTES or len(raw) % width:
            continue
        begin = data.find(raw, cursor)
        if begin < 0:
            continue
        cursor = begin + len(raw)
        words = np.frombuffer(raw, _WORDS[width])
        found.extend(_split(begin, words, rows=tensor.dims[0] if tensor.dims else 1))
    return found


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph in the order in which protobuf writes them: nodes with their attributes, then initialisers."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)
    yield from graph.initializer


def _stored_bytes(tensor: Any) -> bytes:
    """The bytes that stand in the file for the numbers, where they stand together and each has one width."""
    if tensor.raw_data:
        return bytes(tensor.raw_data)
    return np.asarray(tensor.float_data, "<f4").tobytes() if tensor.float_data else b""


def _split(begin: int, words: NDArray[Any], *, rows: int) -> Iterator[Region]:
    whole = Region(begin, words, _codebook(words))
    if rows < 2 or len(words) % rows:
        yield whole
        return
    parts = words.reshape(rows, -1)
    split = [Region(begin + index * part.nbytes, part, _codebook(part)) for index, part in enumerate(parts)]
    costs_less = sum(map(_cost_bytes, split)) < _cost_bytes(whole)
    yield from split if costs_less and all(region.codebook is not None for region in split) else [whole]


def _cost_bytes(region: Region) -> int:
    """Size of a segment before it is entropy-coded."""
    if region.codebook is None:
        return _HEAD_BYTES + region.words.nbytes
    book = region.codebook
    return _HEAD_BYTES + book.values.nbytes + packed_bytes(len(book.indices), len(book.values))


def _codebook(words: NDArray[Any]) -> Codebook | None:
    """None where a table would not pay: it costs its values, and saves where an index needs fewer bits than the number."""
    values, indices = np.unique(words, return_inverse=True)
    width = words.dtype.itemsize
    if not 2 <= len(values) <= _MAX_ENTRIES or packed_bytes(len(words), len(values)) + values.nbytes > 0.75 * words.nbytes:
        return None
    if width == 1 and len(values) > 16:  # then a byte holds one index: the number itself is as good
        return None
    return Codebook(values, indices.astype(np.intp))


def packed_bytes(count: int, entries: int) -> int:
    """Size of ``count`` packed indices into a table of ``entries`` values."""
    return -(-count // digits_per_byte(entries))


def covered(regions: Sequence[Region]) -> int:
    """Bytes of the file that lie in regions."""
    return sum(region.words.nbytes for region in regions)
