"""Quantised products computed as the runtime computes them: sums of integers, scaled and rounded once.

Between dequantised inputs and a quantiser, a float convolution gives the same number up to its rounding errors. Where that
number lies near the middle between two levels, they decide which of the two it becomes, and a deep network turns a few
such flips into several levels at its output. The runtime replaces such a group by one integer operator; so does this pass,
after ``short_forms`` and before constants are folded. A product that anything else reads, such as a tapped one, stays as it is.

Source: onnxruntime's QLinearConv, QLinearMatMul and QGemm: an exact int32 sum, times (x scale * w scale / y scale) in float32,
rounded half to even. We differ: sums are float numbers, in double precision where single might not hold them exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audits.bridge.calls import Call, Tensor, straight_through
from audits.bridge.node import Node
from audits.bridge.operators_image import convolve

Array = npt.NDArray[Any]
JOINED = "sealift.bridge"  # the domain of what this pass makes; the walker refuses a file that names it
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_LEVELS = {"uint8": (0, 255), "int8": (-128, 127)}
_EXACT = 2**24  # integers up to it are float32 numbers
_SAME = 1e-4  # a bias has the scale of the sums, up to the rounding of whoever wrote it


def join_products(
    nodes: Sequence[Node], constants: Mapping[str, Array], *, wanted: tuple[str, ...]
) -> tuple[list[Node], dict[str, Array]]:
    """The same graph, in which one node does what DequantizeLinear, product, perhaps Relu, and QuantizeLinear did.

    The nodes before the replaced quantiser stay, for others may read them; the caller drops what nobody reads.

    Args:
        nodes: in topological order.
        constants: of the graph.
        wanted: tensors that must stay.

    Returns:
        The nodes, and the constants that they need beyond ``constants``.
    """
    graph = _Graph.of(nodes, constants, wanted)
    joined = [_joined(node, graph) or node if node.op == "QuantizeLinear" else node for node in nodes]
    return joined, graph.made


def joined_product(call: Call) -> Tensor:
    """Levels in, levels out; the gradient is that of the scaled sum, and stops where the quantiser's range does."""
    q, zero, weights, bias, steps = (call.tensor(index) for index in range(5))
    # adding up whole numbers is exact in this type, in any order
    x = (q - zero).to(weights.dtype)
    if call.node.op == "Conv":
        sums = convolve(call, x, weights, bias)
        steps = steps.reshape(-1, *[1] * (x.dim() - 2))
    else:
        sums = torch.matmul(x, weights) + bias
    scaled = sums.float() * steps
    if call.attribute("relu", 0):
        scaled = torch.relu(scaled)  # the range does that too; but what rounds to nothing from below has no gradient
    levels = straight_through(torch.round(scaled), scaled) + call.attribute("zero", 0)
    return torch.clamp(levels, call.attribute("low", 0), call.attribute("high", 0))


@dataclass(frozen=True)
class _Graph:
    """Who writes a tensor, how many read it, and what is known of it."""

    writers: Mapping[str, Node]
    reads: Counter[str]
    constants: Mapping[str, Array]
    made: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Sequence[Node], constants: Mapping[str, Array], wanted: tuple[str, ...]) -> _Graph:
        reads = Counter([name for node in nodes for name in node.inputs if name] + list(wanted))
        return cls({name: node for node in nodes for name in node.outputs if name}, reads, constants)

    def writer(self, name: str, *ops: str) -> Node | None:
        node = self.writers.get(name)
        return node if node is not None and node.op in ops and node.domain in {"", "ai.onnx"} else None

    def only_reader(self, name: str, *ops: str) -> Node | None:
        """The node that writes ``name``, where nothing but the asker reads it."""
        return self.writer(name, *ops) if self.reads[name] == 1 else None


@dataclass(frozen=True)
class _Scale:
    """A quantiser's numbers: scale as float32, zero point as integers, lowest and highest level."""

    scale: Array
    zero: Array
    low: int
    high: int


@dataclass(frozen=True)
class _Group:
    """What may become one node: the dequantisers of both sides, the product, perhaps a Relu, and the quantiser."""

    given: Node
    kept: Node
    product: Node
    relu: Node | None
    last: Node
    weights: Array


def _joined(last: Node, graph: _Graph) -> Node | None:
    """The node for this quantiser and the product before it, or None where the group is of another kind."""
    group = _group(last, graph)
    scales = () if group is None else tuple(_scale(node, graph) for node in (group.given, group.kept, last))
    if group is None or any(scale is None for scale in scales):
        return None
    x, w, y = (scale for scale in scales if scale is not None)
    # the runtime keeps a Relu whose zero is no end of the range, and then adds up floats
    keeps_relu = group.relu is not None and int(y.zero.reshape(-1)[0]) != y.low
    if x.scale.size != 1 or y.scale.size != 1 or keeps_relu:
        return None
    columns, bias = _by_column(group, w), _bias(group.product, x, w, graph)
    return None if columns is None or bias is None else _node(group, columns, bias, (x, w, y), graph)


