"""A view of an ONNX graph for the quantisers: constants, who makes and who reads a value, names of nodes, heavy layers.

Node names are the ids of the sensitivity table and of ``exclude_nodes``: ``n<index>`` in the order of the graph. They hold
for the model as a technique gets it; techniques that only change constants (``equalise``, ``smooth``) keep them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

HEAVY_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Where the weights and the arithmetic are; safe in every network."""

Array = NDArray[Any]


class GraphView:
    """Look-up tables over a model's main graph; values that a subgraph reads count as read by the node that holds it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in _reads(node):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}

    def array(self, name: str) -> Array:
        """The constant of that name."""
        return np.asarray(numpy_helper.to_array(self.tensors[name]))

    def is_float(self, name: str) -> bool:
        """True for an FP32 constant."""
        return name in self.tensors and self.tensors[name].data_type == onnx.TensorProto.FLOAT

    def is_private(self, name: str) -> bool:
        """True if exactly one input of one node reads the value, and no caller does."""
        return len(self.consumers.get(name, ())) == 1 and name not in self.outputs

    def set_array(self, name: str, array: Array) -> None:
        """Replaces a constant by another of the same type."""
        self.tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


@dataclass(frozen=True)
class Layer:
    """A heavy node with constant FP32 weights. ``axis``: of the output channel in the weights."""

    name: str
    node: Any
    weight: str
    bias: str | None
    axis: int


def name_nodes(model: Any) -> None:
    """Gives each node of the main graph its id."""
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"


def layers(view: GraphView) -> tuple[Layer, ...]:
    """The heavy nodes with constant FP32 weights, in graph order; their names must be set."""
    found = []
    for node in view.model.graph.node:
        if node.op_type in HEAVY_OPS and len(node.input) > 1 and view.is_float(node.input[1]):
            rank = len(view.tensors[node.input[1]].dims)
            if rank >= 2:
                bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
                found.append(Layer(node.name, node, node.input[1], bias, output_axis(node, rank=rank)))
    return tuple(found)


def output_axis(node: Any, *, rank: int) -> int:
    """Which axis of a heavy node's weights is the output channel."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1 if node.op_type == "ConvTranspose" else rank - 1


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def all_nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of subgraphs included."""
    for inner in all_graphs(graph):
        yield from inner.node


def all_graphs(graph: Any) -> Iterator[Any]:
    """The graph and its subgraphs, outer first."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in ((item.g,) if item.HasField("g") else ()) + tuple(item.graphs):
                yield from all_graphs(inner)


def _reads(node: Any) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for item in node.attribute:
        for outer in ((item.g,) if item.HasField("g") else ()) + tuple(item.graphs):
            for graph in all_graphs(outer):
                for inner in graph.node:
                    yield from (name for name in inner.input if name)
                yield from (value.name for value in graph.output)
