"""Resize, ``nearest`` and ``linear``, one axis after the other, as the ONNX specification defines the coordinates.

Not translated: cubic, cropping by a region, antialiasing, and policies that keep an aspect ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from audits.bridge.calls import Call, Registry, Tensor

resize_operators = Registry()

_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@resize_operators.register("Resize")
def resize(call: Call) -> Tensor:
    """By scales (input 2) or to sizes (input 3); opset 11 and later."""
    x = call.tensor(0)
    mode = call.attribute("mode", b"nearest").decode()
    policy = call.attribute("keep_aspect_ratio_policy", b"stretch").decode()
    if call.opset < 11 or mode not in {"nearest", "linear"} or policy != "stretch" or call.attribute("antialias", 0):
        raise call.unsupported(f"opset {call.opset}, mode {mode}, policy {policy}, or antialias")
    axes = [axis % x.dim() for axis in call.attribute("axes", range(x.dim()))]
    scales = call.optional(2)
    if scales is not None and scales.numel():
        factors = [float(value) for value in scales]
        sizes = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        sizes = call.integers(3, "sizes") or []
        factors = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    for axis, size, factor in zip(axes, sizes, factors, strict=True):
        if size != x.shape[axis] or factor != 1.0:
            at = _positions(call, x.shape[axis], size, factor)
            x = _nearest(call, x, axis, at) if mode == "nearest" else _linear(x, axis, at)
    return x


def _positions(call: Call, old: int, new: int, factor: float) -> Tensor:
    """Where each new element lies among the old ones."""
    index = torch.arange(new, dtype=torch.float64)
    mode = call.attribute("coordinate_transformation_mode", b"half_pixel").decode()
    if mode == "asymmetric":
        return index / factor
    if mode == "align_corners":
        return index * ((old - 1) / (new - 1) if new > 1 else 0.0)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and new > 1):
        return (index + 0.5) / factor - 0.5
    if mode == "pytorch_half_pixel":
        return index * 0.0
    raise call.unsupported(f"coordinates {mode}")


def _nearest(call: Call, x: Tensor, axis: int, at: Tensor) -> Tensor:
    rounded = _ROUND[call.attribute("nearest_mode", b"round_prefer_floor").decode()](at)
    return torch.index_select(x, axis, rounded.clamp(0, x.shape[axis] - 1).long())


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    at = at.clamp(0, x.shape[axis] - 1)
    low = at.floor()
    share = (at - low).to(x.dtype).reshape([-1 if index == axis else 1 for index in range(x.dim())])
    left = torch.index_select(x, axis, low.long())
    right = torch.index_select(x, axis, (low + 1).clamp(max=x.shape[axis] - 1).long())
    return left + (right - left) * share
