"""A read-only view of an ONNX graph: constants as arrays, the shape of every tensor, attributes as Python values.

Shapes come from running the model once on one row with every tensor as an output, not from inference rules: what the
runtime made is what there is. Does not look into subgraphs; the tensors that they use from outside are listed, so that
nobody changes those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from device_client.inference.session import open_session
from packager.data import Dataset
from packager.features import check_own
from packager.feed import feed_rows, rows_per_run

Array = NDArray[Any]


class GraphView:
    """One model with what is known about its tensors.

    Args:
        data: an ONNX file.
        rows: data for it; one row is run.
    """

    def __init__(self, data: bytes, rows: Dataset) -> None:
        self.model = onnx.load_from_string(data)
        self.nodes: list[Any] = list(self.model.graph.node)
        self.constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        self.outputs = {value.name for value in self.model.graph.output}
        self.captured = {name for node in self.nodes for name in _captured(node)}
        names = [name for node in self.nodes for name in node.output if name]
        first = next(run_batches(data, names, rows.take(np.arange(1)), batch=1))
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in first.items()}
        self.shapes.update({name: (1, *array.shape[1:]) for name, array in rows.inputs.items()})

    def constant(self, node: Any, index: int) -> Array | None:
        """The constant at input ``index`` of the node, or ``None``: absent, or computed."""
        return self.constants.get(node.input[index]) if index < len(node.input) and node.input[index] else None

    def label(self, index: int) -> str:
        """How a node is named in recipes and reports: ``Conv#3``."""
        return f"{self.nodes[index].op_type}#{index}"


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of an attribute, text as ``str``."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def run_batches(data: bytes, names: Sequence[str], rows: Dataset, *, batch: int) -> Iterator[Mapping[str, Array]]:
    """Values of the given tensors, batch by batch, of a model cut down to what they need.

    Inputs and constants of the model are no tensors in this sense. A batch is one row where the model's batch is fixed.
    """
    model = onnx.load_from_string(data)
    _expose(model.graph, list(dict.fromkeys(names)))
    with open_session(check_own(model.SerializeToString(deterministic=True))) as session:
        size = rows_per_run(session.inputs, rows.inputs, limit=batch)
        for start in range(0, len(rows), size):
            yield session.run(feed_rows(session.inputs, rows.inputs, start=start, count=min(size, len(rows) - start)))


def _expose(graph: Any, names: list[str]) -> None:
    """Makes ``names`` the outputs, and drops nodes and constants that do not lead to them."""
    wanted, kept = set(names), []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(name for name in (*node.input, *_captured(node)) if name)
    types = {value.name: value for value in graph.output}
    outputs = [types.get(name, helper.make_empty_tensor_value_info(name)) for name in names]
    initializers = [tensor for tensor in graph.initializer if tensor.name in wanted]
    for field, values in (("node", list(reversed(kept))), ("output", outputs), ("initializer", initializers)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)


def _captured(node: Any) -> Iterable[str]:
    """Names that the node's subgraphs use, from outside or their own."""
    for item in node.attribute:
        for graph in (item.g, *item.graphs) if item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) else ():
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)
            yield from (value.name for value in graph.output)
