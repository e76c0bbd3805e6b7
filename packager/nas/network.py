"""An architecture as a torch module. Imported by the search only, for it needs torch.

Plain convolutions, batch normalisation (folded at export), ReLU, an average over positions or all of them, and one linear
layer: all of it quantises to integer kernels, but for the gates of squeeze-and-excite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from packager.nas.signature import Signature
from packager.nas.space import Architecture, Stage

_EXCITE_SHARE = 0.25


class Network(nn.Module):  # type: ignore[misc]  # torch's types are not followed
    """(N, ...) of the original's input to (N, ...) of its output.

    ``finished``: gives probabilities where the original does; while training, scores.
    """

    def __init__(self, plan: Architecture, signature: Signature) -> None:
        super().__init__()
        rank = len(signature.spatial)
        self._signature = signature
        self.finished = False
        layers: list[nn.Module] = []
        if plan.shrink > 1:
            layers.append((nn.AvgPool1d, nn.AvgPool2d)[rank - 1](plan.shrink))
        layers.append(_convolution(rank, signature.channels, plan.stem, kernel=plan.kernel, stride=plan.stem_stride))
        width = plan.stem
        for stage in plan.stages:
            for number in range(stage.repeats):
                layers.append(_block(rank, width, stage, kernel=plan.kernel, stride=stage.stride if number == 0 else 1))
                width = stage.channels
        if plan.average:
            layers.append((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[rank - 1](1))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width * self._positions(), signature.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the network."""
        scores = self.head(torch.flatten(self.features(self._channels_first(x)), 1))
        if self.finished and self._signature.head == "softmax":
            scores = torch.softmax(scores, dim=1)
        if self.finished and self._signature.head == "sigmoid":
            scores = torch.sigmoid(scores)
        return scores if len(self._signature.output_shape) == 1 else scores.reshape(-1, *self._signature.output_shape)

    def _positions(self) -> int:
        """How many positions the features have; shapes alone, so batch normalisation learns nothing from it."""
        with torch.no_grad():
            row = torch.zeros(1, *self._signature.input_shape)
            return int(self.features.eval()(self._channels_first(row))[0, 0].numel())

    def _channels_first(self, x: torch.Tensor) -> torch.Tensor:
        axis = self._signature.channel_axis
        if axis is None:
            return x.unsqueeze(1)
        return x if axis == 0 else x.movedim(-1, 1)


class InvertedResidual(nn.Module):  # type: ignore[misc]  # torch's types are not followed
    """Expand, convolve each channel by itself, excite, project; added to its input where shapes allow."""

    def __init__(self, rank: int, inputs: int, stage: Stage, *, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = max(4, int(inputs * stage.factor))
        layers: list[nn.Module] = [] if hidden == inputs else [_convolution(rank, inputs, hidden)]
        layers.append(_convolution(rank, hidden, hidden, kernel=kernel, stride=stride, groups=hidden))
        if stage.excite:
            layers.append(Excite(rank, hidden))
        layers.append(_convolution(rank, hidden, stage.channels, activation=False))
        self.body = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        return x + self.body(x) if self.adds else self.body(x)


class Excite(nn.Module):  # type: ignore[misc]  # torch's types are not followed
    """Scales each channel by a gate that sees the averages of all."""

    def __init__(self, rank: int, channels: int) -> None:
        super().__init__()
        inner = max(2, int(channels * _EXCITE_SHARE))
        kind = (nn.Conv1d, nn.Conv2d)[rank - 1]
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[rank - 1](1)
        self.gate = nn.Sequential(pool, kind(channels, inner, 1), nn.ReLU(), kind(inner, channels, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the gate."""
        return x * self.gate(x)


class Fire(nn.Module):  # type: ignore[misc]  # torch's types are not followed
    """Squeeze to few channels, expand by two kernels side by side."""

    def __init__(self, rank: int, inputs: int, stage: Stage, *, kernel: int, stride: int) -> None:
        super().__init__()
        inner = max(2, int(stage.channels * stage.factor))
        self.squeeze = _convolution(rank, inputs, inner, stride=stride)
        self.narrow = _convolution(rank, inner, stage.channels // 2)
        self.wide = _convolution(rank, inner, stage.channels - stage.channels // 2, kernel=kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the module."""
        squeezed = self.squeeze(x)
        return torch.cat([self.narrow(squeezed), self.wide(squeezed)], dim=1)


def multiply_accumulates(module: nn.Module, row: Sequence[int]) -> int:
    """Multiplications of one row in convolutions and linear layers."""
    total = 0

    def count(layer: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight.numel() * (output[0].numel() // layer.weight.shape[0])

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if hasattr(layer, "weight") and layer.weight.ndim > 1]
    with torch.no_grad():
        module.eval()(torch.zeros(1, *row))
    for hook in hooks:
        hook.remove()
    return total


def _block(rank: int, inputs: int, stage: Stage, *, kernel: int, stride: int) -> nn.Module:
    kind = Fire if stage.kind == "fire" else InvertedResidual
    return kind(rank, inputs, stage, kernel=kernel, stride=stride)


def _convolution(
    rank: int, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    kind, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[rank - 1]
    layers = [kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False), norm(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if activation else []))
