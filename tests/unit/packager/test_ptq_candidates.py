"""The sensitivity table, and the list of recipes that a search begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from device_client.errors import UsageError
from packager.ptq.candidates import TARGETS, candidates, network_kind, refine
from packager.ptq.sensitivity import sensitivity
from packager.ptq.static import Int8Static, quantise_int8_static
from packager.ptq.weight_only import WeightOnly
from packager.technique import Compressed, TechniqueContext, TechniqueStep, apply_technique

from .models import convnet, graph, mlp, rows
from .test_ptq_equalise import normalised
from .test_ptq_static import dataset, noise, prepared, residual
from .test_ptq_weights import recurrent


def fragile(folder: Path) -> bytes:
    """A chain of four products whose third has one huge input feature, so that its other features lose their precision."""
    rng = np.random.default_rng(0)
    constants = {f"w{index}": rng.standard_normal((32, 32)) / 6 for index in range(4)}
    constants["w1"][:, 5] *= 300
    constants["w2"][5] /= 300
    nodes = []
    for index in range(4):
        nodes.append(helper.make_node("MatMul", ["x" if index == 0 else f"a{index}", f"w{index}"], [f"h{index + 1}"]))
        nodes.append(helper.make_node("LeakyRelu", [f"h{index + 1}"], ["y" if index == 3 else f"a{index + 1}"]))
    return prepared(folder, graph(nodes, constants, x=["N", 32], y=["N", 32]))


def test_the_table_names_the_node_whose_exclusion_helps_most(tmp_path: Path) -> None:
    model, x = fragile(tmp_path), dataset(rows(32, (32,)) - 0.5)
    config = Int8Static(ops=("MatMul",), float_outputs=True)
    table = sensitivity(model, config, x)
    assert len(table) == 4
    assert [row.sqnr_db for row in table] == sorted(row.sqnr_db for row in table)
    left = {}
    for row in table:
        result = quantise_int8_static(model, replace(config, exclude_nodes=row.nodes), x)
        left[row.nodes] = noise(model, result.data, x.inputs["x"])
    assert min(left, key=lambda nodes: left[nodes]) == table[0].nodes
    assert table[0].sqnr_db < table[1].sqnr_db - 6


def test_the_table_gives_the_same_figures_twice(tmp_path: Path) -> None:
    model, x = prepared(tmp_path, residual()), dataset(rows(16, (1, 8, 8)))
    assert sensitivity(model, Int8Static(), x) == sensitivity(model, Int8Static(), x)


def test_the_worst_nodes_are_left_out_one_two_and_more(tmp_path: Path) -> None:
    model, x = fragile(tmp_path), dataset(rows(32, (32,)) - 0.5)
    steps = next(
        item for item in candidates(model, has_train=True, task="regression", target="portable") if item[-1].name == "int8-static"
    )
    table = sensitivity(model, steps[-1].config, x)
    refined = refine(steps, table)
    assert [len(item[-1].config.exclude_nodes) for item in refined][:2] == [1, 2]
    assert refined[0][-1].config.exclude_nodes == table[0].nodes
    assert refine((), table) == []


def test_the_worst_layers_of_four_bits_get_eight(tmp_path: Path) -> None:
    model, x = fragile(tmp_path), dataset(rows(32, (32,)) - 0.5)
    steps = (TechniqueStep("weight-only", WeightOnly(bits=4)),)
    table = sensitivity(model, Int8Static(), x, weight_bits=4)
    assert {row.operators for row in table} == {("MatMul",)}
    errors, sizes = [], []
    for recipe in (steps, *refine(steps, table)):
        result = Compressed(model, "fp32")
        for step in recipe:
            result = apply_technique(step, result, TechniqueContext(calibration=x))
        errors.append(noise(model, result.data, x.inputs["x"]))
        sizes.append(len(result.data))
    assert len(errors) >= 3
    assert errors[1] < 0.8 * errors[0]
    assert sizes == sorted(sizes)
    assert sizes[-1] < len(model)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(convnet, "convolutional", id="convolutions"),
        pytest.param(mlp, "perceptron", id="perceptron"),
        pytest.param(normalised, "attention", id="normalised"),
        pytest.param(recurrent, "recurrent", id="LSTM"),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_each_kind_of_network_gets_its_list(make: Any, kind: str, target: str) -> None:
    data = make()
    assert network_kind(onnx.load_from_string(data)) == kind
    found = candidates(data, has_train=False, task="classification", target=target)
    assert 5 <= len(found) <= 14
    assert len(set(found)) == len(found)
    assert found == candidates(data, has_train=False, task="classification", target=target)
    ranges = {step.config.reduce_range for steps in found for step in steps if hasattr(step.config, "reduce_range")}
    assert ranges <= {target == "portable"}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: residual(channels=16), (1, 8, 8), id="convolutions"),
        pytest.param(lambda: mlp(features=32, hidden=64), (32,), id="perceptron"),
        pytest.param(normalised, (16,), id="normalised"),
    ],
)
def test_most_recipes_of_the_list_work_and_the_first_keeps_the_output(tmp_path: Path, make: Any, shape: tuple[int, ...]) -> None:
    model, x = prepared(tmp_path, make()), rows(64, shape) - 0.5
    context = TechniqueContext(calibration=dataset(x))
    errors = []
    for steps in candidates(model, has_train=True, task="regression", target="portable"):
        result = Compressed(model, "fp32")
        try:
            for step in steps:
                result = apply_technique(step, result, context)
        except UsageError as e:  # a recipe that finds nothing to do says so
            if not e.code.endswith("_nothing"):
                raise
            continue
        errors.append(noise(model, result.data, x))
    assert len(errors) >= 4
    assert errors[0] < 0.02  # what is expected to be best is good
    assert float(np.median(errors)) < 0.02
