"""Integer weights as nodes and constants of an ONNX graph. The value keeps its name, so no reader has to change.

A matrix has one row per output channel; ``rows_first`` says whether the tensor is stored like that or transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from packager.ptq.graph import GraphView
from packager.ptq.rounding import Floats, Grid

_SHRINKS = tuple(1 - step / 20 for step in range(11))
_HALF_RANGE = (6.2e-5, 6.5e4)  # normal numbers of FP16

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BlockGrid:
    """Steps of a matrix: ``scale`` and ``offset`` are (rows, blocks); integers are in ``low..high``."""

    scale: Floats
    offset: Floats
    low: int
    high: int
    block: int

    def part(self, rows: slice) -> Grid:
        """The grid of some rows, one entry per weight."""
        return Grid(
            np.repeat(self.scale[rows], self.block, axis=1), np.repeat(self.offset[rows], self.block, axis=1), self.low, self.high
        )


def fit_grid(matrix: Floats, *, bits: int, block: int, symmetric: bool, centred: bool = False) -> BlockGrid:
    """The steps with the smallest squared error per block, by trying eleven amounts of clipping.

    ``centred``: integers are unsigned around ``2**(bits - 1)``, as MatMulNBits has them.
    """
    blocks = matrix.reshape(matrix.shape[0], -1, block)
    levels = 2**bits
    low, high = (0, levels - 1) if not symmetric or centred else (1 - levels // 2, levels // 2 - 1)
    if symmetric:
        ends = np.abs(blocks).max(axis=2)
        least, most = -ends, ends
    else:
        least, most = blocks.min(axis=2), blocks.max(axis=2)
    best = np.full(least.shape, np.inf)
    scale, offset = np.ones(least.shape), np.zeros(least.shape)
    for shrink in _SHRINKS if bits < 8 else _SHRINKS[:1]:
        steps = (most - least) * shrink / (high - low) if not symmetric else most * shrink / (levels // 2 - 1)
        steps = np.where(steps > 0, steps, 1.0)
        start = _storable((most + least) / 2 - steps * (high - low) / 2, bits) if not symmetric else np.zeros(least.shape)
        steps = _storable(steps, bits)
        start = start if not centred else -steps * (levels // 2)
        rounded = np.clip(np.rint((blocks - start[..., None]) / steps[..., None]), low, high)
        error = np.square(rounded * steps[..., None] + start[..., None] - blocks).sum(axis=2)
        better = error < best
        best, scale, offset = np.where(better, error, best), np.where(better, steps, scale), np.where(better, start, offset)
    return BlockGrid(scale, offset, low, high, block)


def encode_folded(
    graph: Any, tensor: Any, rounded: Integers, grid: BlockGrid, *, bits: int, block: int, rows_first: bool, lead: int
) -> None:
    """Replaces a constant by integers and the nodes that turn them back into FP32."""
    name, dims = tensor.name, list(tensor.dims)
    rows, columns = rounded.shape
    blocked = block != columns
    stored, scale, offset = _stored(rounded, grid, rows_first=rows_first, blocked=blocked)
    if not blocked:  # the scale takes the tensor's own shape, and no second reshaping is needed
        shape = [*dims[:lead], *[1] * (len(dims) - lead)] if rows_first else [1, rows]
        stored, scale, offset = stored.reshape(dims), scale.reshape(shape), offset.reshape(shape)
    builder = _Builder(graph, name)
    value = builder.integers(stored, bits=bits)
    has_offset = bool(np.any(offset))
    value = builder.node("Mul", [value, builder.floats(scale, half=bits < 8)], last=not has_offset and not blocked)
    if has_offset:
        value = builder.node("Add", [value, builder.floats(offset, half=bits < 8)], last=not blocked)
    if blocked:
        builder.node("Reshape", [value, builder.constant(np.asarray(dims, dtype=np.int64))], last=True)
    builder.finish(tensor)


def encode_pair(graph: Any, tensor: Any, rounded: Integers, grid: BlockGrid, *, rows_first: bool, lead: int) -> None:
    """Replaces a constant by INT8 and a DequantizeLinear along the output channel."""
    dims = list(tensor.dims)
    if lead > 1:  # DequantizeLinear knows one axis
        encode_folded(graph, tensor, rounded, grid, bits=8, block=rounded.shape[1], rows_first=rows_first, lead=lead)
        return
    builder = _Builder(graph, tensor.name)
    stored = (rounded if rows_first else rounded.T).reshape(dims).astype(np.int8)
    inputs = [builder.constant(stored), builder.constant(grid.scale[:, 0].astype(np.float32))]
    builder.node("DequantizeLinear", inputs, last=True, axis=0 if rows_first else len(dims) - 1)
    builder.finish(tensor)


def encode_matmulnbits(model: Any, name: str, rounded: Integers, grid: BlockGrid, *, bits: int, block: int) -> None:
    """Replaces every product with this constant by MatMulNBits; a Gemm's bias is added by a node of its own."""
    rows, columns = rounded.shape
    graph = model.graph
    builder = _Builder(graph, name)
    packed = _pack(rounded.reshape(-1), bits, interleaved=True).reshape(rows, columns // block, block * bits // 8)
    inputs = [builder.constant(packed), builder.constant(grid.scale.reshape(-1).astype(np.float32))]
    for node in GraphView(model).consumers[name]:
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block}
        product = helper.make_node("MatMulNBits", [node.input[0], *inputs], list(node.output), domain="com.microsoft", **attributes)
        if bias:
            product.output[0] = f"{node.output[0]}_product"
        index = list(graph.node).index(node)
        graph.node.remove(node)
        graph.node.insert(index, product)
        if bias:
            graph.node.insert(index + 1, helper.make_node("Add", [product.output[0], bias], list(node.output)))
    if not any(item.domain == "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    builder.finish(next(tensor for tensor in graph.initializer if tensor.name == name))


def _storable(values: Floats, bits: int) -> Floats:
    """Below 8 bits scales are FP16 where they fit: what is rounded to must be what is stored."""
    if bits < 8 and _fits_half(values):
        return values.astype(np.float16).astype(np.float64)
    return values.astype(np.float32).astype(np.float64)


def _fits_half(values: Floats) -> bool:
    magnitudes = np.abs(values[values != 0])
    return bool(magnitudes.size == 0 or (magnitudes.min() >= _HALF_RANGE[0] and magnitudes.max() <= _HALF_RANGE[1]))


def _stored(rounded: Integers, grid: BlockGrid, *, rows_first: bool, blocked: bool) -> tuple[Integers, Floats, Floats]:
    """In the tensor's order of bytes, in blocks where there is more than one per row."""
    if not blocked:
        return (rounded if rows_first else rounded.T), grid.scale, grid.offset
    blocks = rounded.reshape(rounded.shape[0], -1, grid.block)
    if rows_first:
        return blocks, grid.scale[..., None], grid.offset[..., None]
    return blocks.transpose(1, 2, 0), grid.scale.T[:, None, :], grid.offset.T[:, None, :]


def _pack(flat: Integers, bits: int, *, interleaved: bool) -> NDArray[np.uint8]:
    """Several integers per byte, lowest bits first; ``interleaved``: neighbours share a byte, else equal parts of the whole do."""
    share = 8 // bits
    parts = flat.reshape(-1, share).T if interleaved else flat.reshape(share, -1)
    packed = np.zeros(parts.shape[1], dtype=np.int64)
    for index, part in enumerate(parts):
        packed |= part << (bits * index)
    return packed.astype(np.uint8)


class _Builder:
    """Collects the nodes that make one value and puts them before all others of its graph."""

    def __init__(self, graph: Any, name: str) -> None:
        self._graph, self._name = graph, name
        self._nodes: list[Any] = []
        self._count = 0

    def node(self, op_type: str, inputs: list[str], *, last: bool = False, **attributes: Any) -> str:
        output = self._name if last else self._fresh()
        self._nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        name = self._fresh()
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def floats(self, values: Floats, *, half: bool) -> str:
        if half and values.size > 16 and _fits_half(values):
            return self.node("Cast", [self.constant(values.astype(np.float16))], to=TensorProto.FLOAT)
        return self.constant(values.astype(np.float32))

    def integers(self, stored: Integers, *, bits: int) -> str:
        """The integers as FP32 values. Below 8 bits: ``high = floor(byte / 16)``, ``low = byte - 16 high``, both exact."""
        if bits >= 8:
            return self.node("Cast", [self.constant(stored.astype(np.int8 if bits == 8 else np.int16))], to=TensorProto.FLOAT)
        parts = []
        left = self.node("Cast", [self.constant(_pack(stored.reshape(-1), bits, interleaved=False))], to=TensorProto.FLOAT)
        down, up = self.constant(np.asarray(2.0**-bits, dtype=np.float32)), self.constant(np.asarray(2.0**bits, dtype=np.float32))
        for _ in range(8 // bits - 1):
            high = self.node("Floor", [self.node("Mul", [left, down])])
            parts.append(self.node("Sub", [left, self.node("Mul", [high, up])]))
            left = high
        flat = self.node("Concat", [*parts, left], axis=0)
        return self.node("Reshape", [flat, self.constant(np.asarray(stored.shape, dtype=np.int64))])

    def finish(self, tensor: Any) -> None:
        self._graph.initializer.remove(tensor)
        nodes = [*self._nodes, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._name}/{self._count}"
