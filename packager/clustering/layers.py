"""Which tensors of a model are weights, what a row of each one belongs to, and what it is multiplied with.

Finds constants of the main graph that a heavy operator uses: floats directly; bytes through a DequantizeLinear, through Cast and
Mul (the widened form of ``weight-only``), or as an argument of a QOperator node. Weights inside subgraphs are left alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "Gather": 0}
"""Operators and the input that holds their weights; of the recurrent ones, input 2 as well."""

_RECURRENT = ("LSTM", "GRU", "RNN")
_WITH_SCALE = {"QLinearConv": (3, 4), "QLinearMatMul": (3, 4), "QGemm": (3, 4)}
_BYTE_SOURCES = {"QLinearConv": 2, "QLinearMatMul": 2}
"""QOperator nodes whose input is known, and where the zero point of that input stands."""
_INTEGERS = (onnx.TensorProto.INT8,)


@dataclass(frozen=True)
class Windows:
    """How a convolution walks over its input, for each spatial axis; ``pads`` as (before, after)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layer:
    """One weight tensor.

    Attributes:
        name: of the constant.
        weights: as they are stored: float32, or int8.
        axis: of the output channels; a row of ``rows()`` is what one channel is computed from.
        steps: for int8, what one unit stands for, (rows,); else ones.
        source: the value that rows are multiplied with, where that is known: float, or bytes of a QOperator node.
        source_type: its ONNX element type.
        zero: what stands for zero in ``source``.
        group: channels are computed from their own part of the input, in this many parts.
        windows: for convolutions.
    """

    name: str
    weights: NDArray[Any]
    axis: int
    steps: NDArray[np.float64]
    source: str | None = None
    source_type: int = onnx.TensorProto.FLOAT
    zero: int = 0
    group: int = 1
    windows: Windows | None = None

    @property
    def is_integer(self) -> bool:
        """True for int8 weights: their levels are whole numbers."""
        return self.weights.dtype == np.int8

    def rows(self) -> NDArray[np.float64]:
        """(channels, rest), in units of the stored numbers."""
        moved = np.moveaxis(self.weights, self.axis, 0)
        return moved.reshape(len(moved), -1).astype(np.float64)

    def restored(self, rows: NDArray[np.float64]) -> NDArray[Any]:
        """A tensor like ``weights`` from such rows."""
        shape = np.moveaxis(self.weights, self.axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(rows.reshape(shape), 0, self.axis).astype(self.weights.dtype))


