"""Small ONNX files made with the onnx package: good ones, and ones that really do what the walker must refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def linear(*, name: str = "linear", scale: float = 2.0, batch: int | str = "N") -> onnx.ModelProto:
    """y = x * scale, x: float32 (batch, 3)."""
    return model(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        initializers=[numpy_helper.from_array(np.full((3,), scale, np.float32), "w")],
        batch=batch,
        name=name,
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    initializers: Sequence[onnx.TensorProto] = (),
    batch: int | str = "N",
    name: str = "g",
    opsets: Sequence[onnx.OperatorSetIdProto] = (),
    **extra: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        initializer=list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET), *opsets], ir_version=8, **extra)


def external_tensor(name: str = "w", *, location: str = "secret.bin") -> onnx.TensorProto:
    """A tensor whose data onnxruntime would read from a file beside the working directory."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def branch(tensor: onnx.TensorProto, *, output: str) -> onnx.GraphProto:
    """A subgraph that returns one initialiser."""
    return helper.make_graph(
        [helper.make_node("Identity", [tensor.name], [output])],
        "branch",
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [3])],
        initializer=[tensor],
    )


def conditional(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """An If whose branches return ``tensor``."""
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("If", ["c"], ["b"], then_branch=branch(tensor, output="t"), else_branch=branch(tensor, output="e")),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    return model(nodes, initializers=[condition])


def sparse(values: onnx.TensorProto, *, dims: Sequence[int] = (3,)) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [values.dims[0]], list(range(values.dims[0])))
    return helper.make_sparse_tensor(values, indices, list(dims))
