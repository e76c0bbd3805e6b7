"""Small models and data: ONNX graphs made with the onnx package, and a digits network trained in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from device_client.bundle.counter import Counter
from device_client.bundle.path import BundlePath
from packager.pack import PackRequest
from packager.recipe import load_recipe

PATH = BundlePath("wearable", "digits", "1.0.0")
RECIPE = """
[[technique]]
name = "int8-static"
[inputs.x]
meaning = "8 by 8 pixels, row by row"
range = [0, 1]
[card]
description = "Handwritten digits"
licence = "BSD-3-Clause"
"""

TRAINER = '''
"""What a person hands to `sealift pack`: a function that trains a model, and one that returns data."""


def data():
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"x": (digits.data[897:] / 16).astype(np.float32), "y": digits.target[897:]}


def model():
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data[:897] / 16, dtype=torch.float32), torch.tensor(digits.target[:897])
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(96, 48), torch.nn.ReLU(),
        torch.nn.Linear(48, 10),
    )
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def bare_array():
    import numpy as np

    return np.zeros((3, 3))


def not_a_module():
    return 7
'''


def mlp(*, seed: int = 0, features: int = 6, hidden: int = 16, classes: int = 3, opset: int = 17, batch: int | str = "N") -> bytes:
    """x (batch, features) -> Gemm -> Relu -> Gemm -> y (batch, classes), random weights."""
    rng = np.random.default_rng(seed)
    constants = {
        "first.weight": rng.standard_normal((hidden, features)),
        "first.bias": rng.standard_normal(hidden),
        "second.weight": rng.standard_normal((classes, hidden)),
        "second.bias": rng.standard_normal(classes),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["h"], transB=1, name="first"),
        helper.make_node("Relu", ["h"], ["a"], name="relu", doc_string="from /home/somebody/train.py"),
        helper.make_node("Gemm", ["a", "second.weight", "second.bias"], ["y"], transB=1, name="second"),
    ]
    return graph(nodes, constants, x=[batch, features], y=[batch, classes], opset=opset)


def convnet(*, seed: int = 0, opset: int = 17, batch: int | str = "N") -> bytes:
    """x (batch, 1, 8, 8) -> Conv -> Relu -> depthwise Conv -> Relu -> pool -> Gemm -> Softmax -> y (batch, 4)."""
    rng = np.random.default_rng(seed)
    constants = {
        "c1.weight": rng.standard_normal((8, 1, 3, 3)),
        "c1.bias": rng.standard_normal(8),
        "c2.weight": rng.standard_normal((8, 1, 3, 3)),
        "c2.bias": rng.standard_normal(8),
        "fc.weight": rng.standard_normal((4, 8)),
        "fc.bias": rng.standard_normal(4),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c1.weight", "c1.bias"], ["h1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["a1"]),
        helper.make_node("Conv", ["a1", "c2.weight", "c2.bias"], ["h2"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["h2"], ["a2"]),
        helper.make_node("GlobalAveragePool", ["a2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["z"], transB=1),
        helper.make_node("Softmax", ["z"], ["y"], axis=1),
    ]
    return graph(nodes, constants, x=[batch, 1, 8, 8], y=[batch, 4], opset=opset)


def graph(
    nodes: Sequence[Any],
    constants: dict[str, NDArray[Any]],
    *,
    x: Sequence[int | str],
    y: Sequence[int | str],
    opset: int = 17,
    inputs_too: bool = False,
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """A model with input ``x`` and output ``y``; ``inputs_too`` lists the constants as inputs, as old exporters did."""
    element = helper.tensor_dtype_to_np_dtype(dtype)
    initializers = [
        numpy_helper.from_array(array if array.dtype.kind == "i" else array.astype(element), name)
        for name, array in constants.items()
    ]
    inputs = [helper.make_tensor_value_info("x", dtype, list(x))]
    if inputs_too:
        inputs += [helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)) for item in initializers]
    made = helper.make_graph(
        list(nodes), "main_graph", inputs, [helper.make_tensor_value_info("y", dtype, list(y))], initializer=initializers
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset >= 13 else 3)
    model.doc_string = made.doc_string = "exported by somebody"
    model.producer_name = "somebody's exporter"
    helper.set_model_props(model, {"path": "/home/somebody"})
    data: bytes = model.SerializeToString()
    return data


def rows(count: int, shape: tuple[int, ...] = (6,), *, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def write(folder: Path, data: bytes, name: str = "model.onnx") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def save_npz(folder: Path, name: str = "data.npz", **arrays: Any) -> str:
    path = folder / name
    np.savez(path, **arrays)
    return str(path)


def op_types(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


def pack_request(trained: Path, out: Path, **changes: Any) -> PackRequest:
    """Packing what the fixture ``trained`` holds."""
    recipe = load_recipe(trained / "recipe.toml")
    base = PackRequest(str(trained / "model.onnx"), str(trained / "data.npz"), PATH, Counter(0, 1), out, recipe)
    return replace(base, **changes)
