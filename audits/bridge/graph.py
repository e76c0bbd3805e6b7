"""An ONNX file as a small frozen graph: nodes, constants, inputs and outputs.

First step of the bridge. Only bytes that the device's walker accepted come here, so external data, foreign domains and
control flow are already refused; this reader only translates. It does not run anything and does not optimise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from audits.bridge.node import BridgeError, Node
from audits.bridge.short_forms import take_apart

__all__ = ["Array", "BridgeError", "Graph", "Node", "parse_graph"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Graph:
    """A model's main graph.

    Attributes:
        nodes: in topological order, as ONNX demands.
        constants: initialisers and the values of ``Constant`` nodes.
        inputs: names of the true inputs, without initialisers.
        batch: the fixed first dimension of the first input, or None where it is dynamic.
        opset: of the default domain.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None
    opset: int

    def producer(self, tensor: str) -> Node | None:
        """The node that writes ``tensor``, or None for an input or a constant."""
        return next((node for node in self.nodes if tensor in node.outputs), None)


def parse_graph(data: bytes) -> Graph:
    """Reads the main graph of walker-checked ONNX bytes.

    Raises:
        BridgeError: not decodable, sparse initialisers, or a tensor type without a numpy form.
    """
    try:
        model = onnx.load_model_from_string(data)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        nodes = []
        for proto in model.graph.node:
            node = _node(proto)
            if node.op == "Constant":
                constants[node.outputs[0]] = _constant(node)
            else:
                nodes.append(node)
        nodes = take_apart(nodes, constants)
    except (ValueError, TypeError, KeyError) as e:
        raise BridgeError("cannot read the graph", code="bridge_graph", where="onnx", actual=str(e)[:120]) from e
    inputs = [value for value in model.graph.input if value.name not in constants]
    return Graph(
        nodes=tuple(nodes),
        constants=MappingProxyType(constants),
        inputs=tuple(value.name for value in inputs),
        outputs=tuple(value.name for value in model.graph.output),
        batch=_fixed_batch(inputs[0]) if inputs else None,
        opset=next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0),
    )


def _node(proto: Any) -> Node:
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in proto.attribute}
    return Node(proto.op_type, proto.domain, proto.name, tuple(proto.input), tuple(proto.output), MappingProxyType(attributes))


def _constant(node: Node) -> Array:
    attributes = node.attributes
    if "value" in attributes:
        value: Array = numpy_helper.to_array(attributes["value"])
        return value
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attributes:
            return np.asarray(attributes[key], dtype=dtype)
    raise ValueError(f"Constant node {node.name!r} holds no dense number")


def _fixed_batch(value: Any) -> int | None:
    dims = value.type.tensor_type.shape.dim
    if not dims or dims[0].HasField("dim_param") or not dims[0].HasField("dim_value"):
        return None
    return int(dims[0].dim_value)
