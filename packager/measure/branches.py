"""Graphs inside graphs, and ``If``: the branch that a run takes is put in its place, so that sizes can be found in it.

Which branch is taken depends on the row that is run; the other branch is then not counted. Loops stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx

_MAX_DEPTH = 8
"""Rounds of replacing; branches deeper than that stay."""


def subgraphs(graph: Any) -> Iterator[Any]:
    """The graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in node_graphs(node):
            yield from subgraphs(inner)


def node_graphs(node: Any) -> list[Any]:
    """Graphs that a node holds: branches of ``If``, bodies of ``Loop`` and ``Scan``."""
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            found.extend(attribute.graphs)
    return found


def take_branches(model: Any, values_of: Callable[[Any, Sequence[str]], dict[str, Any]]) -> Any:
    """A model whose ``If`` nodes are replaced by the branch that is taken.

    Args:
        model: a model with fixed input shapes; left as it is.
        values_of: runs a model and gives the values with these names; empty where it does not run.

    Returns:
        A changed copy, or the model itself if there is nothing to replace or it does not run.
    """
    for _ in range(_MAX_DEPTH):
        conditions = [node.input[0] for node in model.graph.node if node.op_type == "If"]
        if not conditions:
            return model
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        wanted = [name for name in dict.fromkeys(conditions) if name not in constants]
        values = {**constants, **(values_of(model, wanted) if wanted else {})}
        if any(name not in values for name in conditions):
            return model
        model = _replace(model, {name: bool(np.asarray(values[name]).reshape(-1)[0]) for name in conditions})
    return model


def _replace(model: Any, taken: dict[str, bool]) -> Any:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        if node.op_type != "If":
            changed.graph.node.append(node)
            continue
        wanted = "then_branch" if taken[node.input[0]] else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        changed.graph.initializer.extend(branch.initializer)
        changed.graph.node.extend(branch.node)
        for inner, outer in zip(branch.output, node.output, strict=True):
            changed.graph.node.append(onnx.helper.make_node("Identity", [inner.name], [outer]))
    return changed
