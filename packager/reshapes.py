"""Replaces size arithmetic by constants where only the batch is dynamic.

Exporters compute sizes while the model runs: ``Shape``, ``Gather``, ``Concat``, ``Reshape``. With one dynamic axis, the batch,
nearly all of it gives the same numbers each time, and a ``Reshape`` whose one varying size is the batch can say -1. In a
small transformer this is more than half of the nodes. What is replaced is found by running the model on one, two and
three rows; only values that follow from shapes alone count, so that no number of a row is baked in.

Main graph only. ``prepare.py`` compares the outputs afterwards, also with several rows in one run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import FormatError
from device_client.inference.session import open_session
from packager.features import check_own
from packager.graphs import all_nodes, is_standard, subgraphs, used_names
from packager.simplify import drop_unused

logger = logging.getLogger(__name__)

_BATCHES = (1, 2, 3)
_MAX_ELEMENTS = 4096  # of a value that becomes a constant: sizes are short, and a large constant is no saving
_BY_VALUE = (
    "NonZero",
    "Unique",
    "Compress",
    "NonMaxSuppression",
    "TopK",
    "Range",
    "Loop",
    "Scan",
    "If",
    "SequenceAt",
    "StringSplit",
)
"""Operators whose output's shape depends on values: with one of them, a size may follow from a row's numbers."""

Rows = Mapping[str, NDArray[Any]]


def constant_sizes(data: bytes, row: Rows) -> bytes:
    """The model with constants in place of size arithmetic; the same bytes where there is none or it cannot be told.

    Args:
        data: an ONNX model, every input with a dynamic first axis and fixed others.
        row: one row for each input, (1, ...).
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    if any(is_standard(node, *_BY_VALUE) for node in all_nodes(graph)):
        return data
    wanted = _frontier(graph)
    values = _observe(model, wanted, row) if wanted else None
    if values is None:
        return data
    changed = False
    for name in wanted:
        changed |= _replace(graph, name, [found[name] for found in values])
    if not changed:
        return data
    drop_unused(graph)
    plain: bytes = model.SerializeToString(deterministic=True)
    return plain


def _frontier(graph: Any) -> list[str]:
    """Values that follow from shapes and constants alone, and that something else reads."""
    constants = {tensor.name for tensor in graph.initializer}
    sizes: set[str] = set()
    found: dict[str, None] = {}
    for node in graph.node:
        inputs = [name for name in node.input if name]
        from_sizes = bool(inputs) and all(name in sizes or name in constants for name in inputs)
        if is_standard(node, "Shape", "Size"):
            sizes.update(node.output)
        elif from_sizes and any(name in sizes for name in inputs) and not any(True for _ in subgraphs(node)):
            sizes.update(name for name in node.output if name)
        else:
            found.update(dict.fromkeys(name for name in sorted(used_names(node)) if name in sizes))
    outputs = {value.name for value in graph.output}
    return [name for name in found if name not in outputs]


def _observe(model: Any, names: list[str], row: Rows) -> list[Mapping[str, NDArray[Any]]] | None:
    """The named values for runs of one, two and three rows."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    found: list[Mapping[str, NDArray[Any]]] = []
    try:
        with open_session(check_own(_typed(probe))) as session:
            for count in _BATCHES:
                feed = {spec.name: np.repeat(row[spec.name], count, axis=0).astype(spec.dtype) for spec in session.inputs}
                found.append(session.run(feed))
    except FormatError as e:
        logger.info("sizes not observed: %s", e.what)
        return None
    return found


def _typed(model: Any) -> bytes:
    """The model with the types of its new outputs, which the runtime wants to know."""
    try:
        types = {value.name: value.type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    except (onnx.shape_inference.InferenceError, ValueError):
        types = {}
    for value in model.graph.output:
        if not value.HasField("type"):
            kind = types[value.name].tensor_type.elem_type if value.name in types else onnx.TensorProto.INT64
            value.type.tensor_type.elem_type = kind
    data: bytes = model.SerializeToString()
    return data


def _replace(graph: Any, name: str, seen: list[NDArray[Any]]) -> bool:
    """Puts a constant in the place of a value that was always the same; for a ``Reshape``, of one that varies in one size."""
    first = seen[0]
    if first.size > _MAX_ELEMENTS or any(array.shape != first.shape for array in seen):
        return False
    if all(np.array_equal(array, first) for array in seen):
        for node in graph.node:
            if name in node.output:
                node.output[list(node.output).index(name)] = f"{name}.computed"
        graph.initializer.append(numpy_helper.from_array(first, name))
        return True
    sizes = _reshape_sizes(first, np.any([array != first for array in seen], axis=0))
    if sizes is None:
        return False
    readers = [node for node in graph.node if _is_plain_reshape(node) and node.input[1] == name]
    for node in readers:
        node.input[1] = f"{name}.sizes"
    if readers:
        graph.initializer.append(numpy_helper.from_array(sizes, f"{name}.sizes"))
    return bool(readers)


def _is_plain_reshape(node: Any) -> bool:
    return is_standard(node, "Reshape") and not any(item.name == "allowzero" and item.i for item in node.attribute)


def _reshape_sizes(first: NDArray[Any], varying: NDArray[Any]) -> NDArray[Any] | None:
    """Constant sizes for a ``Reshape`` of which one size varies: -1 stands for what is left over, 0 for the input's own size."""
    if first.dtype != np.int64 or first.ndim != 1 or int(varying.sum()) != 1 or bool((first == 0).any()):
        return None
    if not bool((first[~varying] < 0).any()):
        return np.where(varying, -1, first)
    return np.where(varying, 0, first) if varying[0] else None  # the caller compares: the input's first size is the batch, or not
