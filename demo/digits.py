"""The demo's real data and real model: scikit-learn's bundled handwritten digits and a small network.

1797 images of 8 by 8 pixels, ten classes. Half of them train the model (the audit's members); the other half is held
out, a part for calibration and the rest for evaluation. Deterministic: fixed seeds, one thread.

"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Floats = npt.NDArray[np.float32]

SPLIT_SEED = 20
CALIBRATION_ROWS = 180
CLASSES = 10


@dataclass(frozen=True)
class Size:
    """Shape and regularisation of the network; smaller and more regular leaks less."""

    hidden: tuple[int, ...]
    weight_decay: float
    epochs: int
    noise: float  # standard deviation added to inputs while training, in units of the pixel range


SIZES = {
    "regular": Size(hidden=(512, 256), weight_decay=0.05, epochs=20, noise=0.15),
    "small": Size(hidden=(256, 128), weight_decay=0.3, epochs=20, noise=0.25),
}


def pack_data() -> Mapping[str, Floats]:
    """Held-out rows for `sealift pack`: ``x`` float32 (N, 64) in [0, 1], ``y`` int64 (N,), ``split`` (N,)."""
    import numpy as np

    x, y, member = _rows()
    x, y = x[~member], y[~member]
    split = np.array(["calibration"] * CALIBRATION_ROWS + ["test"] * (len(y) - CALIBRATION_ROWS))
    return {"x": x, "y": y, "split": split}


def audit_data() -> Mapping[str, Floats]:
    """Rows for `sealift audit run`: ``x``, ``y`` and ``member``, true where the row trained the model.

    Calibration rows are left out: they shaped the compressed variant's scales, so they are neither.
    """
    import numpy as np

    x, y, member = _rows()
    held_out = np.flatnonzero(~member)[CALIBRATION_ROWS:]
    keep = np.concatenate([np.flatnonzero(member), held_out])
    return {"x": x[keep], "y": y[keep], "member": member[keep]}


def samples() -> Mapping[str, Floats]:
    """The evaluation rows alone, to run on a device."""
    data = pack_data()
    test = data["split"] == "test"
    return {"x": data["x"][test], "y": data["y"][test]}


def train(*, seed: int, size: Size) -> torch.nn.Module:
    """Trains the network on the member rows.

    Cost: a few seconds on one core. Deterministic for a seed on one machine.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y, member = _rows()
    inputs, labels = torch.from_numpy(x[member]), torch.from_numpy(y[member])
    model = _network(size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=size.weight_decay)
    loss = torch.nn.CrossEntropyLoss()
    for _ in range(size.epochs):
        for rows in torch.randperm(len(labels)).split(32):
            noisy = (inputs[rows] + size.noise * torch.randn_like(inputs[rows])).clamp(0, 1)
            optimiser.zero_grad()
            loss(model(noisy), labels[rows]).backward()
            optimiser.step()
    return model.eval()


def _network(size: Size) -> torch.nn.Module:
    import torch

    widths = (64, *size.hidden)
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], CLASSES))


def _rows() -> tuple[Floats, Any, Any]:
    """All rows in a seeded order: pixels in [0, 1], labels, and whether the row is a member."""
    import numpy as np
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    x = (pixels[order] / 16).astype(np.float32)
    y = labels[order].astype(np.int64)
    return x, y, np.arange(len(y)) < len(y) // 2
