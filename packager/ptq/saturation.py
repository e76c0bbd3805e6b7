"""Can a model's integer arithmetic overflow on an x86 CPU without VNNI? Judged from its bytes, for every form of it.

Such a CPU multiplies unsigned activations with signed weights two at a time into 16 bits that saturate (``vpmaddubsw``);
signed activations are shifted to unsigned first. Which two weights meet depends on the kernel, so the bound is taken over
*any* two of one output channel: the two largest of one sign, times the largest activation. Exact in the sense that a model
below the bound cannot overflow whatever the order; one above it may still happen not to.

Weights that are turned into FP32 before they are used (``Cast`` and ``Mul``; ``DequantizeLinear`` into a float convolution) cannot
overflow. Unsigned weights take another instruction, which does not saturate. Depthwise layers are held to the same bound.

CPU features by form, for ``requires`` and the documents: 8-bit weights that may overflow need ``avx512_vnni``; all else runs
correctly anywhere. Speed is another matter: INT8 is fast where there is VNNI (x86) or the dot product instructions (ARM).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from packager.ptq.graph import HEAVY_OPS, Array, GraphView, output_axis

LIMIT = 32_767
_ANY_ACTIVATION = 255
_TO_ONE = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})
_INTEGER_WEIGHTS = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3), "ConvInteger": (0, 1), "MatMulInteger": (0, 1)}
_RECURRENT = ("DynamicQuantizeLSTM",)


def is_saturation_safe(data: bytes) -> bool:
    """True if no integer product of the model can saturate 16-bit sums on x86 without VNNI."""
    return worst_pair_sum(data) <= LIMIT


def worst_pair_sum(data: bytes) -> int:
    """The largest magnitude that the sum of two products can have; 0 for a model without integer arithmetic."""
    view = GraphView(onnx.load_from_string(data))
    return max((activation * _largest_pair(matrix) for activation, matrix in _products(view)), default=0)


def _products(view: GraphView) -> Iterator[tuple[int, Array]]:
    """Largest activation, and weights as (output channels, others), of each integer product."""
    for node in view.model.graph.node:
        if node.op_type in _INTEGER_WEIGHTS:
            first, second = _INTEGER_WEIGHTS[node.op_type]
            weights = _int8(view, node.input[second])
            if weights is not None:
                axis = 0 if "Conv" in node.op_type else weights.ndim - 1
                yield _largest_activation(view, node.input[first]), _rows(weights, axis)
        elif node.op_type in HEAVY_OPS:
            yield from _pair_product(view, node)
        elif node.op_type in _RECURRENT:
            for name in node.input[1:3]:
                recurrent = _int8(view, name)
                if recurrent is not None:
                    yield _ANY_ACTIVATION, _rows(recurrent, recurrent.ndim - 1)


def _pair_product(view: GraphView, node: Any) -> Iterator[tuple[int, Array]]:
    source = view.producers.get(node.input[1])
    weights = _int8(view, source.input[0]) if source is not None and source.op_type == "DequantizeLinear" else None
    if weights is None:
        return
    activation = view.producers.get(node.input[0])
    if activation is not None and activation.op_type == "DequantizeLinear":
        yield _largest_activation(view, activation.input[0]), _rows(weights, output_axis(node, rank=weights.ndim))
    elif node.op_type in ("MatMul", "Gemm"):  # the runtime may quantise the activation by itself
        yield _ANY_ACTIVATION, _rows(weights, output_axis(node, rank=weights.ndim))


def _int8(view: GraphView, name: str) -> Array | None:
    """The constant, if it is one of INT8; weights that are computed are taken at their worst."""
    tensor = view.tensors.get(name)
    if tensor is not None:
        return view.array(name) if tensor.data_type == onnx.TensorProto.INT8 else None
    maker = view.producers.get(name)
    if maker is None or maker.op_type != "QuantizeLinear" or _zero_type(view, maker) != np.int8:
        return None
    return np.full((1, 2), 127, dtype=np.int8)


def _largest_activation(view: GraphView, name: str) -> int:
    """In 0..255. Less than 255 only where the value is known to end at one."""
    maker = view.producers.get(name)
    if maker is None or maker.op_type != "QuantizeLinear" or _zero_type(view, maker) == np.int8:
        return _ANY_ACTIVATION
    before = view.producers.get(maker.input[0])
    if before is None or before.op_type not in _TO_ONE or maker.input[1] not in view.tensors:
        return _ANY_ACTIVATION
    zero = int(view.array(maker.input[2]).reshape(-1)[0]) if len(maker.input) > 2 else 0
    return min(_ANY_ACTIVATION, zero + int(np.ceil(1 / float(view.array(maker.input[1]).max()))))


def _zero_type(view: GraphView, node: Any) -> Any:
    return view.array(node.input[2]).dtype if len(node.input) > 2 and node.input[2] in view.tensors else np.dtype(np.uint8)


def _rows(weights: Array, axis: int) -> Array:
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def _largest_pair(matrix: Array) -> int:
    values = matrix.astype(np.int64)
    if values.shape[1] < 2:
        return int(np.abs(values).max(initial=0))
    ordered = np.sort(values, axis=1)
    high = np.maximum(ordered[:, -1], 0) + np.maximum(ordered[:, -2], 0)
    low = np.minimum(ordered[:, 0], 0) + np.minimum(ordered[:, 1], 0)
    return int(max(high.max(initial=0), -low.min(initial=0)))
