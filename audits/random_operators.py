"""Operators that draw random numbers when a model runs: its answers are no function of its input, so no audit of it is exact.

Read from the graph, functions and inner graphs included; a dropout counts where it is not surely switched off. What this does not
find: randomness inside an operator of another domain, which the walker only lets through where the contract names it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

_DRAW = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


def find_random_operators(model: bytes) -> tuple[str, ...]:
    """Their types, sorted, each once.

    Args:
        model: ONNX bytes that the walker has checked.
    """
    proto = onnx.load_model_from_string(model)
    constants = _constants(proto)
    return tuple(sorted({node.op_type for node in _nodes(proto) if _draws(node, constants)}))


def _draws(node: onnx.NodeProto, constants: dict[str, bool]) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type == "Dropout":
        # from opset 12 on the third input switches it on; absent means off, and what is no constant may be anything
        return len(node.input) > 2 and bool(node.input[2]) and constants.get(node.input[2], True)
    return node.op_type in _DRAW


def _constants(proto: onnx.ModelProto) -> dict[str, bool]:
    """Names of constant values with one element, and whether it is true."""
    found = {}
    for tensor in proto.graph.initializer:
        if len(tensor.dims) <= 1 and max(tensor.dims, default=1) == 1:
            found[tensor.name] = bool(numpy_helper.to_array(tensor).any())
    for node in _nodes(proto):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            found[node.output[0]] = bool(numpy_helper.to_array(node.attribute[0].t).any())
    return found


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nodes_of(proto.graph.node)
    for function in proto.functions:
        yield from _nodes_of(function.node)


def _nodes_of(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes_of(graph.node)
