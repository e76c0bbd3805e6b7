"""Takes nodes out of a graph that compute nothing: unused ones, copies, casts to the type that is there already, zero states.

Works in the main graph and in every subgraph. What a graph gives out keeps its name and place. Does *not* change
arithmetic, order or types. Part of ``shrink.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from packager.graphs import Graph, Node, all_graphs, all_nodes, is_standard, subgraphs, used_names

logger = logging.getLogger(__name__)

_FIRST_STATE = 5  # position of ``initial_h`` among the inputs of LSTM, GRU and RNN; ``initial_c`` follows


def simplify(model: Any) -> Any:
    """The model without what computes nothing; changes the one it gets, and may return another object.

    Node names, outputs and subgraphs are untouched where they are used. Needs a graph that ``onnx.checker`` accepts:
    topological order, and no name of an outer graph defined again inside.
    """
    if any(is_standard(node, "Cast", "CastLike") for node in all_nodes(model.graph)):
        model = _with_types(model)
    for graph in all_graphs(model.graph):
        _constants_to_initializers(graph)
    _drop_copies(model.graph, {}, {})
    for graph in all_graphs(model.graph):
        _drop_zero_states(graph)
    drop_unused(model.graph)
    return model


def drop_unused(graph: Graph) -> None:
    """Drops nodes and initialisers that no output depends on, inside subgraphs first."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # nodes are in topological order, so one pass backwards finds all that is used
        if any(name in wanted for name in node.output if name):
            for inner in subgraphs(node):
                drop_unused(inner)
            kept.append(node)
            wanted |= used_names(node)
    _replace(graph.node, reversed(kept))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in wanted])


def _with_types(model: Any) -> Any:
    """The model with the types of inner values that can be told without running it; as it is where inference gives up."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError) as e:
        logger.info("types not inferred: %s", e)
        return model


def _constants_to_initializers(graph: Graph) -> None:
    """A ``Constant`` node costs more bytes than an initialiser and hides duplicates; one that is an output stays."""
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant_tensor(node) if is_standard(node, "Constant") and node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _replace(graph.node, kept)


def _constant_tensor(node: Node) -> Any | None:
    """A copy of the value of a ``Constant`` node, for each of the ways to write a number."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    numbers: dict[str, tuple[Any, type]] = {
        "value_float": (attribute.f, np.float32),
        "value_floats": (list(attribute.floats), np.float32),
        "value_int": (attribute.i, np.int64),
        "value_ints": (list(attribute.ints), np.int64),
    }
    if attribute.name not in numbers:
        return None
    value, dtype = numbers[attribute.name]
    return numpy_helper.from_array(np.asarray(value, dtype=dtype))


def _drop_copies(graph: Graph, outer: Mapping[str, str], outer_types: Mapping[str, int]) -> None:
    """Readers of a copy read its source. A copy that is an output goes only where the source can take its name."""
    types = {**outer_types, **dict(_element_types(graph))}
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    aliases = dict(outer)
    outputs = {value.name for value in graph.output}
    produced: set[str] = set()
    kept: list[Node] = []
    for node in graph.node:
        _map_reads(node, aliases)
        for inner in subgraphs(node):
            _drop_copies(inner, aliases, types)
        if _is_copy(node, types, arrays):
            source, target = node.input[0], node.output[0]
            if target not in outputs:
                aliases[target] = source
                continue
            if source in produced and source not in outputs:
                aliases = {name: target if to == source else to for name, to in aliases.items()} | {source: target}
                for earlier in kept:
                    _map_all(earlier, {source: target})
                produced.add(target)
                continue
        kept.append(node)
        produced.update(name for name in node.output if name)
    _replace(graph.node, kept)


def _element_types(graph: Graph) -> Iterator[tuple[str, int]]:
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type:
            yield value.name, value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        yield tensor.name, tensor.data_type


def _is_copy(node: Node, types: Mapping[str, int], arrays: Mapping[str, Any]) -> bool:
    """True for a node whose first output is its first input, bit by bit."""
    if any(node.output[1:]):
        return False
    if is_standard(node, "Identity"):
        return True
    if is_standard(node, "Dropout"):  # in training only if the third input says so, and that came with opset 12
        training = node.input[2] if len(node.input) > 2 else ""
        return not training or (training in arrays and not numpy_helper.to_array(arrays[training]).any())
    if is_standard(node, "Cast"):
        target = next((item.i for item in node.attribute if item.name == "to"), None)
        return target is not None and types.get(node.input[0]) == target
    if is_standard(node, "CastLike"):
        return node.input[0] in types and types[node.input[0]] == types.get(node.input[1])
    return False


def _drop_zero_states(graph: Graph) -> None:
    """An initial state of zeros is what an absent one means (ONNX, LSTM, GRU and RNN), and exporters compute its size."""
    makers = {name: node for node in graph.node for name in node.output if name}
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if not is_standard(node, "LSTM", "GRU", "RNN"):
            continue
        for index in range(_FIRST_STATE, min(len(node.input), _FIRST_STATE + 2)):
            if _is_zero(node.input[index], makers, arrays):
                node.input[index] = ""
        while not node.input[-1]:
            del node.input[-1]


def _is_zero(name: str, makers: Mapping[str, Node], arrays: Mapping[str, Any]) -> bool:
    if name in arrays:
        return not numpy_helper.to_array(arrays[name]).any()
    maker = makers.get(name)
    if maker is not None and is_standard(maker, "ConstantOfShape"):
        return not any(numpy_helper.to_array(item.t).any() for item in maker.attribute if item.name == "value")
    if maker is not None and is_standard(maker, "Expand"):
        return _is_zero(maker.input[0], makers, arrays)
    return False


def _map_reads(node: Node, names: Mapping[str, str]) -> None:
    """Renames what a node reads; its subgraphs are mapped when they are visited."""
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)


def _map_all(node: Node, names: Mapping[str, str]) -> None:
    """Renames what a node and its subgraphs read and give out."""
    _map_reads(node, names)
    for index, name in enumerate(node.output):
        node.output[index] = names.get(name, name)
    for inner in subgraphs(node):
        for nested in inner.node:
            _map_all(nested, names)


def _replace(field: Any, items: Any) -> None:
    """Sets a repeated field to the given messages, some of which may be its own."""
    kept = list(items)
    if len(kept) != len(field):
        del field[:]
        field.extend(kept)
