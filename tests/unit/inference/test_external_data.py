"""Data in another file, wherever onnxruntime would follow it: the bare runtime does, and none of it gets past the walker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from device_client.errors import VerificationError
from device_client.inference.walker import check_model
from tests.unit.inference import models
from tests.unit.inference.bare import bare

FEATURES = ("control-flow:If", "control-flow:Loop", "domain:local")
STOLEN = [5.0, 12.0, 21.0]  # [1, 2, 3] times what the other file holds
LOCAL = helper.make_opsetid("local", 1)
STANDARD = helper.make_opsetid("", models.OPSET)
MUL = helper.make_node("Mul", ["x", "w"], ["y"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the files that the models below name."""
    where = tmp_path_factory.mktemp("cwd")
    (where / "secret.bin").write_bytes(np.array([5, 6, 7], np.float32).tobytes())
    (where / "indices.bin").write_bytes(np.arange(3, dtype=np.int64).tobytes())
    return where


def dense() -> onnx.TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [3], [5.0, 6.0, 7.0])


def constant(**value: object) -> onnx.ModelProto:
    return models.model([helper.make_node("Constant", [], ["w"], **value), MUL])


def filler() -> onnx.ModelProto:
    """The value of a ConstantOfShape: any attribute that is a tensor."""
    tensor = models.external_tensor("v")
    tensor.dims[0] = 1
    tensor.external_data[2].value = "4"
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [3])
    return models.model([helper.make_node("ConstantOfShape", ["s"], ["w"], value=tensor), MUL], initializers=[shape])


def sparse_initialiser(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    model = models.model([MUL])
    model.graph.sparse_initializer.append(tensor)
    return model


def sparse_indices() -> onnx.SparseTensorProto:
    tensor = models.sparse(dense())
    tensor.indices.CopyFrom(TensorProto(name="i", data_type=TensorProto.INT64, dims=[3], data_location=TensorProto.EXTERNAL))
    for key, value in (("location", "indices.bin"), ("offset", "0"), ("length", "24")):
        tensor.indices.external_data.add(key=key, value=value)
    return tensor


def function(value: onnx.AttributeProto, **given: object) -> onnx.FunctionProto:
    body = [helper.make_node("Constant", [], ["k"]), helper.make_node("Mul", ["a", "k"], ["b"])]
    body[0].attribute.append(value)
    return helper.make_function("local", "F", ["a"], ["b"], body, [STANDARD], **given)  # type: ignore[arg-type]


def calling(made: onnx.FunctionProto, **attributes: object) -> onnx.ModelProto:
    call = helper.make_node("F", ["x"], ["y"], domain="local", **attributes)  # type: ignore[arg-type]
    return models.model([call], opsets=[LOCAL], functions=[made])


REFERENCE = AttributeProto(name="value", ref_attr_name="v", type=AttributeProto.TENSOR)


def looped() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Mul", ["v", "w"], ["z"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 3]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3])],
        initializer=[models.external_tensor()],
    )
    once = helper.make_tensor("m", TensorProto.INT64, [], [1])
    return models.model([helper.make_node("Loop", ["m", "", "x"], ["y"], body=body)], initializers=[once])


FOLLOWED: dict[str, tuple[Callable[[], onnx.ModelProto], list[float]]] = {
    "in the main graph": (lambda: models.model([MUL], initializers=[models.external_tensor()]), STOLEN),
    "in the branch of an If": (lambda: models.conditional(models.external_tensor()), [6.0, 8.0, 10.0]),
    "in the body of a Loop": (looped, STOLEN),
    "in a sparse tensor's values": (lambda: sparse_initialiser(models.sparse(models.external_tensor())), STOLEN),
    "in a sparse tensor's indices": (lambda: sparse_initialiser(sparse_indices()), STOLEN),
    "in a sparse attribute": (lambda: constant(sparse_value=models.sparse(models.external_tensor())), STOLEN),
    "in a Constant": (lambda: constant(value=models.external_tensor()), STOLEN),
    "in another attribute": (filler, [5.0, 10.0, 15.0]),
    "in a function's body": (lambda: calling(function(helper.make_attribute("value", models.external_tensor()))), STOLEN),
    "in a function's default": (
        lambda: calling(function(REFERENCE, attribute_protos=[helper.make_attribute("v", models.external_tensor())])),
        STOLEN,
    ),
    "in a function's argument": (lambda: calling(function(REFERENCE, attributes=["v"]), v=models.external_tensor()), STOLEN),
}


@pytest.mark.parametrize(("make", "row"), FOLLOWED.values(), ids=FOLLOWED.keys())
def test_external_data_that_the_bare_runtime_follows_is_refused(
    folder: Path, make: Callable[[], onnx.ModelProto], row: list[float]
) -> None:
    data = make().SerializeToString()
    assert bare(data, cwd=folder, optimise=False).row == row
    with pytest.raises(VerificationError) as caught:
        check_model(data, features=FEATURES)
    assert caught.value.code == "model_external_data"


def entries_only() -> onnx.ModelProto:
    tensor = dense()
    tensor.external_data.add(key="location", value="secret.bin")
    return models.model([MUL], initializers=[tensor])


# What onnxruntime 1.32 does not follow, and other readers or versions might: refused all the same.
NOT_FOLLOWED: dict[str, Callable[[], onnx.ModelProto]] = {
    "above the working directory": lambda: models.model([MUL], initializers=[models.external_tensor(location="../secret.bin")]),
    "at an absolute path": lambda: models.model([MUL], initializers=[models.external_tensor(location="/etc/hostname")]),
    "at a memory address": lambda: models.model([MUL], initializers=[models.external_tensor(location="*/_ORT_MEM_ADDR_/*")]),
    "in a list of tensors": lambda: models.model([helper.make_node("Neg", ["x"], ["y"], values=[models.external_tensor()])]),
    "by location alone": lambda: models.model(
        [MUL], initializers=[TensorProto(name="w", data_type=1, dims=[0], data_location=TensorProto.EXTERNAL)]
    ),
}


@pytest.mark.parametrize("make", NOT_FOLLOWED.values(), ids=NOT_FOLLOWED.keys())
def test_external_data_that_this_runtime_does_not_follow_is_refused_as_well(
    folder: Path, make: Callable[[], onnx.ModelProto]
) -> None:
    data = make().SerializeToString()
    assert bare(data, cwd=folder, optimise=False).output is None
    with pytest.raises(VerificationError) as caught:
        check_model(data, features=FEATURES)
    assert caught.value.code == "model_external_data"


def test_entries_without_the_flag_are_refused_although_the_runtime_reads_the_data_inside(folder: Path) -> None:
    data = entries_only().SerializeToString()
    assert bare(data, cwd=folder, optimise=False).row == STOLEN
    with pytest.raises(VerificationError) as caught:
        check_model(data)
    assert caught.value.code == "model_external_data"