def _group(last: Node, graph: _Graph) -> _Group | None:
    relu = graph.only_reader(last.inputs[0], "Relu")
    product = graph.only_reader(last.inputs[0] if relu is None else relu.inputs[0], *_PRODUCTS)
    if product is None or not _is_plain(product):
        return None
    given, kept = (graph.writer(name, "DequantizeLinear") for name in product.inputs[:2])
    weights = None if kept is None else graph.constants.get(kept.inputs[0])
    if given is None or kept is None or weights is None:
        return None
    # the runtime's operator for it has no place for a zero point that is left out
    is_left_out = product.op == "Gemm" and len(kept.inputs) < 3
    return None if is_left_out else _Group(given, kept, product, relu, last, weights)


def _node(group: _Group, columns: Array, bias: Array, scales: tuple[_Scale, _Scale, _Scale], graph: _Graph) -> Node:
    x, w, y = scales
    largest = np.abs(columns).reshape(len(columns), -1).sum(axis=1).max() * (x.high - x.low) + np.abs(bias).max()
    wide = np.float64 if largest >= _EXACT else np.float32
    made = {
        "zero": x.zero.reshape(()).astype(np.float32),
        "weights": np.ascontiguousarray((columns if group.product.op == "Conv" else columns.T).astype(wide)),
        "bias": np.broadcast_to(bias, len(columns)).astype(wide),
        "steps": x.scale.reshape(()) * w.scale.reshape(-1) / y.scale.reshape(()),
    }
    name = group.last.outputs[0]
    graph.made.update({f"{name} joined: {part}": value for part, value in made.items()})
    ends = {"zero": int(y.zero.reshape(())), "low": y.low, "high": y.high, "relu": int(group.relu is not None)}
    inputs = (group.given.inputs[0], *(f"{name} joined: {part}" for part in made))
    return Node(group.product.op, JOINED, group.last.name, inputs, group.last.outputs, {**group.product.attributes, **ends})


def _is_plain(product: Node) -> bool:
    """A factor or a transposed left side is nothing that the runtime joins."""
    attributes = product.attributes
    return not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0


def _scale(node: Node, graph: _Graph) -> _Scale | None:
    """None where the numbers are computed, in blocks, of a narrow or wide type, or do not fit each other."""
    scale = graph.constants.get(node.inputs[1])
    if scale is None or scale.dtype != np.float32 or node.attributes.get("block_size", 0) or node.attributes.get("output_dtype", 0):
        return None
    zero: Array | None = np.zeros(1, dtype=np.uint8)  # what a quantiser without one has
    if len(node.inputs) > 2 and node.inputs[2]:
        zero = graph.constants.get(node.inputs[2])
    if zero is None or zero.dtype.name not in _LEVELS or zero.size not in {1, scale.size}:
        return None
    return _Scale(scale, zero.astype(np.int32), *_LEVELS[zero.dtype.name])


def _by_column(group: _Group, w: _Scale) -> Array | None:
    """Weights minus zero points, as (outputs, ...); None where scales are along another axis."""
    product, weights, axis = group.product, group.weights, int(group.kept.attributes.get("axis", 1))
    is_conv = product.op == "Conv"
    if weights.dtype.name not in _LEVELS or (not is_conv and weights.ndim != 2):
        return None
    own = 0 if is_conv or product.attributes.get("transB", 0) else 1
    if w.scale.size != 1 and (axis % weights.ndim != own or weights.shape[own] != w.scale.size):
        return None
    columns = np.moveaxis(weights.astype(np.int64), own, 0)
    return columns - w.zero.reshape(-1, *[1] * (weights.ndim - 1))


def _bias(product: Node, x: _Scale, w: _Scale, graph: _Graph) -> Array | None:
    """Whole numbers in units of the sums, of one output each; zero where there is none, None where it is of another kind."""
    if len(product.inputs) < 3 or not product.inputs[2]:
        return np.zeros(1, dtype=np.int64)
    node = graph.writer(product.inputs[2], "DequantizeLinear")
    values = None if node is None else graph.constants.get(node.inputs[0])
    if node is None or values is None or values.dtype != np.int32 or values.ndim != 1:
        return None
    if len(node.inputs) > 2 and node.inputs[2] and np.any(graph.constants.get(node.inputs[2], np.ones(1))):
        return None
    step = x.scale.reshape(()) * w.scale.reshape(-1)
    scale = graph.constants.get(node.inputs[1])
    if scale is None:  # a short form that was taken apart: the scale is this product by definition
        made = graph.writer(node.inputs[1], "Mul")
        scale = step if made is not None and all(name in graph.constants for name in made.inputs) else None
    if scale is None or scale.size not in {1, step.size} or not np.allclose(scale.reshape(-1), step, rtol=_SAME, atol=0.0):
        return None
    return values.astype(np.int64)
