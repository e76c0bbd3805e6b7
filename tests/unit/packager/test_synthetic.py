from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model
from packager.evaluate import run_rows
from packager.parts import make_parts
from packager.recipe import Recipe, TensorMeaning
from packager.synthetic import synthetic_dataset

from .models import mlp


def made(model: CheckedModel, *, rows: int = 200, seed: int = 0, **ranges: tuple[float, float]) -> Any:
    return synthetic_dataset(model, ranges=ranges, rows=rows, seed=seed)


def embedding(*, vocabulary: int = 23, mask: int = TensorProto.INT64, length: int | str = "T", index: str = "ids") -> CheckedModel:
    """ids (N, T) and mask (N, T) -> table rows, masked -> y (N, T, 4)."""
    table = np.random.default_rng(0).standard_normal((vocabulary, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", index], ["rows"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "axis"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", length]),
            helper.make_tensor_value_info("mask", mask, ["N", length]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", length, 4])],
        initializer=[numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "axis")],
    )
    return check_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_floats_are_standard_normal_or_stay_in_their_declared_range() -> None:
    model = check_model(mlp())
    free = made(model, rows=1000).inputs["x"]
    assert (free.shape, free.dtype.name) == ((1000, 6), "float32")
    assert abs(free.mean()) < 0.1
    assert free.std() == pytest.approx(1.0, abs=0.05)
    bound = made(model, x=(2.0, 3.0)).inputs["x"]
    assert (bound.min() >= 2.0, bound.max() <= 3.0, bound.std() > 0.1) == (True, True, True)


def test_integers_reach_up_to_the_largest_that_the_model_takes() -> None:
    data = made(embedding())
    assert (data.inputs["ids"].min(), data.inputs["ids"].max()) == (0, 22)
    assert set(np.unique(data.inputs["mask"])) == {0, 1}
    assert data.inputs["ids"].shape == (200, 16)
    run_rows(embedding(), data)


def test_a_declared_range_of_integers_is_kept() -> None:
    data = made(embedding(length=3), ids=(4.0, 6.5))
    assert set(np.unique(data.inputs["ids"])) == {4, 5, 6}


def test_booleans_are_both() -> None:
    assert set(np.unique(made(embedding(mask=TensorProto.BOOL)).inputs["mask"])) == {False, True}


def test_a_model_that_fails_on_every_made_up_value_asks_for_data() -> None:
    empty = embedding(vocabulary=0)
    with pytest.raises(UsageError) as caught:
        made(empty)
    assert caught.value.code == "data_needed"


def test_rows_follow_from_the_models_digest_and_the_seed() -> None:
    one, other = check_model(mlp(seed=1)), check_model(mlp(seed=2))
    assert made(one).digest() == made(one).digest()
    assert len({made(one).digest(), made(other).digest(), made(one, seed=1).digest()}) == 3


def test_large_inputs_get_fewer_rows() -> None:
    assert len(made(check_model(mlp(features=300_000, hidden=1)), rows=1000)) == 55


def test_parts_without_data_say_so_and_are_disjoint() -> None:
    model = check_model(mlp())
    recipe = Recipe(inputs={"x": TensorMeaning("", (0.0, 1.0)), "z": TensorMeaning("", (0.0, 1.0))})
    parts = make_parts(None, model, recipe, where="")
    assert parts.origin == "synthetic"
    kept = [part for part in (parts.calibration, parts.validation, parts.test) if part is not None]
    found = [set(part.row_digests()) for part in kept]
    assert [len(item) for item in found] == [len(part) for part in kept]
    assert len(set.union(*found)) == sum(len(item) for item in found) > 700
    assert parts.test.labels is None
    assert parts.test.inputs["x"].max() <= 1.0


def test_parts_of_given_data_are_not_called_synthetic() -> None:
    model = check_model(mlp())
    x = np.random.default_rng(0).random((20, 6), dtype=np.float32)
    assert make_parts({"x": x}, model, Recipe(), where="d.npz").origin == "seed"
