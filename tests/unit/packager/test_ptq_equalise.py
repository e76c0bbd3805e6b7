"""Evening out channels and outliers: exact before quantisation, closer after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from device_client.errors import UsageError
from packager.ptq.channel_groups import channel_groups
from packager.ptq.equalise import Equalise, equalise
from packager.ptq.graph import GraphView, name_nodes
from packager.ptq.smooth import Smooth, smooth
from packager.ptq.static import Int8Static, quantise_int8_static

from .models import graph, mlp, op_types, rows
from .test_ptq_static import dataset, noise, prepared, residual, run


@pytest.mark.parametrize("config", [Equalise(), Equalise(by="weights"), Equalise(strength=1.0)])
def test_the_output_stays_as_it_was(tmp_path: Path, config: Equalise) -> None:
    model, x = prepared(tmp_path, residual(uneven=True)), rows(32, (1, 8, 8))
    result = equalise(model, config, dataset(x))
    assert np.abs(run(model, x) - run(result.data, x)).max() < 1e-4 * np.abs(run(model, x)).max()
    assert result.data != model
    assert op_types(result.data) == op_types(model)  # ids of nodes stay the same


@pytest.mark.parametrize("config", [Equalise(), Equalise(by="weights")])
def test_uneven_channels_lose_less_when_quantised(tmp_path: Path, config: Equalise) -> None:
    model, x = prepared(tmp_path, residual(uneven=True)), rows(64, (1, 8, 8))
    plain = quantise_int8_static(model, Int8Static(), dataset(x)).data
    evened = quantise_int8_static(equalise(model, config, dataset(x)).data, Int8Static(), dataset(x)).data
    assert noise(model, evened, x) < 0.5 * noise(model, plain, x)


def test_a_trunk_with_its_branches_is_one_group(tmp_path: Path) -> None:
    model = onnx.load_from_string(prepared(tmp_path, residual()))
    name_nodes(model)
    groups = channel_groups(GraphView(model))
    assert sorted((len(group.makers), len(group.readers)) for group in groups) == [(1, 1), (2, 2)]


def test_a_value_that_the_caller_reads_is_not_scaled() -> None:
    model = onnx.load_from_string(mlp())
    model.graph.output.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 16]))
    name_nodes(model)
    assert channel_groups(GraphView(model)) == ()


@pytest.mark.parametrize("between", ["Sigmoid", "Tanh", "Softmax"])
def test_layers_with_a_bend_between_them_are_refused(tmp_path: Path, between: str) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((6, 6)), "v": np.random.default_rng(1).standard_normal((6, 6))}
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node(between, ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["y"]),
    ]
    with pytest.raises(UsageError) as caught:
        equalise(prepared(tmp_path, graph(nodes, constants, x=["N", 6], y=["N", 6])), Equalise(), dataset(rows(4)))
    assert caught.value.code == "equalise_nothing"


def normalised(*, decomposed: bool = False) -> bytes:
    """x (N, 16) -> normalisation with outliers in two features -> two products -> sum."""
    rng = np.random.default_rng(0)
    gamma = np.ones(16)
    gamma[[3, 11]] = 60.0
    weights = rng.standard_normal((2, 16, 8))
    weights[:, [3, 11]] /= 60
    constants: dict[str, Any] = {"gamma": gamma, "beta": rng.standard_normal(16) / 10, "w": weights[0], "v": weights[1]}
    if decomposed:
        nodes = [helper.make_node("Mul", ["x", "gamma"], ["m"]), helper.make_node("Add", ["m", "beta"], ["n"])]
    else:
        nodes = [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], axis=-1)]
    nodes += [
        helper.make_node("MatMul", ["n", "w"], ["a"]),
        helper.make_node("MatMul", ["n", "v"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    return graph(nodes, constants, x=["N", 16], y=["N", 8])


@pytest.mark.parametrize("decomposed", [False, True])
def test_smoothing_keeps_the_output_and_makes_int8_closer(decomposed: bool) -> None:
    model, x = normalised(decomposed=decomposed), rows(64, (16,)) - 0.5
    result = smooth(model, Smooth(), dataset(x))
    assert result.places == 1
    assert np.abs(run(model, x) - run(result.data, x)).max() < 1e-4 * np.abs(run(model, x)).max()
    config = Int8Static(ops=("MatMul",), float_outputs=True)
    plain = quantise_int8_static(model, config, dataset(x)).data
    smoothed = quantise_int8_static(result.data, config, dataset(x)).data
    assert noise(model, smoothed, x) < 0.3 * noise(model, plain, x)


def test_a_normalisation_that_something_else_reads_is_left_alone() -> None:
    model = onnx.load_from_string(normalised())
    model.graph.node.append(helper.make_node("Identity", ["n"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 16]))
    with pytest.raises(UsageError) as caught:
        smooth(model.SerializeToString(), Smooth(), dataset(rows(4, (16,))))
    assert caught.value.code == "smooth_nothing"


def test_constants_that_two_normalisations_share_are_parted() -> None:
    constants = {"gamma": np.linspace(1, 9, 16), "beta": np.zeros(16), "w": np.eye(16), "v": np.eye(16) * 3}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w"], ["a"]),
        helper.make_node("LayerNormalization", ["a", "gamma", "beta"], ["m"], axis=-1),
        helper.make_node("MatMul", ["m", "v"], ["y"]),
    ]
    model, x = graph(nodes, constants, x=["N", 16], y=["N", 16]), rows(16, (16,))
    result = smooth(model, Smooth(), dataset(x))
    assert result.places == 2
    assert np.abs(run(model, x) - run(result.data, x)).max() < 1e-4 * np.abs(run(model, x)).max()
