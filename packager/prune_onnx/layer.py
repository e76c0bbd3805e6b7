"""A layer as a linear map: its inputs as rows of columns, its weights as a matrix, and back.

For Conv (with groups), Gemm and MatMul with constant weights: ``y = columns @ matrix + bias``. A convolution is read at
sampled positions; the same seed samples the same positions of two runs, so the columns of one model can be compared with
the outputs of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.prune_onnx.graph import Array, GraphView, attribute

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearLayer:
    """How to read one node.

    ``groups``, ``columns``: of the matrix, (groups, columns, outputs per group). ``positions``: that one row of data is
    read at; all of them where there are no more. ``kernel``: of a convolution.
    """

    node: Any
    index: int
    groups: int
    columns: int
    outputs: int
    positions: int
    kernel: tuple[int, ...] = ()


def linear_layer(view: GraphView, index: int, *, positions: int) -> LinearLayer | None:
    """Reads a node, or gives ``None`` where it is no such map."""
    node, weight = view.nodes[index], view.constant(view.nodes[index], 1)
    if weight is None or weight.dtype != np.float32:
        return None
    if node.op_type == "Conv" and weight.ndim >= 3:
        groups = int(attribute(node, "group", 1))
        there = int(np.prod(view.shapes[node.output[0]][2:]))
        per_group = len(weight) // groups
        columns = int(np.prod(weight.shape[1:]))
        return LinearLayer(node, index, groups, columns, per_group, min(positions, there), weight.shape[2:])
    if node.op_type == "Gemm" and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0:
        outputs = weight.shape[0 if attribute(node, "transB", 0) else 1]
        return LinearLayer(node, index, 1, weight.size // outputs, outputs, 1)
    if node.op_type == "MatMul" and weight.ndim == 2:
        there = int(np.prod(view.shapes[node.output[0]][1:-1]))
        return LinearLayer(node, index, 1, weight.shape[0], weight.shape[1], min(positions, there))
    return None


def matrix(layer: LinearLayer, weight: Array) -> Floats:
    """The weights as (groups, columns, outputs per group)."""
    if layer.node.op_type == "Conv":
        flat = weight.reshape(layer.groups, layer.outputs, layer.columns).astype(np.float64)
        return np.ascontiguousarray(flat.transpose(0, 2, 1))
    transposed = layer.node.op_type == "Gemm" and attribute(layer.node, "transB", 0)
    return np.ascontiguousarray((weight.T if transposed else weight)[None], dtype=np.float64)


def weights(layer: LinearLayer, values: Floats, *, shape: tuple[int, ...]) -> Array:
    """The inverse of ``matrix``, float32."""
    if layer.node.op_type == "Conv":
        return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(shape).astype(np.float32)
    transposed = layer.node.op_type == "Gemm" and attribute(layer.node, "transB", 0)
    return np.ascontiguousarray(values[0].T if transposed else values[0]).astype(np.float32)


def read_columns(layer: LinearLayer, inputs: Array, rng: np.random.Generator) -> Floats:
    """What the layer multiplies: (groups, samples, columns)."""
    if layer.node.op_type != "Conv":
        flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return _sample(flat, layer, rng).reshape(1, -1, layer.columns).astype(np.float64)
    rank = inputs.ndim - 2
    strides = attribute(layer.node, "strides", None) or [1] * rank
    dilations = attribute(layer.node, "dilations", None) or [1] * rank
    spans = [(size - 1) * step + 1 for size, step in zip(layer.kernel, dilations, strict=True)]
    padded = np.pad(inputs, [(0, 0), (0, 0), *_pads(layer.node, inputs.shape[2:], spans, strides)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in strides))
    windows = windows[(*steps, *(slice(None, None, step) for step in dilations))]
    axes = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    places = windows.transpose(axes)  # rows, positions, channels, kernel
    at = _positions(layer, int(np.prod(places.shape[1 : 1 + rank])), len(inputs), rng)
    rows = np.arange(len(inputs))[:, None]
    picked = places[(rows, *np.unravel_index(at, places.shape[1 : 1 + rank]))]
    grouped = picked.reshape(-1, layer.groups, layer.columns)
    return np.ascontiguousarray(grouped.transpose(1, 0, 2), dtype=np.float64)


def read_outputs(layer: LinearLayer, outputs: Array, rng: np.random.Generator) -> Floats:
    """What the layer gives at the same positions: (samples, all outputs)."""
    if layer.node.op_type == "Conv":
        outputs = np.moveaxis(outputs.reshape(len(outputs), outputs.shape[1], -1), 1, 2)
    flat = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    return _sample(flat, layer, rng).reshape(-1, flat.shape[-1]).astype(np.float64)


def _pads(node: Any, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and after each spatial axis, from ``pads`` or by the rule of ``auto_pad`` (ONNX, operator Conv)."""
    rank, kind = len(sizes), attribute(node, "auto_pad", "NOTSET")
    if not kind.startswith("SAME"):
        given = attribute(node, "pads", None) or [0] * (2 * rank)
        return [(0, 0)] * rank if kind == "VALID" else list(zip(given[:rank], given[rank:], strict=True))
    pads = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        low = total // 2 if kind == "SAME_UPPER" else total - total // 2
        pads.append((low, total - low))
    return pads


def _sample(flat: Array, layer: LinearLayer, rng: np.random.Generator) -> Array:
    at = _positions(layer, flat.shape[1], len(flat), rng)
    return np.asarray(np.take_along_axis(flat, at[:, :, None], axis=1))


def _positions(layer: LinearLayer, there: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(rows, positions), sorted; drawn anew for each row, and nothing is drawn where all are taken."""
    if layer.positions >= there:
        return np.broadcast_to(np.arange(there), (rows, there))
    drawn = rng.random((rows, there)).argpartition(layer.positions, axis=1)[:, : layer.positions]
    return np.sort(drawn, axis=1).astype(np.int64)
