"""Rewrites a QDQ model into the short form: ``QLinearConv`` and ``QLinearMatMul`` of the standard domain.

A convolution between quantised pairs is five nodes in QDQ form and one here; in a small network that is a tenth of the file.
Operators that only move values (pooling by maximum, shapes) work on the integers themselves. What has no QLinear operator in
the standard domain (Gemm, Add, average pooling) stays between pairs, which the runtime fuses when it loads the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from packager.ptq.graph import GraphView

_MOVES_ONLY = frozenset({"MaxPool", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def to_qoperator(quantised: Any) -> str:
    """Changes ``quantised`` in place, and says how many nodes are in the short form. Unused nodes are left to the shrinker."""
    graph = quantised.graph
    view = GraphView(quantised)
    nodes = []
    made = 0
    for node in graph.node:
        short = _short_form(view, node, graph)
        made += short is not None and short.op_type.startswith("QLinear")
        nodes.append(short if short is not None else node)
    # A node in the short form makes the integers that a QuantizeLinear made before; of the two only the former may stay.
    taken = {name for node in nodes for name in node.output if node.op_type != "QuantizeLinear"}
    kept = [node for node in nodes if node.op_type != "QuantizeLinear" or node.output[0] not in taken]
    del graph.node[:]
    graph.node.extend(kept)
    return f"{made} operators in QLinear form"


def _short_form(view: GraphView, node: Any, graph: Any) -> Any | None:
    if node.op_type not in ("Conv", "MatMul") and node.op_type not in _MOVES_ONLY:
        return None
    target = next(iter(view.consumers.get(node.output[0], ())), None)
    sources = [_dequantised(view, name) for name in node.input]
    if target is None or target.op_type != "QuantizeLinear" or len(target.input) < 3 or sources[0] is None:
        return None
    if len(node.output) != 1 or not view.is_private(node.output[0]):
        return None
    if node.op_type in _MOVES_ONLY:
        return _moved(view, node, sources[0], target)
    if sources[1] is None or (len(sources) > 2 and sources[2] is None) or not _one_type(view, sources[0], target):
        return None
    weights = [sources[1].input[0], sources[1].input[1], _zero_point(view, sources[1], graph)]
    bias = [sources[2].input[0]] if len(sources) > 2 and sources[2] is not None else []
    inputs = [*sources[0].input[:3], *weights, *target.input[1:3], *bias]
    return _like(node, f"QLinear{node.op_type}", inputs, target)


def _moved(view: GraphView, node: Any, source: Any, target: Any) -> Any | None:
    if not _same(view, source.input[1:], target.input[1:]):
        return None
    return _like(node, node.op_type, [source.input[0], *node.input[1:]], target)


def _like(node: Any, op_type: str, inputs: list[str], target: Any) -> Any:
    """A node with the attributes of ``node`` that makes what ``target`` made."""
    made = helper.make_node(op_type, inputs, list(target.output), name=node.name)
    made.attribute.extend(node.attribute)
    return made


def _dequantised(view: GraphView, name: str) -> Any | None:
    node = view.producers.get(name)
    return node if node is not None and node.op_type == "DequantizeLinear" and node.input[1] in view.tensors else None


def _same(view: GraphView, one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        a == b or (a in view.tensors and b in view.tensors and np.array_equal(view.array(a), view.array(b)))
        for a, b in zip(one, other, strict=True)
    )


def _one_type(view: GraphView, source: Any, target: Any) -> bool:
    """True if both zero points are constants of one type: QLinear operators read and write the same type."""
    points = (source.input[2] if len(source.input) > 2 else "", target.input[2])
    if not all(name in view.tensors for name in points):
        return False
    return bool(view.array(points[0]).dtype == view.array(points[1]).dtype)


def _zero_point(view: GraphView, source: Any, graph: Any) -> str:
    if len(source.input) > 2:
        return str(source.input[2])
    name = f"{source.output[0]}_zero"
    dtype = view.array(source.input[0]).dtype
    graph.initializer.append(numpy_helper.from_array(np.zeros(view.array(source.input[1]).shape, dtype), name))
    return name
