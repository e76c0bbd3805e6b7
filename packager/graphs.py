"""Walks over an ONNX graph and the subgraphs of its control flow: nodes, graphs, constants, and which names are whose.

What every step of the packager that must not stop at the main graph uses. Reads only; `simplify.py` and `naming.py`
change. A name of a subgraph that the subgraph does not define belongs to a graph around it (ONNX, "Names within a graph").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

STANDARD_DOMAINS = ("", "ai.onnx")

Graph = Any  # onnx.GraphProto; protobuf messages have no useful static types
Node = Any  # onnx.NodeProto


def subgraphs(node: Node) -> Iterator[Graph]:
    """The graphs that a node runs, in the order of its attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_graphs(graph: Graph) -> Iterator[Graph]:
    """The graph, then every subgraph, each before those inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """Every node of the graph and of its subgraphs."""
    for inner in all_graphs(graph):
        yield from inner.node


def all_constants(graph: Graph) -> Iterator[tuple[str, Any]]:
    """Name and tensor of every initialiser and ``Constant`` tensor, in all graphs."""
    for inner in all_graphs(graph):
        for tensor in inner.initializer:
            yield tensor.name, tensor
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield node.output[0] if node.output else node.name, attribute.t


def is_standard(node: Node, *op_types: str) -> bool:
    """True for a node of the standard operator set with one of these types."""
    return node.domain in STANDARD_DOMAINS and node.op_type in op_types


def defined_names(graph: Graph) -> set[str]:
    """Names that the graph itself defines: inputs, initialisers, outputs of its nodes; not those of subgraphs."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {name for node in graph.node for name in node.output if name}


def used_names(node: Node) -> set[str]:
    """Names that a node reads from its own graph or from one around it: its inputs, and what its subgraphs do not define."""
    names = {name for name in node.input if name}
    for inner in subgraphs(node):
        names |= free_names(inner)
    return names


def free_names(graph: Graph) -> set[str]:
    """Names that a subgraph reads and does not define."""
    names = {value.name for value in graph.output if value.name}
    for node in graph.node:
        names |= used_names(node)
    return names - defined_names(graph)


def standard_opset(model: Any) -> int:
    """Version of the standard operator set."""
    return max((int(item.version) for item in model.opset_import if item.domain in STANDARD_DOMAINS), default=1)
