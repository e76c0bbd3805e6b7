"""The attack taps the logits: a quantised softmax masks its gradient and would fake a privacy gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.program import TorchProgram
from audits.bridge.tap import Tail, find_tap
from tests.unit.audits import models
from tests.unit.audits.conftest import Case


def test_a_trailing_softmax_is_cut(good: Case) -> None:
    tap = find_tap(parse_graph(good.original), output="p")
    assert (tap.tail, tap.cut, tap.logits) == (Tail.SOFTMAX, ("Softmax",), "h2")


def test_the_quantisers_around_a_softmax_are_cut_with_it(good: Case) -> None:
    graph = parse_graph(good.variant)
    tap = find_tap(graph, output="p")
    assert tap.tail is Tail.SOFTMAX
    assert "QuantizeLinear" in tap.cut
    producer = graph.producer(tap.logits)
    assert producer is not None
    assert producer.op == "Gemm"
    assert tap.quantum is not None


def test_logits_without_a_tail_are_taken_as_they_are(good: Case) -> None:
    net = models.train(good.data.member, epochs=1)
    tap = find_tap(parse_graph(models.to_onnx(net, softmax=False)), output="h2")
    assert (tap.tail, tap.cut, tap.logits) == (Tail.NONE, (), "h2")


def test_a_model_that_gives_labels_and_no_scores_is_refused() -> None:
    data = models.build(
        [helper.make_node("ArgMax", ["x"], ["y"], axis=1)],
        [],
        inputs=("x", [None, 4]),
        outputs=("y", [None, 1]),
        output_type=TensorProto.INT64,
    )
    with pytest.raises(BridgeError, match="ArgMax and is not scores"):
        find_tap(parse_graph(data), output="y")


def reshaped(*before: str) -> bytes:
    """x -> the given operators -> reshaped to (N, 4) as y."""
    names = ["x", *(f"t{index}" for index in range(len(before)))]
    extra = {"Gemm": ["w"], "Unsqueeze": ["a"]}
    nodes = [
        helper.make_node(op, [names[index], *extra.get(op, [])], [names[index + 1]], name=op) for index, op in enumerate(before)
    ]
    nodes.append(helper.make_node("Reshape", [names[-1], "s"], ["y"]))
    weights = {"w": np.eye(4, dtype=np.float32), "a": np.asarray([2]), "s": np.asarray([0, 4])}
    used = [numpy_helper.from_array(weights[name], name) for name in ("w", "a", "s") if any(name in node.input for node in nodes)]
    return models.build(nodes, used, inputs=("x", [None, 4]), outputs=("y", [None, 4]))


def test_a_softmax_behind_a_reshape_is_cut_with_it() -> None:
    tap = find_tap(parse_graph(reshaped("Gemm", "Softmax", "Unsqueeze")), output="y")
    assert (tap.tail, tap.cut, tap.logits) == (Tail.SOFTMAX, ("Softmax", "Unsqueeze", "Reshape"), "t0")


@pytest.mark.parametrize("before", [("Gemm", "Relu"), ("Gemm", "Unsqueeze", "Softmax")])
def test_a_reshape_stays_where_no_softmax_over_rows_is_behind_it(before: tuple[str, ...]) -> None:
    tap = find_tap(parse_graph(reshaped(*before)), output="y")
    assert (tap.tail, tap.cut, tap.logits) == (Tail.NONE, (), "y")


def test_labels_behind_a_reshape_are_refused_too() -> None:
    with pytest.raises(BridgeError, match="comes from Sigmoid and is not scores"):
        find_tap(parse_graph(reshaped("Gemm", "Sigmoid", "Unsqueeze")), output="y")


def test_the_tap_has_a_gradient_where_the_quantised_probability_has_none() -> None:
    weights = np.eye(4, dtype=np.float32) * 40
    data = models.build(
        [
            helper.make_node("MatMul", ["x", "w"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["p"]),
            helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.float32(1 / 255), "s"),
            numpy_helper.from_array(np.uint8(0), "z"),
        ],
        inputs=("x", [None, 4]),
        outputs=("y", [None, 4]),
    )
    graph = parse_graph(data)
    tap = find_tap(graph, output="y")
    assert tap.logits == "logits"
    program = TorchProgram(graph, wanted=(tap.output, tap.logits))
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]], requires_grad=True)
    output, logits = program(x)
    (masked,) = torch.autograd.grad(output[0, 1], x, retain_graph=True)
    (tapped,) = torch.autograd.grad(logits[0, 1], x)
    assert masked.abs().max() < 1e-9
    assert tapped.abs().max() > 1
