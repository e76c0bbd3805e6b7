"""Two networks that defaults break, trained here (C9), and kept beside the results.

``masked``: a causal transformer whose attention mask adds -1e9, as many exports do. It reads eight pairs of a key and a value and a
last key, and tells that key's value. Attention is all it has: where one scale for the masked scores leaves no step below a million,
it is blind. ``gelu``: GELU and LayerNorm over raw readings of C-MAPSS engines in their own units, standardised inside the network:
is this engine in its last 75 cycles? Readings move by a few units around 9000, which one scale for the whole input cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.compression_models import Arrays
from examples.factory.engines import LIFE_CAP, cut_windows
from packager.export import export_module

MASK = -1e9
_PAIRS, _KEYS, _VALUES, _WIDTH, _HEADS = 8, 12, 8, 32, 2
_LAST_CYCLES = 75


@dataclass(frozen=True)
class Made:
    """A trained network, its rows, and its name."""

    id: str
    model: Path
    arrays: Arrays


class _Attention(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.out = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.feed = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, _WIDTH))
        steps = _PAIRS + 1
        self.register_buffer("mask", torch.triu(torch.full((steps, steps), MASK), diagonal=1))

    def forward(self, x: Any) -> Any:
        steps, size = _PAIRS + 1, _WIDTH // _HEADS
        queries, keys, values = self.inner(self.norm(x)).reshape(-1, steps, 3, _HEADS, size).permute(2, 0, 3, 1, 4).unbind(0)
        scores = queries @ keys.transpose(-1, -2) / size**0.5 + self.mask
        seen = torch.softmax(scores, -1) @ values
        x = x + self.out(seen.transpose(1, 2).reshape(-1, steps, _WIDTH))
        return x + self.feed(x)


class _Recall(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(_KEYS + _VALUES, _WIDTH)
        self.blocks = nn.Sequential(_Attention(), _Attention())
        self.head = nn.Linear(_WIDTH, _VALUES)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.inner(x))[:, -1])


class _Units(nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, centre: Any, spread: Any) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / spread)
        self.register_buffer("shift", -centre / spread)
        inner = [nn.Linear(len(centre), 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()]
        self.layers = nn.Sequential(*inner, nn.Linear(64, 2))

    def forward(self, x: Any) -> Any:
        return self.layers(x.mean(2) * self.scale + self.shift)


def make_masked(data: Path, folder: Path) -> Made:
    """The transformer and 2600 questions: 200 calibrate, 400 validate, 2000 test."""
    del data
    x, y = _questions(np.random.default_rng(1), 2600)

    def net() -> Any:
        return _train(_Recall, *_questions(np.random.default_rng(0), 8000), epochs=12, rate=4e-3)

    return _export("masked", net, {"x": x, "y": y, "split": _parts(200, 400, 2000)}, folder)


def make_gelu(data: Path, folder: Path) -> Made:
    """Windows of raw readings: 60 engines train, 10 calibrate, 10 validate, 20 test."""
    run = np.loadtxt(data / "cmapss-fd001" / "train_FD001.txt")
    readings = run[:, 5:][:, run[:, 5:].std(axis=0) > 1e-6]
    windows = cut_windows(readings, run[:, 0].astype(np.int64), np.zeros(100), first=0)
    x, engine = windows.rows.x, windows.engines
    y = (np.asarray(windows.rows.aid) * LIFE_CAP <= _LAST_CYCLES).astype(np.int64)
    train = engine <= 60
    means = x[train].mean(axis=2)
    centre, spread = torch.from_numpy(means.mean(axis=0)), torch.from_numpy(means.std(axis=0))

    def net() -> Any:
        return _train(lambda: _Units(centre, spread), x[train], y[train], epochs=6, rate=2e-3)

    split = np.select([engine <= 70, engine <= 80], ["calibration", "validation"], "test")
    arrays: Arrays = {"x": x, "y": y, "groups": engine, "split": split}
    return _export("gelu", net, {name: array[~train] for name, array in arrays.items()}, folder)


MAKERS: tuple[Callable[[Path, Path], Made], ...] = (make_masked, make_gelu)


def _questions(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pairs with different keys, each one-hot, then one of the keys without a value; and the value that it had."""
    keys = np.argsort(rng.random((rows, _KEYS)), axis=1)[:, :_PAIRS]
    values = rng.integers(0, _VALUES, (rows, _PAIRS))
    asked = rng.integers(0, _PAIRS, rows)
    x = np.zeros((rows, _PAIRS + 1, _KEYS + _VALUES), dtype=np.float32)
    row, place = np.arange(rows)[:, None], np.arange(_PAIRS)[None]
    x[row, place, keys] = 1
    x[row, place, _KEYS + values] = 1
    x[np.arange(rows), _PAIRS, keys[np.arange(rows), asked]] = 1
    return x, values[np.arange(rows), asked].astype(np.int64)


def _train(make: Callable[[], Any], x: NDArray[np.float32], y: NDArray[np.int64], *, epochs: int, rate: float) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = make()
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate)
    batches = -(-len(y) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    for _ in range(epochs):
        for picked in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs[picked]), labels[picked]).backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def _export(identity: str, train: Callable[[], Any], arrays: Arrays, folder: Path) -> Made:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{identity}.onnx"
    if not path.is_file():
        path.write_bytes(export_module(train, where=identity, seed=0, example=lambda: {"x": arrays["x"][:2]}))
    return Made(identity, path, arrays)


def _parts(calibration: int, validation: int, test: int) -> NDArray[np.str_]:
    return np.array(["calibration"] * calibration + ["validation"] * validation + ["test"] * test)
