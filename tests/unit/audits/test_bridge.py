"""The bridge computes what the runtime computes, passes gradients through quantisers, and names what it does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.parity import ParityBounds
from audits.bridge.program import TorchProgram
from audits.whitebox import WhiteBox
from device_client.inference.session import open_session
from tests.unit.audits import models
from tests.unit.audits.conftest import Case

RNG = np.random.default_rng(0)
BOUNDS = ParityBounds(1e-5, 2.0, 0.05)


def weight(name: str, *shape: int, positive: bool = False) -> Any:
    values = RNG.normal(size=shape).astype(np.float32)
    return numpy_helper.from_array(np.abs(values) + 0.1 if positive else values, name)


def constant(name: str, values: list[int] | list[float] | float, dtype: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=dtype), name)


def node(op: str, inputs: list[str], **attributes: Any) -> list[Any]:
    return [helper.make_node(op, inputs, ["y"], **attributes)]


VECTOR, IMAGE, SIGNAL = [None, 12], [None, 2, 7, 6], [None, 2, 9]

OPERATORS: dict[str, tuple[list[int | None], list[Any], list[Any]]] = {
    "gemm with factors": (
        VECTOR,
        node("Gemm", ["x", "w", "b"], transB=1, alpha=0.5, beta=2.0),
        [weight("w", 5, 12), weight("b", 5)],
    ),
    "matmul": (VECTOR, node("MatMul", ["x", "w"]), [weight("w", 12, 3)]),
    "add": (VECTOR, node("Add", ["x", "w"]), [weight("w", 12)]),
    "sub": (VECTOR, node("Sub", ["w", "x"]), [weight("w", 12)]),
    "mul": (VECTOR, node("Mul", ["x", "w"]), [weight("w", 1)]),
    "div": (VECTOR, node("Div", ["x", "w"]), [weight("w", 12, positive=True)]),
    "relu": (VECTOR, node("Relu", ["x"]), []),
    "sigmoid": (VECTOR, node("Sigmoid", ["x"]), []),
    "tanh": (VECTOR, node("Tanh", ["x"]), []),
    "leaky relu": (VECTOR, node("LeakyRelu", ["x"], alpha=0.2), []),
    "elu": (VECTOR, node("Elu", ["x"], alpha=0.7), []),
    "hard sigmoid": (VECTOR, node("HardSigmoid", ["x"]), []),
    "hard swish": (VECTOR, node("HardSwish", ["x"]), []),
    "clip on both sides": (
        VECTOR,
        node("Clip", ["x", "a", "b"]),
        [constant("a", -0.2, np.float32), constant("b", 0.3, np.float32)],
    ),
    "clip above": (VECTOR, node("Clip", ["x", "", "b"]), [constant("b", 0.3, np.float32)]),
    "softmax": (VECTOR, node("Softmax", ["x"]), []),
    "log softmax over channels": (IMAGE, node("LogSoftmax", ["x"], axis=1), []),
    "conv with uneven padding": (
        IMAGE,
        node("Conv", ["x", "w", "b"], pads=[1, 0, 2, 1], strides=[2, 1]),
        [weight("w", 3, 2, 3, 3), weight("b", 3)],
    ),
    "conv, padded to the same size": (
        IMAGE,
        node("Conv", ["x", "w"], auto_pad="SAME_UPPER", strides=[2, 2]),
        [weight("w", 3, 2, 3, 2)],
    ),
    "conv by groups, dilated": (IMAGE, node("Conv", ["x", "w"], group=2, dilations=[2, 2]), [weight("w", 4, 1, 2, 2)]),
    "conv in one dimension": (SIGNAL, node("Conv", ["x", "w"], pads=[1, 1]), [weight("w", 3, 2, 3)]),
    "max pool": (IMAGE, node("MaxPool", ["x"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]), []),
    "average pool, padding not counted": (IMAGE, node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), []),
    "average pool, padding counted": (
        IMAGE,
        node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        [],
    ),
    "global average pool": (IMAGE, node("GlobalAveragePool", ["x"]), []),
    "global max pool": (IMAGE, node("GlobalMaxPool", ["x"]), []),
    "batch norm": (
        IMAGE,
        node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=1e-3),
        [weight("s", 2), weight("b", 2), weight("m", 2), weight("v", 2, positive=True)],
    ),
    "flatten": (IMAGE, node("Flatten", ["x"]), []),
    "reshape with copied and inferred sizes": (IMAGE, node("Reshape", ["x", "s"]), [constant("s", [0, -1, 3])]),
    "transpose": (IMAGE, node("Transpose", ["x"], perm=[0, 2, 3, 1]), []),
    "concat": (VECTOR, node("Concat", ["x", "x"], axis=-1), []),
    "unsqueeze": (VECTOR, node("Unsqueeze", ["x", "a"]), [constant("a", [1, -1])]),
    "squeeze": ([None, 1, 4], node("Squeeze", ["x", "a"]), [constant("a", [1])]),
    "slice": (
        VECTOR,
        node("Slice", ["x", "s", "e", "a", "t"]),
        [constant("s", [1]), constant("e", [-1]), constant("a", [1]), constant("t", [2])],
    ),
    "gather": (VECTOR, node("Gather", ["x", "i"], axis=1), [constant("i", [-1, 0, 3])]),
    "pad": (IMAGE, node("Pad", ["x", "p", "v"]), [constant("p", [0, 0, 1, 2, 0, 0, 0, 1]), constant("v", 0.5, np.float32)]),
    "reduce mean": (IMAGE, node("ReduceMean", ["x"], axes=[2, 3], keepdims=0), []),
    "reduce max": (IMAGE, node("ReduceMax", ["x"], axes=[2], keepdims=0), []),
    "reduce sum": (IMAGE, node("ReduceSum", ["x", "a"]), [constant("a", [1])]),
    "quantise and back, per tensor": (
        VECTOR,
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        [constant("s", 0.031, np.float32), constant("z", 120, np.uint8)],
    ),
    "weights quantised per channel": (
        VECTOR,
        [
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
            helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
        ],
        [
            numpy_helper.from_array(RNG.integers(-128, 127, size=(4, 12), dtype=np.int8), "q"),
            weight("s", 4, positive=True),
            constant("z", [0, 0, 0, 0], np.int8),
        ],
    ),
    "shape arithmetic of an exporter": (
        IMAGE,
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"]),
            helper.make_node("Unsqueeze", ["n", "zero1"], ["n1"]),
            helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
            helper.make_node("Reshape", ["x", "to"], ["y"]),
        ],
        [constant("zero", 0), constant("zero1", [0]), constant("rest", [-1])],
    ),
}


def graph_of(shape: list[int | None], nodes: list[Any], weights: list[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return data


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_what_the_runtime_computes(name: str) -> None:
    shape, nodes, weights = OPERATORS[name]
    data = graph_of(shape, nodes, weights)
    x = RNG.normal(size=[3, *[size for size in shape[1:] if size is not None]]).astype(np.float32)
    with open_session(models.checked(data)) as session:
        expected = session.run({"x": x})["y"]
    actual = TorchProgram(parse_graph(data), wanted=("y",))(torch.from_numpy(x))[0].numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_operator_is_named_and_not_guessed() -> None:
    data = graph_of(VECTOR, node("Sinh", ["x"]), [])
    with pytest.raises(BridgeError, match="does not know the operator Sinh") as refused:
        TorchProgram(parse_graph(data), wanted=("y",))
    assert refused.value.code == "bridge_operator"


def test_an_unknown_form_of_a_known_operator_is_refused() -> None:
    data = graph_of(IMAGE, node("MaxPool", ["x"], kernel_shape=[2, 2], ceil_mode=1), [])
    program = TorchProgram(parse_graph(data), wanted=("y",))
    with pytest.raises(BridgeError, match="MaxPool with indices or ceil_mode"):
        program(torch.zeros(1, 2, 7, 6))


def test_rounding_passes_the_gradient_inside_the_range_and_the_clamp_stops_it_outside() -> None:
    shape, nodes, weights = OPERATORS["quantise and back, per tensor"]
    program = TorchProgram(parse_graph(graph_of(shape, nodes, weights)), wanted=("y",))
    x = torch.tensor([[0.1] * 11 + [99.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(program(x)[0].sum(), x)
    assert gradient[0, :11].tolist() == pytest.approx([1.0] * 11)
    assert gradient[0, 11] == 0


def test_a_fixed_batch_of_one_is_run_row_by_row() -> None:
    data = models.build(
        [helper.make_node("Reshape", ["x", "s"], ["y"])], [constant("s", [1, 12])], inputs=("x", [1, 12]), outputs=("y", [1, 12])
    )
    x = torch.rand(4, 12)
    assert torch.equal(TorchProgram(parse_graph(data), wanted=("y",))(x)[0], x)


def test_float_parity_is_within_1e_5_and_quantised_parity_within_two_quanta(good: Case) -> None:
    for data, quantised in ((good.original, False), (good.variant, True)):
        with WhiteBox(models.checked(data)) as box:
            parity = box.parity(good.data.x[:64], bounds=BOUNDS)
            assert parity.holds
            assert parity.quantised is quantised
            assert parity.bound <= (0.05 if quantised else 1e-5)


def test_a_bridge_that_computes_something_else_fails_parity(good: Case) -> None:
    with WhiteBox(models.checked(good.original)) as box, WhiteBox(models.checked(good.variant)) as other:
        box._program = other._program
        assert not box.parity(good.data.x[:16], bounds=BOUNDS).holds
