"""Weights as matrices, and the second moments of what they are multiplied with: what rounding and sensitivity work on.

A convolution's inputs are its patches; at most 2048 of them per batch of rows, evenly spaced, are looked at. Grouped
convolutions have one matrix per group. ``ConvTranspose``, products with weights of more than two axes and transposed inputs
have no matrix form here; their weights are rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.data import Dataset
from packager.ptq.graph import Array, GraphView, Layer, attribute
from packager.ptq.observe import float_values, observe
from packager.ptq.rounding import MAX_COLUMNS, Floats

_MAX_PATCHES = 2048


def to_matrices(layer: Layer, weights: Array) -> Array | None:
    """(groups, rows per group, columns), or ``None`` where the layer has no such form."""
    node = layer.node
    if node.op_type == "Conv":
        groups = int(attribute(node, "group", 1))
        return weights.reshape(groups, weights.shape[0] // groups, -1)
    if weights.ndim != 2 or node.op_type not in ("Gemm", "MatMul") or attribute(node, "transA", 0):
        return None
    return weights[None] if layer.axis == 0 else weights.T[None]


def from_matrices(layer: Layer, matrices: Array, shape: Sequence[int]) -> Array:
    """The inverse of ``to_matrices``."""
    flat = matrices.reshape(-1, matrices.shape[-1])
    if layer.node.op_type == "Conv" or layer.axis == 0:
        return flat.reshape(tuple(shape))
    return np.ascontiguousarray(flat.T).reshape(tuple(shape))


def second_moments(model: Any, found: Sequence[Layer], rows: Dataset) -> dict[str, Floats]:
    """Mean outer product of the inputs of each weight, (groups, columns, columns), by the weight's name.

    Weights that several layers share get the sum over these layers. One pass over the rows.
    """
    view = GraphView(model)
    shapes = {layer.weight: to_matrices(layer, view.array(layer.weight)) for layer in found}
    usable = [layer for layer in found if (matrix := shapes[layer.weight]) is not None and matrix.shape[-1] <= MAX_COLUMNS]
    names = float_values(model, [layer.node.input[0] for layer in usable])
    usable = [layer for layer in usable if layer.node.input[0] in names]
    sums: dict[str, NDArray[np.float32]] = {}
    for values in observe(model, names, rows):
        for layer in usable:
            matrix = shapes[layer.weight]
            patches = _patches(layer, values[layer.node.input[0]], view.tensors[layer.weight].dims)
            if matrix is not None and patches.shape[::2] == (matrix.shape[0], matrix.shape[2]):
                sums[layer.weight] = sums.get(layer.weight, np.float32(0)) + patches.transpose(0, 2, 1) @ patches
    return {name: total.astype(np.float64) / len(rows) for name, total in sums.items()}


def _patches(layer: Layer, x: Array, dims: Sequence[int]) -> NDArray[np.float32]:
    """What the weights are multiplied with: (groups, samples, columns)."""
    node = layer.node
    if node.op_type != "Conv":
        flat = x.reshape(-1, x.shape[-1])
        return np.asarray(flat[:: max(1, len(flat) // _MAX_PATCHES)][None], dtype=np.float32)
    kernel = list(dims[2:])
    rank = len(kernel)
    strides, dilations = list(attribute(node, "strides", [1] * rank)), list(attribute(node, "dilations", [1] * rank))
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *_padding(node, x.shape[2:], spans, strides)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    positions = x.shape[0] * int(np.prod(windows.shape[2 : 2 + rank])) // int(np.prod(strides))
    sparser = max(1, int(np.ceil((positions / _MAX_PATCHES) ** (1 / rank))))  # a coarser lattice of positions, in all rows
    every = tuple(slice(None, None, stride * sparser) for stride in strides)
    inner = tuple(slice(None, None, dilation) for dilation in dilations)
    windows = windows[(slice(None), slice(None), *every, *inner)]
    groups = int(attribute(node, "group", 1))
    channels = x.shape[1] // groups
    split = windows.reshape(x.shape[0], groups, channels, -1, int(np.prod(kernel)))
    patches = split.transpose(1, 0, 3, 2, 4).reshape(groups, -1, channels * int(np.prod(kernel)))
    return np.ascontiguousarray(patches, dtype=np.float32)


def _padding(node: Any, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    kind = attribute(node, "auto_pad", b"NOTSET")
    if kind in (b"SAME_UPPER", b"SAME_LOWER"):
        totals = [
            max(0, (-(-size // stride) - 1) * stride + span - size)
            for size, span, stride in zip(sizes, spans, strides, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if kind == b"SAME_UPPER" else [(last, first) for first, last in halves]
    pads = [0] * (2 * len(spans)) if kind == b"VALID" else list(attribute(node, "pads", [0] * (2 * len(spans))))
    return list(zip(pads[: len(spans)], pads[len(spans) :], strict=True))


def by_weight(found: Sequence[Layer]) -> Mapping[str, Layer]:
    """One layer for each weight; weights that layers of different forms share are left out."""
    first: dict[str, Layer] = {}
    mixed = set()
    for layer in found:
        other = first.setdefault(layer.weight, layer)
        if (other.node.op_type, other.axis, attribute(other.node, "group", 1)) != (
            layer.node.op_type,
            layer.axis,
            attribute(layer.node, "group", 1),
        ):
            mixed.add(layer.weight)
    return {name: layer for name, layer in first.items() if name not in mixed}
