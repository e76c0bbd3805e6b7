from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from packager.data import Dataset
from packager.load import load_model
from packager.ptq.graph import GraphView, layers, name_nodes
from packager.ptq.moments import second_moments, to_matrices
from packager.ptq.rounding import Grid, output_error, round_weights

from .models import graph, rows, write


def problem() -> tuple[Any, Any, Any]:
    """Weights, a coarse grid, and moments of inputs that depend on each other, as those of real layers do."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 24)) + rng.standard_normal((400, 24)) * 0.05
    weights = rng.standard_normal((8, 24))
    step = np.abs(weights).max(axis=1, keepdims=True) / 7
    return weights, Grid(step, np.zeros(()), -7, 7), inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize(("method", "share"), [("gptq", 0.5), ("adaround", 0.7)])
def test_the_layer_output_is_closer_than_with_nearest_rounding(method: str, share: float) -> None:
    weights, grid, moments = problem()
    nearest = round_weights(weights, grid, None, method="nearest")
    better = round_weights(weights, grid, moments, method=method)
    assert output_error(weights, better, grid, moments).sum() < share * output_error(weights, nearest, grid, moments).sum()
    assert np.all(output_error(weights, better, grid, moments) <= output_error(weights, nearest, grid, moments))
    assert np.abs(better).max() <= 7


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_inputs_that_never_vary_leave_nearest_rounding(method: str) -> None:
    weights, grid, _ = problem()
    moments = np.zeros((24, 24))
    assert np.array_equal(
        round_weights(weights, grid, moments, method=method), round_weights(weights, grid, None, method="nearest")
    )


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_rounding_twice_gives_the_same_integers(method: str) -> None:
    weights, grid, moments = problem()
    assert np.array_equal(
        round_weights(weights, grid, moments, method=method), round_weights(weights, grid, moments, method=method)
    )


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        pytest.param((4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, id="plain"),
        pytest.param((6, 1, 3, 3), {"group": 3, "strides": [2, 2]}, id="two filters per group, strided"),
        pytest.param((4, 3, 2, 2), {"dilations": [2, 2], "pads": [0, 1, 1, 0]}, id="dilated, uneven padding"),
        pytest.param((4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, id="padded by rule"),
    ],
)
def test_a_convolution_is_its_matrix_times_its_patches(weight: Any, attributes: dict[str, Any]) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal(weight)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)]
    data = graph(nodes, constants, x=["N", 3, 7, 7], y=["N", weight[0], "h", "v"])
    model = onnx.load_from_string(data)
    name_nodes(model)
    view = GraphView(model)
    (layer,) = layers(view)
    x = rows(5, (3, 7, 7)) - 0.5
    moments = second_moments(model, [layer], Dataset({"x": x}, None, None, None, "test"))["w"]
    matrices = to_matrices(layer, view.array("w"))
    assert matrices is not None
    energy = np.einsum("grk,gkl,grl->gr", matrices, moments, matrices).reshape(-1)
    from onnx.reference import ReferenceEvaluator

    y = ReferenceEvaluator(model).run(None, {"x": x})[0].astype(np.float64)
    assert energy == pytest.approx(np.square(y).sum(axis=(0, 2, 3)) / len(x), rel=1e-4)


def test_a_gemm_is_its_matrix_times_its_rows(tmp_path: Path) -> None:
    from .models import mlp

    model = onnx.load_from_string(load_model(write(tmp_path, mlp()), seed=0, example=dict).model.data)
    name_nodes(model)
    view = GraphView(model)
    first = layers(view)[0]
    x = rows(16)
    moments = second_moments(model, [first], Dataset({"x": x}, None, None, None, "test"))[first.weight][0]
    assert moments == pytest.approx(x.T.astype(np.float64) @ x / 16, rel=1e-5)
