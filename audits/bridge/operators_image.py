"""Convolution, pooling and batch normalisation, for one, two and three spatial dimensions."""

from __future__ import annotations

import torch
from torch.nn import functional

from audits.bridge.calls import Call, Registry, Tensor

image_operators = Registry()

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@image_operators.register("Conv")
def conv(call: Call) -> Tensor:
    """Grouped, dilated, padded convolution."""
    return convolve(call, call.tensor(0), call.tensor(1), call.optional(2))


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with the attributes of ``call``: (N, C, ...) by (M, C / group, ...)."""
    spatial = x.dim() - 2
    strides = list(call.attribute("strides", [1] * spatial))
    dilations = list(call.attribute("dilations", [1] * spatial))
    x = _padded(call, x, list(weight.shape[2:]), strides, dilations, fill=0.0)
    return _CONV[spatial](x, weight, bias, stride=strides, padding=0, dilation=dilations, groups=int(call.attribute("group", 1)))


@image_operators.register("ConvTranspose")
def conv_transpose(call: Call) -> Tensor:
    """The gradient of a convolution as a layer; ``pads`` cut the result."""
    x = call.tensor(0)
    spatial = x.dim() - 2
    if call.attribute("output_shape", None) is not None or call.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        raise call.unsupported("output_shape or auto_pad")
    pads = list(call.attribute("pads", [0] * 2 * spatial))
    extra = list(call.attribute("output_padding", [0] * spatial))
    y = _CONV_TRANSPOSE[spatial](
        x,
        call.tensor(1),
        None,
        stride=list(call.attribute("strides", [1] * spatial)),
        dilation=list(call.attribute("dilations", [1] * spatial)),
        groups=int(call.attribute("group", 1)),
    )
    for axis in range(spatial):  # torch has one padding for both ends, and output_padding only below the stride
        y = functional.pad(y, [0, 0] * (spatial - 1 - axis) + [-pads[axis], extra[axis] - pads[axis + spatial]])
    bias = call.optional(2)
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


@image_operators.register("MaxPool")
def max_pool(call: Call) -> Tensor:
    """Maximum over windows; padding never wins."""
    x = call.tensor(0)
    spatial = x.dim() - 2
    if len(call.node.outputs) > 1 or call.attribute("ceil_mode", 0):
        raise call.unsupported("indices or ceil_mode")
    kernel = list(call.node.attributes["kernel_shape"])
    strides = list(call.attribute("strides", [1] * spatial))
    dilations = list(call.attribute("dilations", [1] * spatial))
    x = _padded(call, x, kernel, strides, dilations, fill=float("-inf"))
    return _MAX[spatial](x, kernel, stride=strides, dilation=dilations)


@image_operators.register("AveragePool")
def average_pool(call: Call) -> Tensor:
    """Mean over windows, with or without the padding counted."""
    x = call.tensor(0)
    spatial = x.dim() - 2
    if call.attribute("ceil_mode", 0):
        raise call.unsupported("ceil_mode")
    kernel = list(call.node.attributes["kernel_shape"])
    strides = list(call.attribute("strides", [1] * spatial))
    ones = [1] * spatial
    total = _window_mean(_padded(call, x, kernel, strides, ones, fill=0.0), kernel, strides)
    if call.attribute("count_include_pad", 0):
        return total
    inside = _padded(call, torch.ones_like(x[:1, :1]), kernel, strides, ones, fill=0.0)
    return total / _window_mean(inside, kernel, strides)


@image_operators.register("GlobalAveragePool")
def global_average_pool(call: Call) -> Tensor:
    """Mean over all spatial positions."""
    x = call.tensor(0)
    return torch.mean(x, dim=tuple(range(2, x.dim())), keepdim=True)


@image_operators.register("GlobalMaxPool")
def global_max_pool(call: Call) -> Tensor:
    """Maximum over all spatial positions."""
    x = call.tensor(0)
    return torch.amax(x, dim=tuple(range(2, x.dim())), keepdim=True)


@image_operators.register("BatchNormalization")
def batch_norm(call: Call) -> Tensor:
    """With the stored statistics, as inference does."""
    if call.attribute("training_mode", 0):
        raise call.unsupported("training_mode")
    return functional.batch_norm(
        call.tensor(0),
        call.tensor(3),
        call.tensor(4),
        weight=call.tensor(1),
        bias=call.tensor(2),
        training=False,
        eps=float(call.attribute("epsilon", 1e-5)),
    )


@image_operators.register("InstanceNormalization")
def instance_norm(call: Call) -> Tensor:
    """Each channel of each record by its own mean and variance."""
    return functional.instance_norm(
        call.tensor(0), weight=call.tensor(1), bias=call.tensor(2), eps=float(call.attribute("epsilon", 1e-5))
    )


def _window_mean(x: Tensor, kernel: list[int], strides: list[int]) -> Tensor:
    if len(kernel) == 1:
        return functional.avg_pool1d(x, kernel, stride=strides)
    return (
        functional.avg_pool2d(x, kernel, stride=strides) if len(kernel) == 2 else functional.avg_pool3d(x, kernel, stride=strides)
    )


def _padded(call: Call, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], *, fill: float) -> Tensor:
    """Applies ``pads`` or ``auto_pad`` explicitly, because torch's own padding is symmetric only."""
    spatial = len(kernel)
    mode = call.attribute("auto_pad", b"NOTSET").decode()
    if mode in {"NOTSET", "VALID"}:
        pads = list(call.attribute("pads", [0] * 2 * spatial)) if mode == "NOTSET" else [0] * 2 * spatial
    else:
        totals = []
        for axis in range(spatial):
            size = x.shape[2 + axis]
            out = -(-size // strides[axis])
            totals.append(max(0, (out - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - size))
        before = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
        pads = before + [total - first for total, first in zip(totals, before, strict=True)]
    if not any(pads):
        return x
    order = [size for axis in reversed(range(spatial)) for size in (pads[axis], pads[axis + spatial])]
    return functional.pad(x, order, value=fill)
