from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import FormatError, LimitError, UsageError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from packager.features import check_own
from packager.load import LoadedModel, load_model
from packager.shrink import shrink_model

from .models import TRAINER, convnet, graph, mlp, op_types, rows, write
from .networks import branching, constant, finished, looping, torch_networks, value


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


def _custom_integer_operator() -> bytes:
    model = onnx.load_from_string(branching())
    branch = model.graph.node[3].attribute[0].g
    branch.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model.SerializeToString()


def _weights(number: float, op_type: str) -> bytes:
    model = onnx.load_from_string(mlp())
    assert model.graph.node[0].op_type == op_type
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = number
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "first.weight"))
    return model.SerializeToString()


def _no_input() -> bytes:
    nodes = [helper.make_node("Relu", ["c"], ["y"])]
    return finished(helper.make_graph(nodes, "g", [], [value("y", [1, 3])], [constant("c", np.ones((1, 3)))]))


def _text_input() -> bytes:
    nodes = [helper.make_node("StringNormalizer", ["x"], ["y"])]
    return finished(
        helper.make_graph(nodes, "g", [value("x", [1, 3], TensorProto.STRING)], [value("y", [1, 3], TensorProto.STRING)])
    )


def _sequence_output() -> bytes:
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["N", 3])
    return finished(helper.make_graph(nodes, "g", [value("x", ["N", 3])], [output]))


def _reserved_name() -> bytes:
    nodes = [helper.make_node("Relu", ["y"], ["z"])]
    return finished(helper.make_graph(nodes, "g", [value("y", ["N", 3])], [value("z", ["N", 3])]))


def _batch_in_a_constant() -> bytes:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    return graph(nodes, {"s": np.array([4, 2, 3])}, x=[4, 6], y=[4, 2, 3])


def _random() -> bytes:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    return graph(nodes, {}, x=["N", 6], y=["N", 6])


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
        pytest.param(_external, "model_external_data", id="external data"),
        pytest.param(_custom_domain, "model_domain", id="custom operators"),
        pytest.param(_quantised, "model_quantised", id="quantised already"),
        pytest.param(_custom_integer_operator, "model_domain", id="a custom operator inside a branch"),
        pytest.param(lambda: _weights(np.nan, "Gemm"), "model_values", id="weights that are not numbers"),
        pytest.param(lambda: _weights(np.inf, "Gemm"), "model_values", id="infinite weights"),
        pytest.param(_no_input, "model_signature", id="no input"),
        pytest.param(_text_input, "model_signature", id="text as input"),
        pytest.param(_sequence_output, "model_signature", id="a sequence as output"),
        pytest.param(_reserved_name, "model_signature", id="an input called y"),
        pytest.param(_batch_in_a_constant, "model_signature", id="a batch of four in a constant"),
        pytest.param(_random, "model_random", id="random numbers"),
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


def test_the_error_about_weights_names_the_tensor(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"first\.weight.*NaN") as caught:
        load(write(tmp_path, _weights(np.nan, "Gemm")))
    assert "1 of 96" in str(caught.value)


def test_custom_operators_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"com\.example:MatMul"):
        load(write(tmp_path, _custom_integer_operator()))


def test_an_infinite_mask_is_no_broken_weight(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "m"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])]
    source = graph(nodes, {"m": np.array([0.0, -np.inf, 0.0])}, x=["N", 3], y=["N", 3])
    assert outputs(load(write(tmp_path, source)).model.data, np.zeros((1, 3), np.float32)).tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize(("make", "feature"), [(branching, "If"), (looping, "Loop")], ids=["if", "loop"])
def test_control_flow_loads_and_is_named_as_a_feature(tmp_path: Path, make: Callable[[], bytes], feature: str) -> None:
    loaded = load(write(tmp_path, make()))
    assert loaded.features == (f"control-flow:{feature}",)
    with pytest.raises(FormatError):
        check_model(loaded.model.data)
    assert check_model(loaded.model.data, features=loaded.features) == loaded.model


def test_a_branch_that_is_never_taken_goes_with_its_control_flow(tmp_path: Path) -> None:
    model = onnx.load_from_string(branching())
    model.graph.node[3].input[0] = "always"
    model.graph.initializer.append(constant("always", True, np.bool_))
    loaded = load(write(tmp_path, model.SerializeToString()))
    assert loaded.features == ()
    assert np.array_equal(outputs(loaded.model.data, rows(2)), outputs_of(model.SerializeToString(), rows(2)))


