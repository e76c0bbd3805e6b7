"""Models of other float types become FP32, everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.inference.session import open_session
from packager.features import check_own
from packager.half import float_types, to_float32
from packager.load import load_model

from .models import graph, write
from .networks import branching, finished, value


def converted(data: bytes, to: int) -> bytes:
    """The same model in another float type."""
    model = onnx.load_from_string(data)
    dtype = helper.tensor_dtype_to_np_dtype(to)
    for each in (model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)):
        tensors = [*each.initializer, *(a.t for node in each.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)]
        for tensor in tensors:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
        for item in (*each.input, *each.output):
            if item.type.tensor_type.elem_type == TensorProto.FLOAT:
                item.type.tensor_type.elem_type = to
    return model.SerializeToString()


@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16], ids=["half", "double", "bfloat16"])
def test_every_float_is_widened_in_subgraphs_too(to: int) -> None:
    wide = to_float32(onnx.load_from_string(converted(branching(), to)))
    assert float_types(wide) == ()
    with open_session(check_own(wide.SerializeToString())) as session:
        assert session.run({"x": np.ones((2, 6), np.float32)})["y"].dtype == np.float32


@pytest.mark.parametrize(
    ("to", "note"),
    [
        (TensorProto.FLOAT16, "float16 widened to float32"),
        (TensorProto.DOUBLE, "float64 narrowed to float32"),
        (TensorProto.BFLOAT16, "bfloat16 widened to float32"),
    ],
    ids=["half", "double", "bfloat16"],
)
def test_a_model_of_another_float_type_loads_and_says_so(tmp_path: Path, to: int, note: str) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(to)
    weight = np.random.default_rng(0).standard_normal((6, 3))
    source = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, x=["N", 6], y=["N", 3], dtype=to)
    loaded = load_model(write(tmp_path, source), seed=0, example=dict)
    assert note in loaded.notes
    assert [(spec.name, spec.dtype) for spec in (*loaded.model.inputs, *loaded.model.outputs)] == [
        ("x", "float32"),
        ("y", "float32"),
    ]
    x = np.ones((1, 6), np.float32)
    with open_session(loaded.model) as session:
        assert np.allclose(session.run({"x": x})["y"], x @ weight.astype(dtype).astype(np.float32), rtol=1e-5)


def test_a_mask_beyond_the_range_of_float32_becomes_its_largest_number() -> None:
    source = graph([helper.make_node("Add", ["x", "m"], ["y"])], {"m": np.array([-1e300, 1.0])}, x=["N", 2], y=["N", 2], dtype=11)
    wide = to_float32(onnx.load_from_string(source))
    assert numpy_helper.to_array(wide.graph.initializer[0]).tolist() == [np.finfo(np.float32).min, 1.0]


def test_casts_and_constants_of_shape_follow() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("", TensorProto.FLOAT16, [1], [2.0])),
        helper.make_node("Mul", ["h", "c"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    made = helper.make_graph(
        nodes, "g", [value("x", ["N", 3])], [value("y", ["N", 3])], [numpy_helper.from_array(np.array([3]), "s")]
    )
    wide = to_float32(onnx.load_from_string(finished(made)))
    assert float_types(wide) == ()
    with open_session(check_own(wide.SerializeToString())) as session:
        assert session.run({"x": np.full((1, 3), 0.1, np.float32)})["y"].tolist() == [[np.float32(0.2)] * 3]
