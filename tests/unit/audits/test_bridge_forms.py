"""Forms that compression makes: integers in products and convolutions, dynamic ranges, packed weights, halves, rounding."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from audits.bridge.graph import BridgeError, parse_graph
from audits.bridge.program import TorchProgram, supported_operators
from audits.bridge.tap import find_tap
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from tests.architecture.project import ROOT
from tests.unit.audits.test_bridge import IMAGE, SIGNAL, VECTOR, constant, node, weight

RNG = np.random.default_rng(3)
TOKENS = [None, 5, 8]


def integers(name: str, *shape: int, dtype: Any = np.int8) -> Any:
    limits = np.iinfo(dtype)
    return numpy_helper.from_array(RNG.integers(limits.min, limits.max, size=shape, endpoint=True).astype(dtype), name)


def narrow(name: str, kind: int, values: Any) -> Any:
    array = np.asarray(values)
    return helper.make_tensor(name, kind, array.shape, array.reshape(-1))


QUANTISED = [helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])]
BACK = [helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"])]
SCALES = [
    constant("xs", 0.03, np.float32),
    constant("xz", 110, np.uint8),
    constant("ys", 0.07, np.float32),
    constant("yz", 120, np.uint8),
]
PACKED = np.random.default_rng(0).integers(0, 255, size=24, endpoint=True).astype(np.uint8)
HALVES = [
    helper.make_node("Cast", ["p"], ["left"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["left", "down"], ["shifted"]),
    helper.make_node("Floor", ["shifted"], ["high"]),
    helper.make_node("Mul", ["high", "up"], ["back"]),
    helper.make_node("Sub", ["left", "back"], ["low"]),
    helper.make_node("Concat", ["low", "high"], ["flat"], axis=0),
    helper.make_node("Reshape", ["flat", "shape"], ["w4"]),
    helper.make_node("Cast", ["s"], ["scale"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["w4", "scale"], ["scaled"]),
    helper.make_node("Add", ["scaled", "offset"], ["w"]),
    helper.make_node("MatMul", ["x", "w"], ["y"]),
]

Graph = tuple[list[int | None], list[Any], list[Any]]

FORMS: dict[str, Graph] = {
    "floor": (VECTOR, node("Floor", ["x"]), []),
    "ceil": (VECTOR, node("Ceil", ["x"]), []),
    "round": (VECTOR, [helper.make_node("Mul", ["x", "two"], ["h"]), *node("Round", ["h"])], [constant("two", 2.5, np.float32)]),
    "mod with the divisor's sign": (
        VECTOR,
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            helper.make_node("Mod", ["i", "m"], ["r"]),
            *node("Cast", ["r"], to=TensorProto.FLOAT),
        ],
        [constant("m", 2, np.int32)],
    ),
    "mod of floats": (VECTOR, node("Mod", ["x", "m"], fmod=1), [constant("m", 0.4, np.float32)]),
    "where": (
        VECTOR,
        [helper.make_node("Greater", ["x", "zero"], ["c"]), *node("Where", ["c", "x", "zero"])],
        [constant("zero", 0.1, np.float32)],
    ),
    "maximum of three": (VECTOR, node("Max", ["x", "a", "b"]), [weight("a", 12), weight("b", 12)]),
    "layer normalisation": (TOKENS, node("LayerNormalization", ["x", "g", "b"], axis=-1), [weight("g", 8), weight("b", 8)]),
    "layer normalisation over two axes": (
        TOKENS,
        node("LayerNormalization", ["x", "g"], axis=1, epsilon=1e-3),
        [weight("g", 5, 8)],
    ),
    "instance normalisation": (IMAGE, node("InstanceNormalization", ["x", "g", "b"]), [weight("g", 2), weight("b", 2)]),
    "gelu by its parts": (
        VECTOR,
        [
            helper.make_node("Div", ["x", "root"], ["a"]),
            helper.make_node("Erf", ["a"], ["b"]),
            helper.make_node("Add", ["b", "one"], ["c"]),
            helper.make_node("Mul", ["x", "c"], ["d"]),
            *node("Mul", ["d", "half"]),
        ],
        [constant("root", 2**0.5, np.float32), constant("one", 1.0, np.float32), constant("half", 0.5, np.float32)],
    ),
    "power and root": (
        VECTOR,
        [helper.make_node("Pow", ["x", "two"], ["s"]), *node("Sqrt", ["s"])],
        [constant("two", 2.0, np.float32)],
    ),
    "slice backwards": (
        VECTOR,
        node("Slice", ["x", "s", "e", "a", "t"]),
        [constant("s", [-2]), constant("e", [-(2**63)]), constant("a", [1]), constant("t", [-3])],
    ),
    "split": (
        VECTOR,
        [helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1), *node("Concat", ["b", "a"], axis=1)],
        [constant("s", [5, 7])],
    ),
    "einsum": (TOKENS, node("Einsum", ["x", "w"], equation="ntd,dk->ntk"), [weight("w", 8, 3)]),
    "transposed convolution": (
        IMAGE,
        node("ConvTranspose", ["x", "w", "b"], strides=[2, 3], pads=[1, 0, 0, 2], output_padding=[1, 1]),
        [weight("w", 2, 3, 3, 3), weight("b", 3)],
    ),
    "resize to the nearest": (
        IMAGE,
        node("Resize", ["x", "", "s"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        [constant("s", [1, 1, 2, 1.5], np.float32)],
    ),
    "resize to the nearest by centres": (IMAGE, node("Resize", ["x", "", "", "t"]), [constant("t", [3, 2, 10, 4])]),
    "resize linearly": (
        IMAGE,
        node("Resize", ["x", "", "s"], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        [constant("s", [1, 1, 2, 2], np.float32)],
    ),
    "resize linearly, corners kept": (
        IMAGE,
        node("Resize", ["x", "", "s"], mode="linear", coordinate_transformation_mode="align_corners"),
        [constant("s", [1, 1, 2, 2], np.float32)],
    ),
    "lstm in both directions": (
        SIGNAL,
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
            helper.make_node("LSTM", ["t", "w", "r", "b"], ["h"], hidden_size=4, direction="bidirectional"),
            *node("Transpose", ["h"], perm=[2, 0, 1, 3]),
        ],
        [weight("w", 2, 16, 2), weight("r", 2, 16, 4), weight("b", 2, 32)],
    ),
    "gru with the reset after the product": (
        SIGNAL,
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
            helper.make_node("GRU", ["t", "w", "r", "b"], ["", "h"], hidden_size=4, linear_before_reset=1),
            *node("Squeeze", ["h", "zero"]),
        ],
        [weight("w", 1, 12, 2), weight("r", 1, 12, 4), weight("b", 1, 24), constant("zero", [0])],
    ),
    "gru with the reset before the product, backwards": (
        SIGNAL,
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
            helper.make_node("GRU", ["t", "w", "r", "b"], ["", "h"], hidden_size=4, direction="reverse"),
            *node("Squeeze", ["h", "zero"]),
        ],
        [weight("w", 1, 12, 2), weight("r", 1, 12, 4), weight("b", 1, 24), constant("zero", [0])],
    ),
    "weights of four bits in bytes": (
        VECTOR,
        HALVES,
        [
            numpy_helper.from_array(PACKED, "p"),
            constant("down", 1 / 16, np.float32),
            constant("up", 16, np.float32),
            constant("shape", [12, 4]),
            numpy_helper.from_array(RNG.random((1, 4)).astype(np.float16), "s"),
            weight("offset", 1, 4),
        ],
    ),
    "weights in half precision": (
        VECTOR,
        [helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT), *node("MatMul", ["x", "w"])],
        [numpy_helper.from_array(RNG.normal(size=(12, 3)).astype(np.float16), "h")],
    ),
    "weights in brain floats": (
        VECTOR,
        [helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT), *node("MatMul", ["x", "w"])],
        [helper.make_tensor("h", TensorProto.BFLOAT16, [12, 3], RNG.normal(size=36))],
    ),
    "weights of four bits in blocks": (
        VECTOR,
        [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0, block_size=4), *node("MatMul", ["x", "w"])],
        [
            narrow("q", TensorProto.INT4, RNG.integers(-8, 7, size=(12, 3))),
            weight("s", 3, 3),
            narrow("z", TensorProto.INT4, RNG.integers(-8, 7, size=(3, 3))),
        ],
    ),
    "weights of eight bits in blocks": (
        VECTOR,
        [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=4), *node("MatMul", ["x", "w"])],
        [integers("q", 12, 3), weight("s", 3, 3)],
    ),
    "activations of four bits": (
        VECTOR,
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), *node("DequantizeLinear", ["q", "s", "z"])],
        [constant("s", 0.2, np.float32), narrow("z", TensorProto.UINT4, 6)],
    ),
    "product in the short form": (
        VECTOR,
        [*QUANTISED, helper.make_node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["r"]), *BACK],
        [*SCALES, integers("w", 12, 3), constant("ws", [0.002, 0.003, 0.004], np.float32), constant("wz", [0, 0, 0], np.int8)],
    ),
    "convolution in the short form": (
        IMAGE,
        [
            *QUANTISED,
            helper.make_node(
                "QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["r"], pads=[1, 1, 0, 0], strides=[2, 1]
            ),
            *BACK,
        ],
        [
            *SCALES,
            integers("w", 3, 2, 3, 3),
            constant("ws", [0.002, 0.003, 0.004], np.float32),
            constant("wz", [0, 0, 0], np.int8),
            constant("b", [900, -700, 30], np.int32),
        ],
    ),
    "values moved as integers": (
        IMAGE,
        [
            *QUANTISED,
            helper.make_node("MaxPool", ["q"], ["m"], kernel_shape=[2, 2]),
            helper.make_node("Flatten", ["m"], ["f"]),
            helper.make_node("DequantizeLinear", ["f", "xs", "xz"], ["y"]),
        ],
        SCALES[:2],
    ),
    "product with a dynamic range": (
        VECTOR,
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["s", "ws"], ["t"]),
            *node("Mul", ["f", "t"]),
        ],
        [integers("w", 12, 3), constant("ws", [0.002, 0.003, 0.004], np.float32), constant("wz", [1, -2, 3], np.int8)],
    ),
    "convolution with a dynamic range": (
        IMAGE,
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("ConvInteger", ["q", "w", "z"], ["i"], pads=[1, 1, 1, 1]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            *node("Mul", ["f", "s"]),
        ],
        [integers("w", 3, 2, 3, 3)],
    ),
    "tokens with a dynamic range": (
        TOKENS,
        [
            helper.make_node("Reshape", ["x", "flat"], ["rows"]),
            helper.make_node("DynamicQuantizeLinear", ["rows"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "s"], ["m"]),
            *node("Reshape", ["m", "back"]),
        ],
        [constant("flat", [-1, 8]), integers("w", 8, 3), constant("back", [-1, 5, 3])],
    ),
}
ONE_INPUT = {
    **{op: {} for op in ("Sin", "Cos", "Reciprocal", "Softsign", "Mish", "Abs", "Neg", "Exp", "Softplus", "Erf", "Identity")},
    "Gelu": {"approximate": "tanh"},
    "ReduceMin": {"keepdims": 0},
    "ReduceL2": {"keepdims": 1},
    "ReduceSumSquare": {"keepdims": 1},
}
FORMS |= {
    f"{op} alone": (VECTOR, [*node(op, ["x", "last"] if op.startswith("Reduce") else ["x"], **more)], [constant("last", [1])])
    for op, more in ONE_INPUT.items()
}
FORMS |= {
    f"{op} as a mask": (
        VECTOR,
        [helper.make_node(op, ["x", "half"], ["c"]), *node("Cast", ["c"], to=TensorProto.FLOAT)],
        [constant("half", 0.5, np.float32)],
    )
    for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
}
FORMS |= {
    "masks joined": (
        VECTOR,
        [
            helper.make_node("Less", ["x", "half"], ["a"]),
            helper.make_node("IsNaN", ["x"], ["nan"]),
            helper.make_node("Not", ["nan"], ["b"]),
            helper.make_node("And", ["a", "b"], ["c"]),
            helper.make_node("Or", ["c", "nan"], ["d"]),
            *node("Cast", ["d"], to=TensorProto.FLOAT),
        ],
        [constant("half", 0.5, np.float32)],
    ),
    "causal mask by an exporter": (
        [None, 5, 5],
        [
            helper.make_node("ConstantOfShape", ["size"], ["full"], value=constant("", [-3.0], np.float32)),
            helper.make_node("Trilu", ["full", "one"], ["upper"]),
            *node("Add", ["x", "upper"]),
        ],
        [constant("size", [5, 5]), constant("one", 1)],
    ),
    "positions counted and repeated": (
        [None, 5, 8],
        [
            helper.make_node("Range", ["zero", "five", "one"], ["r"]),
            helper.make_node("Unsqueeze", ["r", "last"], ["column"]),
            helper.make_node("Tile", ["column", "times"], ["t"]),
            *node("Add", ["x", "t"]),
        ],
        [
            constant("zero", 0, np.float32),
            constant("five", 5, np.float32),
            constant("one", 1, np.float32),
            constant("last", [1]),
            constant("times", [1, 8]),
        ],
    ),
    "channels into pixels": ([None, 8, 3, 2], node("DepthToSpace", ["x"], blocksize=2), []),
    "channels into pixels, by columns": ([None, 8, 3, 2], node("DepthToSpace", ["x"], blocksize=2, mode="CRD"), []),
}
TAKES_ROUNDING_OF_ONE_STEP = {"product in the short form", "convolution in the short form"}


def model_of(shape: list[int | None], nodes: list[Any], weights: list[Any], *, opset: int = 21, foreign: bool = False) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("com.microsoft", 1)] if foreign else [])]
    data: bytes = helper.make_model(made, opset_imports=imports, ir_version=10).SerializeToString()
    return data


def runtime_rows(data: bytes, x: Any, features: tuple[str, ...] = ()) -> Any:
    """Each record alone, as the device runs it."""
    with open_session(check_model(data, features=features, where="test")) as session:
        return np.concatenate([session.run({"x": x[index : index + 1]})["y"] for index in range(len(x))])


def rows(shape: list[int | None]) -> Any:
    sizes = [4, *[size for size in shape[1:] if size is not None]]
    spread = np.array([1.0, 0.1, 3.0, 0.5], dtype=np.float32).reshape(-1, *[1] * (len(sizes) - 1))  # a range for each record
    return (RNG.normal(size=sizes) * spread).astype(np.float32)


def bridged(data: bytes, x: Any) -> Any:
    return TorchProgram(parse_graph(data), wanted=("y",))(torch.from_numpy(x))[0].numpy()


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_a_whole_batch_computes_what_the_runtime_computes_for_each_record(name: str) -> None:
    shape, nodes, weights = FORMS[name]
    data, x = model_of(shape, nodes, weights), rows(shape)
    if name == "resize to the nearest by centres":
        x = x[:3]
        with open_session(check_model(data, where="test")) as session:
            expected = session.run({"x": x})["y"]
    else:
        expected = runtime_rows(data, x)
    actual = bridged(data, x)
    assert actual.shape == expected.shape
    gaps = np.abs(actual - expected)
    largest = max(1.0, float(np.abs(expected).max()))
    if name in TAKES_ROUNDING_OF_ONE_STEP:  # the runtime rounds a tie of its own product the other way
        assert gaps.max() <= 0.0701
        assert (gaps > 1e-4).mean() < 0.01
    else:
        assert gaps.max() <= 1e-5 * largest


def test_the_document_names_every_operator_of_the_bridge_and_no_other() -> None:
    section = (ROOT / "docs/audit-method.md").read_text().split("## Operators")[1].split("\n## ")[0]
    named = set(re.findall(r"`([A-Z][A-Za-z0-9]+)`", section))
    assert named == supported_operators() | {"Constant", "QLinearConv", "QLinearMatMul", "MatMulNBits"}


@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_the_foreign_domain_are_taken_apart(bits: int) -> None:
    weights = [integers("w", 3, 2, 16 * bits // 8, dtype=np.uint8), weight("s", 6)]
    nodes = [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=3, bits=bits, block_size=16)]
    data, x = model_of([None, 32], nodes, weights, foreign=True), rows([None, 32])
    expected = runtime_rows(data, x, ("domain:com.microsoft",))
    np.testing.assert_allclose(bridged(data, x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_products_of_the_foreign_domain_with_zero_points_are_refused() -> None:
    weights = [integers("w", 3, 2, 8, dtype=np.uint8), weight("s", 6), integers("z", 3, dtype=np.uint8)]
    nodes = [helper.make_node("MatMulNBits", ["x", "w", "s", "z"], ["y"], domain="com.microsoft", K=32, N=3, bits=4, block_size=16)]
    with pytest.raises(BridgeError, match="MatMulNBits with zero points"):
        parse_graph(model_of([None, 32], nodes, weights, foreign=True))


@pytest.mark.parametrize("name", ["floor", "ceil", "round"])
def test_a_gradient_passes_rounding_as_if_nothing_was_rounded(name: str) -> None:
    np.testing.assert_allclose(gradient_of(FORMS[name]), 2.5 if name == "round" else 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        pytest.param("product with a dynamic range", "ws", id="product"),
        pytest.param("tokens with a dynamic range", None, id="tokens"),
    ],
)
def test_the_gradient_of_a_dynamic_product_is_that_of_its_weights(name: str, factor: str | None) -> None:
    form = FORMS[name]
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in form[2]}
    weights = (arrays["w"] - arrays.get("wz", 0.0)) * (arrays[factor] if factor else 1.0)
    gradient = gradient_of(form)
    np.testing.assert_allclose(gradient, np.broadcast_to(weights.sum(axis=1), gradient.shape), rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_product_in_the_short_form_stops_at_the_range_only() -> None:
    shape, nodes, weights = FORMS["product in the short form"]
    program = TorchProgram(parse_graph(model_of(shape, nodes, weights)), wanted=("y",))
    x = torch.full((1, 12), 0.02, requires_grad=True)
    (gradient,) = torch.autograd.grad(program(x)[0].sum(), x)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in weights}
    np.testing.assert_allclose(gradient[0].numpy(), (arrays["w"] * arrays["ws"]).sum(axis=1), rtol=1e-4, atol=1e-5)
    beyond = torch.full((1, 12), 99.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(program(beyond)[0].sum(), beyond)
    assert gradient.abs().max() == 0


def test_a_record_does_not_depend_on_its_batch_mates() -> None:
    shape, nodes, weights = FORMS["convolution with a dynamic range"]
    program, x = TorchProgram(parse_graph(model_of(shape, nodes, weights)), wanted=("y",)), torch.from_numpy(rows(IMAGE))
    together = program(x)[0]
    assert all(torch.allclose(program(x[index : index + 1])[0][0], together[index], atol=1e-3) for index in range(len(x)))
    assert torch.allclose(program(torch.cat([x[:1], 100 * x[1:]]))[0][0], together[0], atol=1e-3)


def test_a_record_of_zeros_has_a_scale() -> None:
    shape, nodes, weights = FORMS["product with a dynamic range"]
    data, x = model_of(shape, nodes, weights), np.zeros((2, 12), dtype=np.float32)
    np.testing.assert_array_equal(bridged(data, x), runtime_rows(data, x))


def test_the_tap_of_a_short_form_is_the_sum_before_its_quantiser() -> None:
    shape, nodes, weights = FORMS["product in the short form"]
    tail = [*nodes[:-1], helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["z"]), *node("Softmax", ["z"])]
    graph = parse_graph(model_of(shape, tail, weights))
    tap = find_tap(graph, output="y")
    assert tap.cut == ("QuantizeLinear", "DequantizeLinear", "Softmax")
    producer = graph.producer(tap.logits)
    assert producer is not None
    assert producer.op == "MatMul"
    program = TorchProgram(graph, wanted=("y", tap.logits))
    output, logits = program(torch.from_numpy(rows(shape)))
    torch.testing.assert_close(torch.softmax(logits.clamp(-8.4, 9.4), dim=1), output, atol=0.05, rtol=0)


def test_integers_that_were_moved_are_not_taken_for_scores() -> None:
    shape, nodes, weights = FORMS["values moved as integers"]
    graph = parse_graph(
        model_of(
            shape, [*nodes[:-1], helper.make_node("DequantizeLinear", ["f", "xs", "xz"], ["z"]), *node("Softmax", ["z"])], weights
        )
    )
    assert find_tap(graph, output="y").logits == "z"


def test_an_unusual_recurrent_layer_is_refused() -> None:
    shape, nodes, weights = FORMS["gru with the reset after the product"]
    changed = onnx.NodeProto()
    changed.CopyFrom(nodes[1])
    changed.attribute.append(helper.make_attribute("clip", 1.0))
    program = TorchProgram(parse_graph(model_of(shape, [nodes[0], changed, nodes[2]], weights)), wanted=("y",))
    with pytest.raises(BridgeError, match="GRU with unusual activations or clip"):
        program(torch.from_numpy(rows(shape)))


def gradient_of(form: Graph) -> Any:
    shape, nodes, weights = form
    x = torch.from_numpy(rows(shape)).requires_grad_()
    program = TorchProgram(parse_graph(model_of(shape, nodes, weights)), wanted=("y",))
    (gradient,) = torch.autograd.grad(program(x)[0].sum(), x)
    return gradient.numpy()