def outputs_of(data: bytes, x: Any) -> Any:
    with open_session(check_own(data)) as session:
        return session.run({"x": x})["y"]


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 12])
def test_every_opset_from_seven_is_raised(tmp_path: Path, opset: int) -> None:
    """Operators whose form changed: axes that were attributes, a Softmax over all axes behind, a BatchNormalization."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["b"]),
        helper.make_node("Dropout", ["b"], ["d"]),
        helper.make_node("Unsqueeze", ["d"], ["u"], axes=[1]),
        helper.make_node("Squeeze", ["u"], ["s"], axes=[1]),
        helper.make_node("Softmax", ["s"], ["f"], axis=1),
        helper.make_node("ReduceSum", ["f"], ["y"], axes=[3], keepdims=0),
    ]
    constants = {"w": np.random.default_rng(0).standard_normal((2, 1, 3, 3)), "one": np.ones(2), "zero": np.zeros(2)}
    source = graph(nodes, constants, x=[1, 1, 4, 4], y=[1, 2, 4], opset=opset, inputs_too=True)
    loaded = load(write(tmp_path, source))
    assert loaded.model.opset >= 13
    assert not {"Dropout", "BatchNormalization"} & set(op_types(loaded.model.data))
    x = rows(1, (1, 4, 4))
    assert np.allclose(outputs(loaded.model.data, x), outputs(source, x), atol=1e-6)


def test_a_fixed_batch_that_nothing_depends_on_becomes_dynamic(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, mlp(batch=4)))
    assert loaded.model.inputs[0].shape == ("batch", 6)
    assert np.allclose(outputs(loaded.model.data, rows(3)), outputs(mlp(), rows(3)), atol=1e-6)


def test_a_model_whose_rows_change_each_other_runs_one_at_a_time(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])]
    loaded = load(write(tmp_path, graph(nodes, {}, x=["N", 6], y=["N", 6])))
    assert loaded.model.inputs[0].shape == (1, 6)
    assert any("one row" in note for note in loaded.notes)


def test_a_dynamic_axis_inside_stays(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("ReduceMax", ["h"], ["y"], axes=[1], keepdims=0)]
    loaded = load(write(tmp_path, graph(nodes, {"w": np.ones((6, 3))}, x=["N", "T", 6], y=["N", 3])))
    assert loaded.model.inputs[0].shape == ("N", "T", 6)
    assert loaded.model.outputs[0].shape == ("N", 3)


def test_a_state_with_its_batch_inside_and_a_scalar_are_taken_whole(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["state"], ["s"], keepdims=0),
        helper.make_node("Mul", ["x", "r"], ["h"]),
        helper.make_node("Add", ["h", "s"], ["y"]),
    ]
    inputs = [value("x", ["batch", 4]), value("state", [2, "batch", 3]), value("rate", [], TensorProto.INT64)]
    source = finished(helper.make_graph(nodes, "g", inputs, [value("y", ["batch", 4])]))
    data = {"x": np.ones((2, 4)), "state": np.ones((2, 2, 1, 3), np.float32), "rate": np.array([3, 5])}
    loaded = load(write(tmp_path, source), data)
    assert [spec.shape for spec in loaded.model.inputs] == [("batch", 4), (2, "batch", 3), ()]


def test_functions_inside_the_file_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Add", ["s", "a"], ["b"])]
    function = helper.make_function("ours", "SquareAndAdd", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("SquareAndAdd", ["x"], ["y"], domain="ours")]
    made = helper.make_graph(nodes, "g", [value("x", ["N", 4])], [value("y", ["N", 4])])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    model = helper.make_model(made, opset_imports=imports, functions=[function], ir_version=8)
    loaded = load(write(tmp_path, model.SerializeToString()))
    assert sorted(op_types(loaded.model.data)) == ["Add", "Mul"]
    assert outputs(loaded.model.data, np.full((1, 4), 3, np.float32)).tolist() == [[12.0] * 4]


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Entry points of the networks, by name."""
    module = types.ModuleType("networks_for_load")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    texts = {}
    for index, (name, make) in enumerate(torch_networks().items()):
        setattr(module, f"net{index}", make)
        texts[name] = f"{module.__name__}:net{index}"
    return texts


@pytest.mark.parametrize("name", list(torch_networks()))
def test_a_torch_network_loads_to_the_same_bytes_twice(networks: dict[str, str], name: str) -> None:
    one, other = (load(networks[name]) for _ in range(2))
    assert one.model.data == other.model.data
    assert one.module is not None
    assert not one.module.training
    assert not {"Identity", "Dropout"} & set(op_types(one.model.data))
    is_stateful = name == "stateful lstm"
    assert all((spec.shape or ("",))[0] == "batch" for spec in one.model.inputs) != is_stateful
    assert not is_stateful or one.model.inputs[0].shape == (3, 1, 5)


