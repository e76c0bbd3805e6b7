"""Widens a model of half or double precision to FP32, the one float type that the packager computes in.

FP16 and BF16 weights widen exactly; FP64 ones are rounded, and those beyond FP32's range become its largest numbers (they
are mask constants). Inputs, outputs, casts and every other place that names a float type follow, subgraphs included.
Does *not* narrow (`ptq/fp16.py`) and does not ask whether the outputs are close: the caller compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from packager.graphs import all_graphs, all_nodes

_T = onnx.TensorProto
FOREIGN_FLOATS = {_T.FLOAT16: "float16", _T.BFLOAT16: "bfloat16", _T.DOUBLE: "float64"}
"""Float types that are widened or narrowed to FP32: number in the file to numpy-style name."""

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "output_dtype", "stash_type", "softmax_precision"})
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "double_data")


def float_types(model: Any) -> tuple[str, ...]:
    """Names of the float types besides FP32 that constants, inputs, outputs or casts of the model use, sorted."""
    found = {tensor.data_type for tensor in _tensors(model)}
    found |= {kind.elem_type for kind in _tensor_types(model)}
    found |= {attribute.i for attribute in _type_attributes(model)}
    return tuple(sorted(FOREIGN_FLOATS[number] for number in found & FOREIGN_FLOATS.keys()))


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with every FP16, BF16 and FP64 value in FP32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in _tensors(wide):
        if tensor.data_type in FOREIGN_FLOATS:
            _widen(tensor)
    for kind in _tensor_types(wide):
        if kind.elem_type in FOREIGN_FLOATS:
            kind.elem_type = _T.FLOAT
    for attribute in _type_attributes(wide):
        if attribute.i in FOREIGN_FLOATS:
            attribute.i = _T.FLOAT
    return wide


def _widen(tensor: Any) -> None:
    largest = np.finfo(np.float32).max
    values = numpy_helper.to_array(tensor).astype(np.float64)
    clipped = np.where(np.isfinite(values), np.clip(values, -largest, largest), values).astype(np.float32)
    dims, name = list(tensor.dims), tensor.name
    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    tensor.CopyFrom(numpy_helper.from_array(clipped.reshape(dims), name))


def _tensors(model: Any) -> Iterator[Any]:
    for graph in all_graphs(model.graph):
        yield from graph.initializer
    for node in all_nodes(model.graph):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.TENSORS:
                yield from attribute.tensors


def _tensor_types(model: Any) -> Iterator[Any]:
    for graph in all_graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield from _inner_types(value.type)
    for node in all_nodes(model.graph):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TYPE_PROTO:
                yield from _inner_types(attribute.tp)


def _inner_types(kind: Any) -> Iterator[Any]:
    """The tensor type of a value, of a sequence's elements or of an optional."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        yield kind.tensor_type
    elif which in ("sequence_type", "optional_type"):
        yield from _inner_types(getattr(kind, which).elem_type)


def _type_attributes(model: Any) -> Iterator[Any]:
    for node in all_nodes(model.graph):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES:
                yield attribute
