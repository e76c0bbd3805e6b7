"""Sizes of all values in a graph for one row: by shape inference, else by running the model and looking.

First step of counting (MACs, memory). Deterministic: the same bytes give the same sizes. Values whose size cannot be
found are listed in ``unknown``, never guessed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from device_client.errors import SealiftError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.measure.branches import node_graphs, subgraphs, take_branches

logger = logging.getLogger(__name__)

_BITS = {
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
    TensorProto.BFLOAT16: 16,
    TensorProto.STRING: 64,
}
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
EIGHT_BITS = frozenset({TensorProto.INT8, TensorProto.UINT8})


@dataclass(frozen=True)
class Tensor:
    """Shape for one row, and the ONNX element type."""

    shape: tuple[int, ...]
    elem_type: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return element_bits(self.elem_type)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory; values below 8 bits are packed."""
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True)
class ShapedGraph:
    """A model with the size of every value that could be found. ``how``: ``inferred`` or ``run``."""

    model: Any
    tensors: Mapping[str, Tensor]
    unknown: tuple[str, ...]
    how: str

    @property
    def graph(self) -> Any:
        """The main graph."""
        return self.model.graph


def element_bits(elem_type: int) -> int:
    """Bits of one value of an ONNX element type; 32 where the type is not known."""
    if elem_type in _BITS:
        return _BITS[elem_type]
    try:
        return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize * 8)
    except (KeyError, TypeError, ValueError):
        return 32


def shape_graph(data: bytes, *, example: Mapping[str, NDArray[Any]] | None = None) -> ShapedGraph:
    """Finds the size of every value at batch 1.

    Args:
        data: an ONNX file that the walker accepted.
        example: one row per input; gives the sizes of dynamic axes other than the first (1 without it), and the values
            for the run where inference does not get through.
    """
    model = onnx.load_from_string(data)
    feeds = _fix_inputs(model.graph, example or {})
    model = take_branches(model, lambda wider, names: run_for_values(wider, names, feeds))
    for graph in subgraphs(model.graph):
        del graph.value_info[:]
    for value in model.graph.output:  # or a declared dynamic batch would win over what is inferred
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as e:
        logger.debug("shape inference failed: %s", e)
        inferred = model
    tensors = {name: tensor for graph in subgraphs(inferred.graph) for name, tensor in _declared(graph)}
    missing = [name for name in _node_outputs(model.graph) if name not in tensors]
    how = "inferred"
    if missing and (found := _run_for_sizes(model, missing, feeds)):
        tensors, how = {**tensors, **found}, "run"
    unknown = tuple(name for graph in subgraphs(model.graph) for name in _node_outputs(graph) if name not in tensors)
    return ShapedGraph(model, tensors, unknown, how)


def _node_outputs(graph: Any) -> list[str]:
    return [name for node in graph.node for name in node.output if name]


def _fix_inputs(graph: Any, example: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Gives every input a fixed shape; returns one array of that shape per input."""
    constants = {tensor.name for tensor in graph.initializer}
    sizes: dict[str, int] = {}
    feeds = {}
    for value in graph.input:
        if value.name in constants or not value.type.HasField("tensor_type"):
            continue
        given = example.get(value.name)
        shape = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 1:
                size = 1 if axis == 0 or given is None or given.ndim <= axis else int(given.shape[axis])
                size = sizes.setdefault(dim.dim_param, size) if dim.dim_param else size
                dim.dim_value = size
            shape.append(int(dim.dim_value))
        feeds[value.name] = _feed(given, tuple(shape), helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return feeds


def _feed(given: NDArray[Any] | None, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """One row of what was given, where it fits, else zeros. A scalar input gets the first value."""
    if given is not None and not shape and given.size:
        return np.asarray(given.reshape(-1)[0], dtype)
    if given is not None and given.ndim == len(shape) and given[:1].shape == shape:
        return np.ascontiguousarray(given[:1], dtype)
    return np.zeros(shape, dtype)


def _declared(graph: Any) -> Iterator[tuple[str, Tensor]]:
    for tensor in graph.initializer:
        yield tensor.name, Tensor(tuple(tensor.dims), tensor.data_type)
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape") and kind.elem_type:
            dims = kind.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                yield value.name, Tensor(tuple(int(dim.dim_value) for dim in dims), kind.elem_type)


def _run_for_sizes(model: Any, names: list[str], feeds: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    values = run_for_values(model, names, feeds)
    return {
        name: Tensor(tuple(value.shape), helper.np_dtype_to_tensor_dtype(value.dtype))
        for name, value in values.items()
        if isinstance(value, np.ndarray)
    }


def run_for_values(model: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Runs the model once with more outputs, in the device's session; empty where it does not run."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    present = {value.name for value in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    features = {f"control-flow:{node.op_type}" for graph in subgraphs(model.graph) for node in graph.node if node_graphs(node)}
    features |= {f"domain:{node.domain}" for graph in subgraphs(model.graph) for node in graph.node if node.domain}
    try:
        with open_session(check_model(wider.SerializeToString(), features=features)) as session:
            values = session.compute(dict(feeds))
    except SealiftError as e:
        logger.debug("the run for sizes failed: %s", e)
        return {}
    return {name: values[name] for name in names if name in values}
