"""Training entry points for the mitigation tests: small, honest about every key of ``fix``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch import nn

from audits.mitigate.training import make_private, smoothed_cross_entropy
from tests.unit.audits import models

KEYS = {"epochs_factor", "width_factor", "label_smoothing", "dp", "weight_decay", "dropout"}


def train(x: Any, y: Any, *, seed: int, fix: Mapping[str, Any] | None = None, epochs: int = 150, width: int = 64) -> bytes:
    """An overfit network of one hidden layer over as many classes as the labels span (at least ten)."""
    changes = dict(fix or {})
    if set(changes) - KEYS:
        raise NotImplementedError(f"unknown keys {sorted(set(changes) - KEYS)}")
    classes = max(10, int(y.max()) + 1)
    hidden = max(4, round(width * changes.get("width_factor", 1.0)))
    rounds = max(1, round(epochs * changes.get("epochs_factor", 1.0)))
    inputs, labels = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(x.shape[1], classes, hidden=hidden, dropout=changes.get("dropout", 0.0))
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=changes.get("weight_decay", 0.0))
        if "dp" in changes:
            _fit_private(net, optimiser, inputs, labels, rounds=rounds, seed=seed, **changes["dp"])
        else:
            for _ in range(rounds):
                for rows in torch.randperm(len(inputs)).split(64):
                    optimiser.zero_grad()
                    smoothed_cross_entropy(net(inputs[rows]), labels[rows], changes.get("label_smoothing", 0.0)).backward()
                    optimiser.step()
    return to_onnx(net, features=x.shape[1], classes=classes)


def network(features: int, classes: int, *, hidden: int, dropout: float = 0.0, seed: int | None = None) -> nn.Sequential:
    if seed is not None:
        torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))


def _fit_private(
    net: nn.Module, optimiser: Any, inputs: Any, labels: Any, *, rounds: int, seed: int, noise: float, clip: float
) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=64)
    private, optimiser, loader = make_private(net, optimiser, loader, noise=noise, clip=clip, seed=seed)
    for _ in range(min(rounds, 30)):
        for rows, wanted in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(private(rows), wanted).backward()
            optimiser.step()


def plain(x: Any, y: Any, *, seed: int) -> bytes:
    """The same without the keyword."""
    return train(x, y, seed=seed)


def deaf(x: Any, y: Any, *, seed: int, fix: Mapping[str, Any] | None = None) -> bytes:
    """Takes the keyword and ignores it."""
    return train(x, y, seed=seed, epochs=3)


def to_onnx(net: nn.Sequential, *, features: int, classes: int, softmax: bool = True) -> bytes:
    first, last = net[0], net[3]
    weights = [
        numpy_helper.from_array(tensor.detach().numpy(), name)
        for name, tensor in (("w0", first.weight), ("b0", first.bias), ("w1", last.weight), ("b1", last.bias))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["z"], transB=1),
        helper.make_node("Softmax", ["z"], ["p"], axis=1) if softmax else helper.make_node("Identity", ["z"], ["p"]),
    ]
    return models.build(nodes, weights, inputs=("x", [None, features]), outputs=("p", [None, classes]))
