"""Nodes stand after what they read, and after what their subgraphs read."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from packager.node_order import order_nodes


def branch(name: str, reads: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2])
    return helper.make_graph([helper.make_node("Neg", [reads], [f"{name}_out"])], name, [], [value])


def nodes() -> list[onnx.NodeProto]:
    choose = helper.make_node("If", ["flag"], ["y"], name="choose", then_branch=branch("a", "t"), else_branch=branch("b", "u"))
    return [
        helper.make_node("Relu", ["x"], ["t"], name="t"),
        helper.make_node("Abs", ["t"], ["u"], name="u"),
        choose,
        helper.make_node("Exp", ["y"], ["z"], name="last"),
    ]


def graph(order: list[int]) -> onnx.GraphProto:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    made = nodes()
    return helper.make_graph(
        [made[index] for index in order], "g", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])]
    )


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 1, 3], [3, 2, 1, 0]])
def test_a_value_that_a_subgraph_reads_is_made_before_the_node_that_holds_it(order: list[int]) -> None:
    found = graph(order)
    order_nodes(found)
    assert [node.name for node in found.node] == ["t", "u", "choose", "last"]
    onnx.checker.check_model(helper.make_model(found, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_nodes_that_do_not_depend_on_each_other_keep_their_order() -> None:
    pair = [helper.make_node("Relu", ["x"], ["b"], name="b"), helper.make_node("Relu", ["x"], ["a"], name="a")]
    found = helper.make_graph(pair, "g", [], [])
    order_nodes(found)
    assert [node.name for node in found.node] == ["b", "a"]


def test_a_cycle_is_no_order() -> None:
    pair = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Relu", ["b"], ["a"])]
    with pytest.raises(ValueError, match="cycle"):
        order_nodes(helper.make_graph(pair, "g", [], []))
