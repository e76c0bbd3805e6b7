from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import LimitError, UsageError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.load import LoadedModel, load_model
from packager.shrink import shrink_model

from .models import TRAINER, convnet, graph, mlp, op_types, rows, write


def load(text: str, example: Any = None) -> LoadedModel:
    return load_model(text, seed=0, example=lambda: example or {})


def outputs(data: bytes, x: Any) -> Any:
    with open_session(check_model(data)) as session:
        return session.run({session.inputs[0].name: x})["y"]


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "trainer_for_load.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return "trainer_for_load"


def test_a_loaded_model_computes_the_same_and_keeps_no_path(tmp_path: Path) -> None:
    source = mlp()
    loaded = load(write(tmp_path, source))
    assert np.array_equal(outputs(loaded.model.data, rows(9)), outputs(source, rows(9)))
    assert b"somebody" in source
    assert b"somebody" not in loaded.model.data
    assert b"first" not in loaded.model.data
    assert loaded.source_bytes == len(source)


def test_an_old_opset_with_initialisers_that_are_inputs_becomes_plain(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((6, 3)), "b": rng.standard_normal((1, 3))}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    source = graph(nodes, constants, x=[1, 6], y=[1, 3], opset=8, inputs_too=True)
    loaded = load(write(tmp_path, source))
    model = onnx.load_from_string(loaded.model.data)
    assert loaded.model.opset >= 13
    assert [value.name for value in model.graph.input] == ["x"]
    assert any("opset 8" in note for note in loaded.notes)
    assert any("2 initialisers" in note for note in loaded.notes)
    assert np.allclose(outputs(loaded.model.data, rows(1)), outputs(source, rows(1)), atol=1e-6)


def test_the_same_graph_under_other_names_gives_the_same_bytes(tmp_path: Path) -> None:
    model = onnx.load_from_string(convnet())
    for index, node in enumerate(model.graph.node):
        node.name = f"/some/module/{index}"
    for tensor in model.graph.initializer:
        for node in model.graph.node:
            node.input[:] = [f"module.{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"module.{tensor.name}"
    one = load(write(tmp_path, convnet(), "a.onnx")).model.data
    assert load(write(tmp_path, model.SerializeToString(), "b.onnx")).model.data == one


def test_shrinking_twice_changes_nothing() -> None:
    once = shrink_model(convnet())
    assert shrink_model(once) == once
    assert len(once) < len(convnet())


def test_equal_constants_are_kept_once() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 6))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["z"]),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("Add", ["z", "one"], ["y"]),
    ]
    source = graph(nodes, {"w1": weight, "w2": weight.copy(), "unused": weight + 1}, x=["N", 6], y=["N", 6])
    shrunk = shrink_model(source)
    assert len(onnx.load_from_string(shrunk).graph.initializer) == 2
    assert "Constant" not in op_types(shrunk)
    assert np.array_equal(outputs(shrunk, rows(4)), outputs(source, rows(4)))


def _half() -> bytes:
    return graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((6, 3))}, x=["N", 6], y=["N", 3], dtype=TensorProto.FLOAT16
    )


