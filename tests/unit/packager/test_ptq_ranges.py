from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from packager.data import Dataset
from packager.ptq.ranges import METHODS, Histogram, clip, find_ranges

from .models import graph, rows


def histogram(values: Any) -> Histogram:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(low, high, np.histogram(values, bins=2048, range=(low, high))[0].astype(np.float64))


def squared_error(values: Any, low: float, high: float) -> float:
    step = (high - low) / 255
    return float(np.square(np.clip(np.rint((values - low) / step), 0, 255) * step + low - values).mean())


def ranges(nodes: list[Any], x: Any, names: list[str], *, method: str = "minmax") -> dict[str, tuple[float, float]]:
    model = onnx.load_from_string(graph(nodes, {}, x=["N", 6], y=["N", 6]))
    return find_ranges(model, names, Dataset({"x": x}, None, None, None, "test"), method=method, percentile=99.9)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_single_outlier_does_not_set_the_step_of_a_hundred_thousand_values(method: str) -> None:
    values = np.concatenate([np.random.default_rng(0).standard_normal(100_000), [60.0]])
    low, high = clip(histogram(values), method=method, percentile=99.9)
    assert 2.5 < high < 30
    assert squared_error(values[:-1], low, high) < 0.5 * squared_error(values[:-1], float(values.min()), 60.0)


def test_the_squared_error_range_is_better_than_any_other_method_in_its_own_measure() -> None:
    values = np.random.default_rng(1).laplace(size=50_000)
    found = {name: clip(histogram(values), method=name, percentile=99.9) for name in ("percentile", "entropy", "mse")}
    errors = {name: squared_error(values, *ends) for name, ends in found.items()}
    assert errors["mse"] <= min(errors.values()) * 1.05  # the histogram's bins stand for the values
    assert errors["mse"] < squared_error(values, float(values.min()), float(values.max()))


@pytest.mark.parametrize("method", METHODS)
def test_zero_always_has_a_level_and_constant_values_have_no_width(method: str) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    found = ranges(nodes, np.full((8, 6), 3.25, dtype=np.float32), ["x", "y"], method=method)
    assert found["x"][0] == 0.0
    assert found["x"][1] == pytest.approx(3.25)
    assert ranges(nodes, np.zeros((8, 6), dtype=np.float32), ["x"], method=method)["x"] == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_get_a_step_of_exactly_one(method: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 240, (64, 6)).astype(np.float32)
    found = ranges([helper.make_node("Neg", ["x"], ["y"])], pixels, ["x", "y"], method=method)
    assert found["x"] == (0.0, 255.0)
    assert found["y"][1] - found["y"][0] == 255.0


def test_a_summand_before_a_relu_is_cut_where_it_cannot_change_the_result() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["small"]),
        helper.make_node("Mul", ["x", "ten"], ["large"]),
        helper.make_node("Add", ["small", "large"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    x = rows(32) * 4 - 2
    model = onnx.load_from_string(graph(nodes, {"ten": np.array(10.0)}, x=["N", 6], y=["N", 6]))
    data = Dataset({"x": x}, None, None, None, "test")
    found = find_ranges(model, ["small", "large"], data, method="minmax", percentile=100.0)
    assert found["large"][0] == pytest.approx(-float(np.maximum(x, 0).max()))  # not -20
    assert found["large"][1] == pytest.approx(float(x.max()) * 10, rel=1e-6)
    assert found["small"][0] == 0.0