@dataclass(frozen=True)
class _Use:
    """One place where a constant is used as weights."""

    node: Any
    scale: str | None = None
    scale_axis: int = 0
    source: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def find_layers(model: Any, *, min_elements: int) -> list[Layer]:
    """The weight tensors of at least ``min_elements`` numbers and two axes, in the order of the file.

    A tensor that several nodes share is listed once, without a source.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses: dict[str, list[_Use]] = {}
    for name, use in _uses(model.graph, constants):
        uses.setdefault(name, []).append(use)
    mentions = Counter(name for node in model.graph.node for name in node.input)
    found = []
    for name, tensor in constants.items():
        big = len(tensor.dims) >= 2 and math.prod(tensor.dims) >= min_elements
        if big and name in uses and tensor.data_type in (onnx.TensorProto.FLOAT, *_INTEGERS):
            found.append(_layer(tensor, uses[name][0], constants, alone=mentions[name] == 1))
    return found


def _uses(graph: Any, constants: Mapping[str, Any]) -> Iterator[tuple[str, _Use]]:
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type in _WITH_SCALE:
            weight, scale = _WITH_SCALE[node.op_type]
            source = node.input[0] if node.op_type in _BYTE_SOURCES else None
            yield node.input[weight], _Use(node, scale=node.input[scale], source=source)
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            axis = _attribute(node, "axis", 1)
            for user in consumers.get(node.output[0], []):
                if user.op_type in WEIGHT_INPUT and node.output[0] in user.input:
                    yield node.input[0], _Use(user, node.input[1], axis, _source(user, node.output[0]))
        elif node.op_type == "Cast" and node.input[0] in constants:
            yield from _widened(node, consumers, constants)
        elif node.op_type in WEIGHT_INPUT:
            for index in (1, 2) if node.op_type in _RECURRENT else (WEIGHT_INPUT[node.op_type],):
                if index < len(node.input) and node.input[index] in constants:
                    yield node.input[index], _Use(node, source=_source(node, node.input[index]))


def _widened(cast: Any, consumers: Mapping[str, list[Any]], constants: Mapping[str, Any]) -> Iterator[tuple[str, _Use]]:
    """Bytes that Cast and Mul turn into the weights of a heavy operator."""
    for product in consumers.get(cast.output[0], []):
        scale = next((name for name in product.input if name in constants), None)
        if product.op_type == "Mul" and scale is not None:
            for user in consumers.get(product.output[0], []):
                if user.op_type in WEIGHT_INPUT and product.output[0] in user.input:
                    yield cast.input[0], _Use(user, scale, source=_source(user, product.output[0]))


def _source(node: Any, weights: str) -> str | None:
    usable = node.op_type in {"Conv", "Gemm", "MatMul"} and node.input[1] == weights and node.input[0] != weights
    return node.input[0] if usable and not _attribute(node, "transA", 0) else None


def _layer(tensor: Any, use: _Use, constants: Mapping[str, Any], *, alone: bool) -> Layer:
    weights = numpy_helper.to_array(tensor)
    axis = _channel_axis(use.node, weights.ndim)
    steps = np.ones(weights.shape[axis])
    if use.scale is not None and use.scale in constants:
        scale = numpy_helper.to_array(constants[use.scale]).astype(np.float64).reshape(-1)
        steps = scale if len(scale) == len(steps) else np.full(len(steps), scale[0]) if len(scale) == 1 else steps
    source = use.source if alone and (use.node.op_type not in ("MatMul", "QLinearMatMul") or weights.ndim == 2) else None
    kind, zero = onnx.TensorProto.FLOAT, 0
    if source is not None and use.node.op_type in _BYTE_SOURCES:
        point = constants.get(use.node.input[_BYTE_SOURCES[use.node.op_type]])
        source = None if point is None else source
        kind, zero = (point.data_type, int(numpy_helper.to_array(point).reshape(-1)[0])) if point is not None else (kind, zero)
    is_conv = use.node.op_type in ("Conv", "QLinearConv")
    return Layer(
        tensor.name,
        weights,
        axis,
        steps,
        source,
        kind,
        zero,
        _attribute(use.node, "group", 1) if is_conv else 1,
        _windows(use.node, weights.shape[2:]) if is_conv else None,
    )


def _channel_axis(node: Any, ndim: int) -> int:
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    if node.op_type == "QGemm":
        return 0 if _attribute(node, "transB", 0) else 1
    if node.op_type in {"MatMul", "QLinearMatMul"}:
        return ndim - 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _windows(node: Any, kernel: tuple[int, ...]) -> Windows:
    count = len(kernel)
    strides = tuple(_attribute(node, "strides", [1] * count))
    dilations = tuple(_attribute(node, "dilations", [1] * count))
    pads = list(_attribute(node, "pads", [0] * 2 * count))
    if _attribute(node, "auto_pad", b"NOTSET") in {b"SAME_UPPER", b"SAME_LOWER"}:  # near enough: only edges differ
        spans = [(size - 1) * step for size, step in zip(kernel, dilations, strict=True)]
        pads = [span // 2 for span in spans] + [span - span // 2 for span in spans]
    return Windows(tuple(kernel), strides, dilations, tuple(zip(pads[:count], pads[count:], strict=True)))


def _attribute(node: Any, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
