"""A shrunk model computes the same, in subgraphs too, and holds nothing that it does not need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from device_client.errors import SealiftError
from device_client.inference.session import open_session
from packager.features import check_own, features_of
from packager.graphs import all_graphs, all_nodes, defined_names
from packager.shrink import assert_same_outputs, compare_outputs, shrink_model

from .networks import branching, constant, finished, looping, value


def run(data: bytes, **inputs: Any) -> dict[str, Any]:
    with open_session(check_own(data)) as session:
        return session.run(inputs)


def inner_types(data: bytes) -> list[str]:
    return [node.op_type for node in all_nodes(onnx.load_from_string(data).graph)]


@pytest.mark.parametrize("sign", [1, -1], ids=["then", "else"])
def test_a_branch_computes_the_same_after_shrinking(sign: int) -> None:
    source = branching()
    x = (sign * np.random.default_rng(1).random((3, 6))).astype(np.float32)
    assert np.array_equal(run(shrink_model(source), x=x)["y"], run(source, x=x)["y"])


def test_subgraphs_lose_copies_and_unused_nodes_and_share_their_weights() -> None:
    shrunk = shrink_model(branching(width=16))
    types = inner_types(shrunk)
    assert "Identity" not in types
    assert "Constant" not in types
    assert types.count("MatMul") == 2
    large = [
        tensor for graph in all_graphs(onnx.load_from_string(shrunk).graph) for tensor in graph.initializer if len(tensor.dims) > 1
    ]
    assert len(large) == 1


def test_no_value_of_a_shrunk_model_has_the_name_of_another() -> None:
    graphs = list(all_graphs(onnx.load_from_string(shrink_model(branching())).graph))
    names = [name for graph in graphs for name in defined_names(graph)]
    assert len(graphs) == 3
    assert len(names) == len(set(names))


def test_shrinking_a_model_with_subgraphs_twice_changes_nothing() -> None:
    for source in (branching(), looping()):
        once = shrink_model(source)
        assert shrink_model(once) == once
        assert len(once) < len(source)


def test_a_loop_keeps_the_order_of_what_it_carries() -> None:
    x = np.ones((1, 6), np.float32)
    assert run(shrink_model(looping()), x=x)["y"].tolist() == (8 * x).tolist()


def test_features_name_the_control_flow_that_is_left() -> None:
    assert features_of(shrink_model(branching())) == ("control-flow:If",)
    assert features_of(looping()) == ("control-flow:Loop",)


def _model(nodes: list[Any], *, constants: tuple[Any, ...] = (), outputs: tuple[str, ...] = ("y",), opset: int = 17) -> bytes:
    graph = helper.make_graph(nodes, "g", [value("x", ["N", 4])], [value(name, ["N", 4]) for name in outputs], list(constants))
    return finished(graph, opset=opset)


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        pytest.param(
            [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Identity", ["h"], ["y"])], ["Relu"], id="before an output"
        ),
        pytest.param(
            [helper.make_node("Identity", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], ["Relu"], id="after an input"
        ),
        pytest.param([helper.make_node("Identity", ["x"], ["y"])], ["Identity"], id="an input that is the output"),
        pytest.param(
            [
                helper.make_node("Relu", ["x"], ["a"]),
                helper.make_node("Identity", ["a"], ["b"]),
                helper.make_node("Identity", ["a"], ["c"]),
                helper.make_node("Add", ["b", "c"], ["d"]),
                helper.make_node("Identity", ["a"], ["y"]),
                helper.make_node("Mul", ["b", "d"], ["z"]),
            ],
            ["Relu", "Add", "Mul"],
            id="copies of one value before and after it becomes an output",
        ),
        pytest.param(
            [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"])],
            ["Relu", "Identity"],
            id="one value as two outputs",
        ),
        pytest.param(
            [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT), helper.make_node("Relu", ["h"], ["y"])],
            ["Relu"],
            id="a cast to the same type",
        ),
        pytest.param(
            [
                helper.make_node("Cast", ["x"], ["h"], to=TensorProto.INT32),
                helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
            ],
            ["Cast", "Cast"],
            id="casts that round",
        ),
        pytest.param(
            [helper.make_node("Dropout", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], ["Relu"], id="dropout at rest"
        ),
    ],
)
def test_a_node_goes_only_where_nothing_changes(nodes: list[Any], left: list[str]) -> None:
    outputs = ("y", "z") if any("z" in node.output for node in nodes) else ("y",)
    source = _model(nodes, outputs=outputs)
    shrunk = shrink_model(source)
    assert inner_types(shrunk) == left
    x = np.array([[-1.5, 0.5, 2.25, -3.0]], np.float32)
    before, after = run(source, x=x), run(shrunk, x=x)
    assert all(np.array_equal(before[name], after[name]) for name in outputs)


def test_dropout_that_trains_stays() -> None:
    nodes = [helper.make_node("Dropout", ["x", "ratio", "training"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    constants = (constant("ratio", 0.5), constant("training", True, np.bool_))
    assert inner_types(shrink_model(_model(nodes, constants=constants))) == ["Dropout", "Relu"]


@pytest.mark.parametrize(
    ("want", "have"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.5], id="another number"),
        pytest.param([1.0, np.nan], [1.0, 2.0], id="a number instead of NaN"),
        pytest.param([1.0, 2.0], [1.0, np.nan], id="NaN instead of a number"),
        pytest.param([1.0, np.inf], [1.0, -np.inf], id="the other infinity"),
        pytest.param([1.0, 2.0], [[1.0, 2.0]], id="another shape"),
    ],
)
def test_outputs_that_differ_are_refused(want: list[Any], have: list[Any]) -> None:
    with pytest.raises(SealiftError, match="changed the model's output"):
        compare_outputs({"y": np.array(want)}, {"y": np.array(have)}, what="a step", relative=1e-3)


def test_outputs_that_hold_the_same_nan_are_equal() -> None:
    same = {"y": np.array([1.0, np.nan, np.inf])}
    compare_outputs(same, same, what="a step")


def _changed(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    model.graph.initializer[1].CopyFrom(constant("outer.constant", np.ones(8)))
    return model.SerializeToString()


def test_a_changed_constant_outside_a_subgraph_is_noticed() -> None:
    x = np.ones((1, 6), np.float32)
    check: Callable[[bytes], None] = lambda data: assert_same_outputs(branching(), data, {"x": x}, what="a step")  # noqa: E731
    check(shrink_model(branching()))
    with pytest.raises(SealiftError):
        check(_changed(branching()))


def test_an_attribute_that_says_the_default_goes_and_any_other_stays() -> None:
    nodes = [
        helper.make_node(
            "Conv", ["x", "w"], ["c"], strides=[1, 1], dilations=[1, 1], pads=[0, 0, 0, 0], group=1, auto_pad="NOTSET"
        ),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[1, 2], ceil_mode=0, storage_order=0),
        helper.make_node("LeakyRelu", ["p"], ["l"], alpha=0.01),
        helper.make_node("LeakyRelu", ["l"], ["r"], alpha=0.2),
        helper.make_node("Flatten", ["r"], ["y"], axis=1),
    ]
    weight = constant("w", np.random.default_rng(0).standard_normal((2, 1, 3, 3)))
    source = finished(helper.make_graph(nodes, "g", [value("x", ["N", 1, 8, 8])], [value("y", ["N", 30])], [weight]))
    shrunk = shrink_model(source)
    kept = [sorted(item.name for item in node.attribute) for node in onnx.load_from_string(shrunk).graph.node]
    assert kept == [[], ["kernel_shape", "strides"], [], ["alpha"], []]
    x = np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(run(shrunk, x=x)["y"], run(source, x=x)["y"])
