"""Tiny networks and synthetic rows that train in a second."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from packager.data import Dataset
from packager.technique import Compressed, TechniqueContext
from packager.train.finish import export_normal_form
from packager.train.loop import train_module
from packager.training_plan import TrainingPlan

PLAN = TrainingPlan(epochs=4, learning_rate=5e-3, batch_rows=32)


def signals(count: int, *, seed: int, length: int = 16) -> Dataset:
    """Class 1 has a bump in the first half, class 0 in the second; noise on both."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(0, 0.3, (count, 1, length)).astype(np.float32)
    start = np.where(labels == 1, 2, length // 2 + 2)
    for row in range(count):
        x[row, 0, start[row] : start[row] + 3] += 1.0
    return Dataset({"x": x}, labels.astype(np.int64), None, None, "synthetic")


def values(count: int, *, seed: int) -> Dataset:
    """Four numbers, and their weighted sum as the target."""
    x = np.random.default_rng(seed).normal(0, 1, (count, 4)).astype(np.float32)
    return Dataset({"x": x}, (x @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)), None, None, "synthetic")


class ConvNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, width, 3, padding=1),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.MaxPool1d(2),
        )
        self.head = nn.Linear(width * 8, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).flatten(1))


class Residual(nn.Module):
    """A stem, two blocks that return the shape they get, and a head."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, width, 3, padding=1)
        self.first = ResidualBlock(width)
        self.second = ResidualBlock(width)
        self.head = nn.Linear(width * 16, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.second(self.first(torch.relu(self.stem(x)))).flatten(1))


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv1d(width, width, 3, padding=1)
        self.outer = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.outer(torch.relu(self.inner(x))))


class Attention(nn.Module):
    """One transformer layer with its head sizes written as numbers in forward."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.places = nn.Parameter(torch.randn(1, 16, width) * 0.5)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Any) -> Any:
        h = self.embed(x.transpose(1, 2)) + self.places
        q, k, v = (layer(h).reshape(-1, 16, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(2, 3) / 8**0.5, dim=-1) @ v
        h = self.norm(h + mixed.transpose(1, 2).reshape(-1, 16, 16))
        return self.head((h + self.down(nn.functional.gelu(self.up(h)))).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(1, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(x.transpose(1, 2))[0][:, -1])


def context(**changes: Any) -> TechniqueContext:
    base = TechniqueContext(
        calibration=signals(32, seed=3),
        validation=signals(64, seed=2),
        train=signals(256, seed=1),
        task="classification",
        seed=0,
        training=PLAN,
    )
    return replace(base, **changes)


@cache
def _trained(kind: type[nn.Module], epochs: int) -> Any:
    torch.manual_seed(0)
    module = kind()
    around = context()
    assert around.train is not None
    plan = replace(PLAN, epochs=epochs * 3 if kind is Attention else epochs)
    train_module(module, around.train, around.validation, task="classification", plan=plan, seed=0)
    return module


def compressed(kind: type[nn.Module] = ConvNet, *, epochs: int = 4) -> Compressed:
    """A trained network as techniques get it."""
    module = _trained(kind, epochs)
    return Compressed(export_normal_form(module, signals(8, seed=4), technique="test", seed=0), "fp32", module=module)


def accuracy(data: bytes, rows: Dataset) -> float:
    """Of an ONNX file, in the device's runtime."""
    from device_client.inference.walker import check_model
    from packager.evaluate import run_rows

    assert rows.labels is not None
    outputs = next(iter(run_rows(check_model(data), rows).values()))
    return float((outputs.argmax(axis=1) == rows.labels).mean())


def fingerprint(module: nn.Module) -> str:
    """Digest of all weights."""
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()