def test_outputs_in_a_dictionary_keep_their_names_and_sizes(networks: dict[str, str]) -> None:
    loaded = load(networks["detector"])
    assert [(spec.name, spec.shape) for spec in loaded.model.outputs] == [("scores", ("batch", 6, 64)), ("boxes", ("batch", 8, 64))]


def test_a_weight_that_three_layers_share_is_kept_once(networks: dict[str, str]) -> None:
    graph_of = onnx.load_from_string(load(networks["shared weights"]).model.data).graph
    assert len([node for node in graph_of.node if node.op_type == "Gemm"]) == 3
    assert len(graph_of.initializer) == 2


def test_a_bare_module_takes_arrays_called_like_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_for_load.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, age, weight, scale=2.0):\n"
        "        return (age + weight) * scale\n"
        "def model():\n"
        "    return Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    loaded = load("two_for_load:model", {"weight": rows(2, (3,)), "age": rows(2, (3,)), "y": np.zeros(2)})
    assert [spec.name for spec in loaded.model.inputs] == ["age", "weight"]


def test_a_branch_on_values_that_tracing_bakes_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "baked_for_load.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * 2 if float(x.sum()) > 1 else x * 3\n"
        "def model():\n"
        "    return Net(), torch.tensor([[0.1], [5.0]])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UsageError) as caught:
        load("baked_for_load:model")
    assert caught.value.code == "model_export"


def test_an_operator_of_the_runtime_itself_is_kept_and_named_as_a_feature(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    made = helper.make_graph(nodes, "g", [value("x", ["N", 4])], [value("y", ["N", 4])])
    loaded = load(write(tmp_path, finished(made, domains=("com.microsoft",))))
    assert loaded.features == ("domain:com.microsoft",)


def test_data_that_is_not_finite_is_not_what_the_model_is_compared_on(tmp_path: Path) -> None:
    """What is wrong with DATA is said where it is read, not as a fault of the model."""
    assert load(write(tmp_path, mlp()), {"x": np.full((2, 6), np.nan)}).model.inputs[0].shape == ("N", 6)


def test_a_model_that_runs_on_nothing_is_refused_with_the_reason_of_the_runtime(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    source = graph(nodes, {"s": np.array([7, 5])}, x=["N", 6], y=[7, 5])
    with pytest.raises(UsageError, match=r"runtime failed.*Reshape") as caught:
        load(write(tmp_path, source))
    assert caught.value.code == "model_runtime"


def test_nodes_out_of_order_are_sorted_as_the_runtime_does(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load_from_string(mlp())
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    path.write_bytes(model.SerializeToString())
    loaded = load_model(str(path), seed=0, example=dict)
    assert any("order" in note for note in loaded.notes)
    x = rows(4)
    with open_session(loaded.model) as session, open_session(check_model(mlp())) as original:
        assert np.allclose(session.run({"x": x})["y"], original.run({"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize(("dtype", "basic"), [(TensorProto.FLOAT16, True), (TensorProto.FLOAT, False)])
def test_a_half_precision_file_is_never_opened_with_fusions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: int, basic: bool
) -> None:
    """Onnxruntime 1.32 dies of a memory fault on some of them, which no handler can catch."""
    asked: list[tuple[str, bool]] = []

    def opened(model: Any, **settings: Any) -> Any:
        asked.append((model.inputs[0].dtype, settings.get("basic", False)))
        return open_session(model, **settings)

    monkeypatch.setattr("packager.comparison.open_session", opened)
    w = np.random.default_rng(0).standard_normal((6, 8))
    data = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, x=["N", 6], y=["N", 8], dtype=dtype)
    path = tmp_path / "half.onnx"
    path.write_bytes(data)
    assert load(str(path)).model.inputs[0].dtype == "float32"
    assert asked[0] == ("float16" if basic else "float32", basic)
    assert all(plain or kind == "float32" for kind, plain in asked)


def test_an_output_without_a_shape_gets_one(tmp_path: Path) -> None:
    model = onnx.load_from_string(mlp())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = load(str(path))
    assert any("shapes of outputs" in note for note in loaded.notes)
    assert loaded.model.outputs[0].shape == ("N", 3)


def test_an_axis_without_a_name_gets_no_empty_one(tmp_path: Path) -> None:
    model = onnx.load_from_string(mlp())
    for value_info in (*model.graph.input, *model.graph.output):
        value_info.type.tensor_type.shape.dim[0].Clear()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    prepared = onnx.load_from_string(load(str(path), {"x": rows(4)}).model.data)
    assert prepared.graph.output[0].type.tensor_type.shape.dim[0].WhichOneof("value") is None