def _loop() -> bytes:
    then = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, ["N", 6])]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=then)]
    model = onnx.load_from_string(graph(nodes, {}, x=["N", 6], y=["N", 6]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    return model.SerializeToString()


def _external() -> bytes:
    model = onnx.load_from_string(mlp())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return model.SerializeToString()


def _custom_domain() -> bytes:
    model = onnx.load_from_string(mlp())
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model.SerializeToString()


def _quantised() -> bytes:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = onnx.load_from_string(graph(nodes, {"s": np.array(0.1)}, x=["N", 6], y=["N", 6]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "z"))
    return model.SerializeToString()


def _fixed_batch() -> bytes:
    return mlp(batch=4)


def _dynamic_inside() -> bytes:
    return graph([helper.make_node("Relu", ["x"], ["y"])], {}, x=["N", "T"], y=["N", "T"])


def _refused_by_the_runtime() -> bytes:
    model = onnx.load_from_string(mlp())
    for node in model.graph.node:
        node.name = "twice"
    return model.SerializeToString()


def _missing_input() -> bytes:
    return graph([helper.make_node("MatMul", ["x", "nowhere"], ["y"])], {}, x=["N", 6], y=["N", 6])


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(_half, "model_precision", id="half precision"),
        pytest.param(_loop, "model_control_flow", id="control flow"),
        pytest.param(_external, "model_external_data", id="external data"),
        pytest.param(_custom_domain, "model_domain", id="custom operators"),
        pytest.param(_quantised, "model_quantised", id="quantised already"),
        pytest.param(_fixed_batch, "model_signature", id="fixed batch of four"),
        pytest.param(_dynamic_inside, "model_signature", id="dynamic axis besides the batch"),
        pytest.param(_refused_by_the_runtime, "model_runtime", id="two nodes of one name"),
        pytest.param(_missing_input, "model_invalid", id="a node reads what nobody writes"),
        pytest.param(lambda: b"garbage that is no protobuf", "model_syntax", id="not protobuf"),
        pytest.param(lambda: b"", "model_incomplete", id="empty file"),
        pytest.param(lambda: mlp()[:-20], "model_syntax", id="truncated"),
    ],
)
def test_a_model_that_cannot_be_packed_says_why(tmp_path: Path, make: Callable[[], bytes], code: str) -> None:
    path = write(tmp_path, make())
    with pytest.raises(UsageError) as caught:
        load(path)
    assert caught.value.code == code
    assert "model.onnx" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        pytest.param("model.pt", "model_format", "pickle", id="torch file"),
        pytest.param("model.tflite", "model_format", "not a model format", id="tflite file"),
        pytest.param("none.onnx", "model_missing", "not found", id="no such file"),
    ],
)
def test_a_wrong_model_file_is_refused_unread(tmp_path: Path, name: str, code: str, says: str) -> None:
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=says) as caught:
        load(str(tmp_path / name))
    assert caught.value.code == code


def test_a_training_function_gives_the_same_bytes_and_leaves_the_seeds_alone(trainer: str) -> None:
    import torch

    before = (
        torch.initial_seed(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        np.random.get_state()[1][0],
    )
    example = {"x": rows(2, (64,))}
    one, other = (load(f"{trainer}:model", example).source_digest for _ in range(2))
    assert one == other
    after = (
        torch.initial_seed(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        np.random.get_state()[1][0],
    )
    assert before == after


def test_another_seed_trains_another_model(trainer: str) -> None:
    digests = {load_model(f"{trainer}:model", seed=seed, example=lambda: {"x": rows(2, (64,))}).source_digest for seed in (0, 1)}
    assert len(digests) == 2


def test_a_function_that_returns_no_module_is_refused(trainer: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(f"{trainer}:not_a_module")
    assert caught.value.code == "model_type"


def test_a_module_without_example_inputs_and_without_x_is_refused(trainer: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(f"{trainer}:model", {"image": rows(2, (64,))})
    assert caught.value.code == "model_example"


def test_a_forward_pass_that_depends_on_the_batch_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "branching_for_load.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * 2 if x.shape[0] > 1 else x * 3\n"
        "def model():\n"
        "    return Net(), torch.ones(2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UsageError, match="does not compute what the module does"):
        load("branching_for_load:model")


def test_weights_in_packed_integers_are_stored_raw_where_a_device_would_not_read_so_many(tmp_path: Path) -> None:
    table = TensorProto(name="table", data_type=TensorProto.INT64, dims=[300_000], int64_data=[-1] * 300_000)
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["t"]),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], [table]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    data = model.SerializeToString()
    with pytest.raises(LimitError, match="varying length"):
        check_model(data)
    loaded = load(write(tmp_path, data))
    assert loaded.source_bytes == len(data)
    assert outputs(loaded.model.data, np.ones((2, 3), np.float32)).tolist() == [[-1.0] * 3] * 2
