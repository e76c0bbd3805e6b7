from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model
from packager import row_runner
from packager.data import Dataset, fit_dataset
from packager.row_runner import run_rows

from .models import mlp, rows


def model_of(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any]) -> CheckedModel:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return check_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def recurrent() -> CheckedModel:
    """x (N, 3), state (2, N, 3), rate () -> y (N, 3) = x + state[0] + rate, next (2, N, 3) = state + 1."""
    nodes = [
        helper.make_node("Gather", ["state", "zero"], ["first"], axis=0),
        helper.make_node("Cast", ["rate"], ["level"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "first"], ["sum"]),
        helper.make_node("Add", ["sum", "level"], ["y"]),
        helper.make_node("Add", ["state", "one"], ["next"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["N", 3]), "state": (TensorProto.FLOAT, [2, "N", 3]), "rate": (TensorProto.INT64, [])}
    constants = {"zero": np.int64(0), "one": np.float32(1)}
    return model_of(nodes, inputs, {"y": ["N", 3], "next": [2, "N", 3]}, constants)


def test_a_recurrent_model_runs_row_by_row_and_its_state_comes_out_per_row() -> None:
    model, steps = recurrent(), list[int]()
    arrays: dict[str, Any] = {"x": rows(7, (3,)), "state": rows(7, (2, 1, 3), seed=2), "rate": np.arange(7)}
    found = run_rows(model, fit_dataset(arrays, model.inputs, where="d"), advance=steps.append)
    expected = arrays["x"] + arrays["state"][:, 0, 0] + np.arange(7, dtype=np.float32)[:, np.newaxis]
    assert np.allclose(found["y"], expected)
    assert np.allclose(found["next"], arrays["state"] + 1)
    assert steps == [1] * 7


def test_an_output_that_loses_the_batch_axis_forces_single_rows() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
    ]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, ["N", 3])}, {"turned": [3, "N"], "total": []}, {})
    x = rows(5, (3,))
    found = run_rows(model, fit_dataset({"x": x}, model.inputs, where="d"))
    assert np.array_equal(found["turned"][:, :, 0], x)
    assert np.allclose(found["total"], x.sum(axis=1))


def test_a_scale_taken_over_the_batch_is_taken_over_single_rows_as_on_a_device() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, ["N", 4])}, {"y": ["N", 4]}, {})
    x = np.array([[0.001, 0.002, 0.003, 0.004], [1.0, 2.0, 3.0, 1000.0]], dtype=np.float32)
    found = run_rows(model, fit_dataset({"x": x}, model.inputs, where="d"))["y"]
    assert np.allclose(found[0], x[0], rtol=0.02)


def selecting(*, both: bool) -> CheckedModel:
    """indices of values above zero, (hits, 2), as float; with ``both`` also the values."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("NonZero", ["y"], ["places"]),
        helper.make_node("Cast", ["places"], ["hits"], to=TensorProto.FLOAT),
    ]
    outputs = {"hits": [2, "K"], **({"y": ["N", 4]} if both else {})}
    return model_of(nodes, {"x": (TensorProto.FLOAT, ["N", 4])}, outputs, {})


def test_outputs_of_varying_size_are_left_out_or_refused() -> None:
    x = rows(6, (4,)) - 0.5
    data = Dataset({"x": x}, None, None, None, "data")
    assert list(run_rows(selecting(both=True), data)) == ["y"]
    with pytest.raises(UsageError) as caught:
        run_rows(selecting(both=False), data)
    assert caught.value.code == "task_output"


def test_outputs_beyond_the_bound_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_runner, "MAX_OUTPUT_BYTES", 100)
    data = Dataset({"x": rows(9)}, None, None, None, "data")
    with pytest.raises(UsageError) as caught:
        run_rows(check_model(mlp()), data)
    assert caught.value.code == "evaluation_too_large"
    assert len(run_rows(check_model(mlp()), data.take(np.arange(8)))["y"]) == 8
