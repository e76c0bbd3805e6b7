"""Size arithmetic becomes constants where only the batch is dynamic, and stays where numbers decide a size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from device_client.inference.session import open_session
from packager.features import check_own
from packager.prepare import prepare_onnx
from packager.reshapes import constant_sizes
from packager.shrink import shrink_model

from .models import op_types
from .networks import constant, finished, value


def run(data: bytes, x: Any) -> Any:
    with open_session(check_own(data)) as session:
        return session.run({"x": x})["y"]


def heads(sizes: list[int | str], *, name: str = "y", rank: int = 4) -> bytes:
    """x (N, 4, 6) -> Reshape to sizes that are computed, N among them -> Relu -> y."""
    parts = [[f"size{index}"] if size == "N" else [f"c{index}"] for index, size in enumerate(sizes)]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        *(helper.make_node("Mul", ["n", "one"], [part[0]]) for part, size in zip(parts, sizes, strict=True) if size == "N"),
        helper.make_node("Concat", [part[0] for part in parts], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["r"]),
        helper.make_node("Relu", ["r"], [name]),
    ]
    numbers = [constant(f"c{index}", [size], np.int64) for index, size in enumerate(sizes) if size != "N"]
    constants = [constant("zero", [0], np.int64), constant("one", [1], np.int64), *numbers]
    output = value(name, [f"d{index}" for index in range(rank)])
    return finished(helper.make_graph(nodes, "g", [value("x", ["N", 4, 6])], [output], constants))


def row() -> dict[str, Any]:
    return {"x": np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)}


def test_a_reshape_whose_only_varying_size_is_the_batch_has_constant_sizes() -> None:
    source = heads(["N", 4, 2, 3])
    plain = shrink_model(constant_sizes(source, row()))
    assert op_types(plain) == ["Reshape", "Relu"]
    x = np.random.default_rng(1).standard_normal((7, 4, 6)).astype(np.float32)
    assert np.array_equal(run(plain, x), run(source, x))


def test_a_size_that_is_left_over_is_kept_beside_the_batch() -> None:
    source = heads(["N", 2, -1], rank=3)
    prepared = prepare_onnx(source, where="model").model
    assert op_types(prepared.data) == ["Reshape", "Relu"]
    assert [spec.shape for spec in prepared.outputs] == [("N", 2, 12)]
    x = np.random.default_rng(1).standard_normal((5, 4, 6)).astype(np.float32)
    assert np.array_equal(run(prepared.data, x), run(source, x))


def test_two_varying_sizes_stay_as_they_are() -> None:
    source = heads(["N", -1, "N"], rank=3)
    x = np.ones((2, 4, 6), np.float32)
    assert np.array_equal(run(constant_sizes(source, row()), x), run(source, x))
    assert "Shape" in op_types(constant_sizes(source, row()))


def test_a_size_that_follows_from_numbers_is_never_a_constant() -> None:
    """How many numbers of the first row are positive does not change with the batch, and yet is no constant."""
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["row"], axis=0),
        helper.make_node("Greater", ["row", "zero"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["where"]),
        helper.make_node("Shape", ["where"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    constants = [constant("zero", 0.0), constant("first", 0, np.int64)]
    source = finished(helper.make_graph(nodes, "g", [value("x", ["N", 6])], [value("y", ["N", 6])], constants))
    assert constant_sizes(source, {"x": np.ones((1, 6), np.float32)}) is source


def test_the_sum_of_sizes_becomes_a_number_where_the_batch_is_not_in_it() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1),
        helper.make_node("ReduceSum", ["shape"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    source = finished(helper.make_graph(nodes, "g", [value("x", ["N", 6])], [value("y", ["N", 6])]))
    plain = constant_sizes(source, {"x": np.ones((1, 6), np.float32)})
    assert op_types(plain) == ["Mul"]
    assert run(plain, np.ones((1, 6), np.float32)).tolist() == [[6.0] * 6]


def test_an_initial_state_of_zeros_goes_and_any_other_stays() -> None:
    rng = np.random.default_rng(0)
    weights = [constant("w", rng.standard_normal((1, 12, 5))), constant("r", rng.standard_normal((1, 12, 3)))]
    for fill, left in ((0.0, ["LSTM"]), (0.5, ["ConstantOfShape", "LSTM"])):
        nodes = [
            helper.make_node("ConstantOfShape", ["s"], ["h"], value=helper.make_tensor("", TensorProto.FLOAT, [1], [fill])),
            helper.make_node("LSTM", ["x", "w", "r", "", "", "h", "h"], ["", "y"], hidden_size=3),
        ]
        constants = [*weights, constant("s", [1, 1, 3], np.int64)]
        source = finished(helper.make_graph(nodes, "g", [value("x", [4, 1, 5])], [value("y", [1, 1, 3])], constants))
        shrunk = shrink_model(source)
        assert op_types(shrunk) == left
        x = rng.standard_normal((4, 1, 5)).astype(np.float32)
        assert np.array_equal(run(shrunk, x), run(source, x))
        if fill:
            assert len(onnx.load_from_string(shrunk).graph.node[1].input) == 7


def test_a_stored_initial_state_counts_like_a_computed_one() -> None:
    rng = np.random.default_rng(0)
    weights = [constant("w", rng.standard_normal((1, 9, 5))), constant("r", rng.standard_normal((1, 9, 3)))]
    for fill, inputs in ((0.0, 3), (0.5, 6)):
        node = helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=3)
        constants = [*weights, constant("h", np.full((1, 1, 3), fill))]
        source = finished(helper.make_graph([node], "g", [value("x", [4, 1, 5])], [value("y", [1, 1, 3])], constants))
        shrunk = shrink_model(source)
        assert len(onnx.load_from_string(shrunk).graph.node[0].input) == inputs
        x = rng.standard_normal((4, 1, 5)).astype(np.float32)
        assert np.array_equal(run(shrunk, x), run(source, x))
