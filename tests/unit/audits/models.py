"""Small real models for the audit tests: digits by a tiny network, as ONNX, also quantised with QDQ nodes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from audits.data import AuditData, check_data
from device_client.inference.runtime import import_runtime
from device_client.inference.walker import CheckedModel, check_model

OPSET = 17


def digits() -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int64]]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target.astype(np.int64)


def half(seed: int, *, per_class: int | None = None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Random members: half of each class, or ``per_class`` of each."""
    _, y = digits()
    member = np.zeros(len(y), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(y == label))
        member[rows[: per_class or len(rows) // 2]] = True
    return member


def digits_data(member: np.ndarray[Any, np.dtype[np.bool_]]) -> AuditData:
    x, y = digits()
    return check_data({"x": x, "y": y, "member": member}, where="test")


def train(member: np.ndarray[Any, np.dtype[np.bool_]], *, epochs: int, seed: int = 0, width: int = 64) -> nn.Sequential:
    x, y = digits()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        inputs, labels = torch.from_numpy(x[member]), torch.from_numpy(y[member])
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
                optimiser.step()
    return net


def to_onnx(net: nn.Sequential, *, softmax: bool = True) -> bytes:
    nodes: list[Any] = []
    weights: list[Any] = []
    current = "x"
    for index, layer in enumerate(net):
        result = f"h{index}"
        if isinstance(layer, nn.Linear):
            weights.append(numpy_helper.from_array(layer.weight.detach().numpy(), f"w{index}"))
            weights.append(numpy_helper.from_array(layer.bias.detach().numpy(), f"b{index}"))
            nodes.append(helper.make_node("Gemm", [current, f"w{index}", f"b{index}"], [result], name=result, transB=1))
        else:
            nodes.append(helper.make_node("Relu", [current], [result], name=result))
        current = result
    if softmax:
        nodes.append(helper.make_node("Softmax", [current], ["p"], name="p"))
        current = "p"
    return build(nodes, weights, inputs=("x", [None, 64]), outputs=(current, [None, 10]))


def build(
    nodes: Sequence[Any],
    weights: Sequence[Any],
    *,
    inputs: tuple[str, list[int | None]],
    outputs: tuple[str, list[int | None]],
    opset: int = OPSET,
    output_type: int = TensorProto.FLOAT,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, ["n" if size is None else size for size in inputs[1]])],
        [helper.make_tensor_value_info(outputs[0], output_type, ["n" if size is None else size for size in outputs[1]])],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def quantised(data: bytes, calibration: np.ndarray[Any, Any]) -> bytes:
    """The INT8 twin: static, QDQ, per channel."""
    import_runtime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter([{"x": calibration[index : index + 1]} for index in range(len(calibration))])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.onnx").write_bytes(data)
        quantize_static(
            f"{folder}/a.onnx",
            f"{folder}/q.onnx",
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return (Path(folder) / "q.onnx").read_bytes()


def checked(data: bytes) -> CheckedModel:
    return check_model(data, where="test")
