"""The face models that inversion is measured on, trained in seconds and written as ONNX by hand.

AT&T faces (``SEALIFT_DATA/faces-orl``): 40 people, 10 pictures each; 7 of each train, 3 are held out, chosen by a seed.
Three networks in the manner of Fredrikson 2015: softmax regression, a hidden layer of 500 sigmoids, and a small
convolutional network. The pictures are research data: they are read here and never written anywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from audits.data import AuditData, check_data

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
PEOPLE, PICTURES, TRAINED = 40, 10, 7
OPSET = 17
KINDS = ("softmax", "mlp", "cnn")


@dataclass(frozen=True)
class Recipe:
    """How one kind of network is trained.

    Attributes:
        plain: plain gradient descent, stopped when every training picture is right; else Adam for ``passes``.
        rate: of Adam; of plain descent for one pixel, as the gradient grows with their number.
    """

    plain: bool
    rate: float
    passes: int
    batch: int


RECIPES = {"softmax": Recipe(True, 100.0, 300, 70), "mlp": Recipe(False, 1e-3, 60, 70), "cnn": Recipe(False, 2e-3, 25, 35)}


def faces_file() -> Path | None:
    """The file with the pictures, or None where ``SEALIFT_DATA`` names no folder that has it."""
    folder = os.environ.get("SEALIFT_DATA")
    path = Path(folder) / "faces-orl" / "orl_faces.npz" if folder else None
    return path if path is not None and path.is_file() else None


def load_faces(path: Path, *, halved: bool = True) -> tuple[Floats, Integers]:
    """(400, 1, H, W) in [0, 1] and subjects from 0; 56 by 46 pixels where ``halved``, else 112 by 92."""
    with np.load(path, allow_pickle=False) as archive:
        x = (archive["images"].astype(np.float32) / 255.0)[:, None]
        y = archive["subject"].astype(np.int64)
    if halved:
        x = x.reshape(len(x), 1, 56, 2, 46, 2).mean(axis=(3, 5))
    return np.ascontiguousarray(x, dtype=np.float32), y - y.min()


def seven_of_ten(y: Integers, *, seed: int) -> Bools:
    """Who trains: seven pictures of each person, chosen by the seed."""
    rng = np.random.default_rng(seed)
    member = np.zeros(len(y), dtype=np.bool_)
    for person in range(PEOPLE):
        member[rng.permutation(np.flatnonzero(y == person))[:TRAINED]] = True
    return member


def faces_data(path: Path, *, seed: int = 0, halved: bool = True) -> AuditData:
    """The records of an audit."""
    x, y = load_faces(path, halved=halved)
    return check_data({"x": x, "y": y, "member": seven_of_ten(y, seed=seed)}, where="faces-orl")


class FacesTrainer:
    """Trains one kind of network as the audited one was trained; a ``Trainer`` of the audits.

    Args:
        kind: one of ``KINDS``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        """ONNX bytes: the pictures in, probabilities of the people out."""
        return to_onnx(train_network(self.kind, x, y, seed=seed), shape=x.shape[1:])


def train_mlp(x: Floats, y: Integers, *, seed: int) -> bytes:
    """The entry point of a command: trains the hidden layer of 500 sigmoids."""
    return FacesTrainer("mlp").train(x, y, seed=seed)


def train_network(kind: str, x: Floats, y: Integers, *, seed: int) -> nn.Sequential:
    """A trained network that ends in logits."""
    recipe = RECIPES[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(kind, x.shape[1:])
        if recipe.plain:
            optimiser: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=recipe.rate / x[0].size)
        else:
            optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate)
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        for _ in range(recipe.passes):
            for rows in torch.randperm(len(inputs)).split(recipe.batch):
                optimiser.zero_grad()
                functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
                optimiser.step()
            if recipe.plain and bool((net(inputs).argmax(dim=1) == labels).all()):
                break
    return net.eval()


def network(kind: str, shape: tuple[int, ...]) -> nn.Sequential:
    """An untrained network for pictures of ``shape`` (1, H, W)."""
    size = int(np.prod(shape))
    if kind == "softmax":
        return nn.Sequential(nn.Flatten(), nn.Linear(size, PEOPLE))
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 500), nn.Sigmoid(), nn.Linear(500, PEOPLE))
    layers: list[nn.Module] = []
    before, height, width = 1, shape[1], shape[2]
    for channels in (16, 32, 32):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before, height, width = channels, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * height * width, PEOPLE))


def to_onnx(net: nn.Sequential, *, shape: tuple[int, ...], softmax: bool = True) -> bytes:
    """The network as an ONNX file with input ``x`` and output ``p``."""
    nodes: list[Any] = []
    weights: list[Any] = []
    current = "x"
    for index, layer in enumerate(net):
        name = f"h{index}"
        parameters = [current, f"w{index}", f"b{index}"]
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weights.append(numpy_helper.from_array(layer.weight.detach().numpy(), f"w{index}"))
            bias = layer.bias if layer.bias is not None else torch.zeros(len(layer.weight))
            weights.append(numpy_helper.from_array(bias.detach().numpy(), f"b{index}"))
        if isinstance(layer, nn.Linear):
            nodes.append(helper.make_node("Gemm", parameters, [name], name=name, transB=1))
        elif isinstance(layer, nn.Conv2d):
            nodes.append(helper.make_node("Conv", parameters, [name], name=name, pads=[1, 1, 1, 1]))
        elif isinstance(layer, nn.MaxPool2d):
            nodes.append(helper.make_node("MaxPool", [current], [name], name=name, kernel_shape=[2, 2], strides=[2, 2]))
        else:
            operator = {nn.Flatten: "Flatten", nn.ReLU: "Relu", nn.Sigmoid: "Sigmoid"}[type(layer)]
            nodes.append(helper.make_node(operator, [current], [name], name=name))
        current = name
    if softmax:
        nodes.append(helper.make_node("Softmax", [current], ["p"], name="p", axis=1))
    else:
        nodes[-1].output[0] = "p"
    graph = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", PEOPLE])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
