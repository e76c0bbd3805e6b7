from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.ptq.saturation import is_saturation_safe, worst_pair_sum

HALF = np.array([[64, 64, -64, -64]], dtype=np.int8)
FULL = np.array([[127, 127, 0, 0]], dtype=np.int8)


def model(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        initializer=[numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    data: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return data


def form(name: str, weights: Any, *, zero: Any = None, before: str = "") -> bytes:
    """The product of four inputs with ``weights`` (1, 4) in one of the forms that integer arithmetic takes."""
    constants: dict[str, Any] = {
        "s": np.float32(0.004),
        "z": np.uint8(0) if zero is None else zero,
        "w": weights.T,
        "ws": np.float32(0.1),
        "wz": np.int8(0),
    }
    source = [helper.make_node(before, ["x"], ["v"])] if before else [helper.make_node("Identity", ["x"], ["v"])]
    quantise = [helper.make_node("QuantizeLinear", ["v", "s", "z"], ["q"])]
    pair = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"]), helper.make_node("DequantizeLinear", ["w", "ws"], ["b"])]
    forms = {
        "pair": [*quantise, *pair, helper.make_node("MatMul", ["a", "b"], ["y"])],
        "QLinearMatMul": [
            *quantise,
            helper.make_node("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "s", "z"], ["o"]),
            helper.make_node("DequantizeLinear", ["o", "s", "z"], ["y"]),
        ],
        "MatMulInteger": [*quantise, helper.make_node("MatMulInteger", ["q", "w"], ["y"])],
        "float weights": [
            helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "ws"], ["b"]),
            helper.make_node("MatMul", ["v", "b"], ["y"]),
        ],
        "pair of weights alone": [pair[1], helper.make_node("MatMul", ["v", "b"], ["y"])],
    }
    return model([*source, *forms[name]], constants)


@pytest.mark.parametrize("name", ["pair", "QLinearMatMul", "MatMulInteger", "pair of weights alone"])
def test_two_full_weights_of_one_channel_are_found_in_every_form(name: str) -> None:
    assert worst_pair_sum(form(name, FULL)) == 255 * 254
    assert not is_saturation_safe(form(name, FULL))
    assert worst_pair_sum(form(name, HALF)) == 255 * 128
    assert is_saturation_safe(form(name, HALF))


def test_weights_that_become_fp32_cannot_overflow() -> None:
    assert worst_pair_sum(form("float weights", FULL)) == 0


def test_one_full_weight_between_small_ones_is_safe() -> None:
    assert is_saturation_safe(form("pair", np.array([[127, 1, -128, 0]], dtype=np.int8)))
    assert not is_saturation_safe(form("pair", np.array([[127, 2, -126, 0]], dtype=np.int8)))
    assert not is_saturation_safe(form("pair", np.array([[-127, -2, 0, 0]], dtype=np.int8)))


def test_two_full_weights_of_different_channels_are_safe() -> None:
    assert is_saturation_safe(form("pair", np.array([[127, 0, 0, 0], [0, 127, 0, 0]], dtype=np.int8)))


def test_signed_activations_are_held_to_the_same_bound() -> None:
    assert not is_saturation_safe(form("pair", FULL, zero=np.int8(0)))


def test_an_activation_that_ends_at_one_counts_with_its_largest_integer() -> None:
    assert worst_pair_sum(form("pair", FULL, before="Sigmoid")) == 250 * 254  # 1 / 0.004


def test_weights_of_a_depthwise_convolution_count() -> None:
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(0),
        "w": np.full((4, 1, 3, 3), 127, np.int8),
        "ws": np.float32(0.1),
        "wz": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z"], ["o"], group=4),
        helper.make_node("DequantizeLinear", ["o", "s", "z"], ["y"]),
    ]
    assert not is_saturation_safe(model(nodes, constants))


def test_a_model_without_integers_is_safe() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    assert is_saturation_safe(model(nodes, {"w": np.full((4, 1), 9.0, dtype=np.float32)}))
    assert onnx.load_from_string(form("pair", FULL)).graph.node
