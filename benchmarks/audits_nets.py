"""Twelve small networks of different kinds, made here, for what must hold whatever the architecture: A6.

Weights are random and seeded; batch normalisation has seen data. Nothing here is trained, for parity needs no accuracy.
Inputs are scikit-learn's digits, 8 by 8, as a vector, a picture, or a series of eight rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from packager.export import export_module
from packager.prepare import prepare_onnx

Floats = NDArray[np.float32]
_SHAPES = {"vector": (64,), "picture": (1, 8, 8), "series": (8, 8)}


@dataclass(frozen=True)
class Network:
    """An architecture. ``shape``: a key of ``_SHAPES``."""

    id: str
    shape: str
    make: Callable[[], nn.Module]

    def rows(self) -> Floats:
        """All digits, in the shape that this network takes, in [0, 1]."""
        from sklearn.datasets import load_digits

        flat = (load_digits().data / 16).astype(np.float32)
        return np.ascontiguousarray(flat.reshape(-1, *_SHAPES[self.shape]))

    def onnx(self, rows: Floats) -> bytes:
        """The packager's normal form of the exported network; the same bytes on every run."""
        example = rows[:64]

        def build() -> tuple[nn.Module, Any]:
            module = self.make()
            with torch.no_grad():
                module.train()(torch.from_numpy(example))  # batch normalisation takes its statistics from here
            return module.eval(), torch.from_numpy(example[:2])

        exported = export_module(build, where=self.id, seed=0, example=dict)
        return prepare_onnx(exported, where=self.id).model.data


class _Residual(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.inner(x))


class _Recurrent(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.inner, self.head = kind(8, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.inner(x)[0][:, -1])


class _Encoder(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """One block of attention with two heads, written out, so that the exporter sees plain operators."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width, self.lift, self.place = width, nn.Linear(8, width), nn.Parameter(torch.randn(8, width) / 4)
        self.norm, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        x = self.lift(x) + self.place
        q, k, v = (part.reshape(-1, 8, 2, self.width // 2).transpose(1, 2) for part in self.mix(self.norm(x)).chunk(3, dim=-1))
        seen = torch.softmax(q @ k.transpose(-1, -2) / (self.width // 2) ** 0.5, dim=-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(-1, 8, self.width))
        return self.head((x + self.feed(x)).mean(dim=1))


class _Detector(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Scores and boxes for each of 16 cells: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(32, 3, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = self.body(x)
        scores = self.scores(x).flatten(2).transpose(1, 2)
        return torch.softmax(scores, dim=-1), torch.sigmoid(self.boxes(x).flatten(2).transpose(1, 2))


def _separable() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6()]
    for before, after in ((16, 32), (32, 32)):
        layers += [nn.Conv2d(before, before, 3, padding=1, groups=before), nn.BatchNorm2d(before), nn.ReLU6()]
        layers += [nn.Conv2d(before, after, 1), nn.BatchNorm2d(after), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10), nn.Softmax(dim=1))


NETWORKS = (
    Network("softmax regression", "vector", lambda: nn.Sequential(nn.Linear(64, 10), nn.Softmax(dim=1))),
    Network(
        "MLP",
        "vector",
        lambda: nn.Sequential(nn.Linear(64, 96), nn.Sigmoid(), nn.Linear(96, 32), nn.Tanh(), nn.Linear(32, 10), nn.Softmax(dim=1)),
    ),
    Network(
        "CNN with batch norm",
        "picture",
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(128, 10), nn.Softmax(dim=1)),
        ),
    ),
    Network(
        "residual CNN",
        "picture",
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), _Residual(16), _Residual(16), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)
        ),
    ),
    Network("depthwise separable CNN", "picture", _separable),
    Network(
        "1-D CNN",
        "series",
        lambda: nn.Sequential(
            *(nn.Conv1d(8, 24, 3, padding=1), nn.LeakyReLU(), nn.MaxPool1d(2), nn.Conv1d(24, 32, 3), nn.Hardswish()),
            *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 10)),
        ),
    ),
    Network("LSTM", "series", lambda: _Recurrent(nn.LSTM)),
    Network("GRU", "series", lambda: _Recurrent(nn.GRU)),
    Network("transformer encoder", "series", _Encoder),
    Network(
        "GELU and LayerNorm",
        "vector",
        lambda: nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10)),
    ),
    Network(
        "autoencoder",
        "vector",
        lambda: nn.Sequential(
            *(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU()), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64)
        ),
    ),
    Network("detector head", "picture", _Detector),
)
