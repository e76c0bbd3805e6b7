"""Quantise and dequantise with straight-through rounding: the forward pass is exact, the backward pass ignores ``round``.

The backward pass keeps the clamp, because exporters fold ReLU into the range of the quantiser. A gradient that dies in a
*trailing* quantiser is dealt with by the logit tap and not here. A dynamic range never cuts anything off, so nothing is
clamped there, and scale and zero point are constants to the gradient. Integers are float32 numbers from here on; their
products are exact up to 2**24. QLinear operators do not come here: ``short_forms.py`` takes them apart.

Source: Bengio et al. 2013, straight-through estimator; ONNX QuantizeLinear (round half to even, saturate),
DynamicQuantizeLinear (range of the whole tensor, with zero in it).
"""

from __future__ import annotations

import torch
from onnx import TensorProto

from audits.bridge.calls import Call, Registry, Tensor, straight_through
from audits.bridge.operators_image import convolve

quantised_operators = Registry()

_RANGES = {torch.int8: (-128.0, 127.0), torch.uint8: (0.0, 255.0), torch.int16: (-32768.0, 32767.0), torch.uint16: (0.0, 65535.0)}
_NAMED_RANGES = {
    TensorProto.INT8: (-128.0, 127.0),
    TensorProto.UINT8: (0.0, 255.0),
    TensorProto.INT16: (-32768.0, 32767.0),
    TensorProto.UINT16: (0.0, 65535.0),
    TensorProto.INT4: (-8.0, 7.0),
    TensorProto.UINT4: (0.0, 15.0),
}


@quantised_operators.register("QuantizeLinear")
def quantise(call: Call) -> Tensor:
    """Integers as float32, so that a gradient can pass; the range comes from the zero point's type or ``output_dtype``."""
    x, scale, zero_point = call.tensor(0), call.tensor(1), call.optional(2)
    low, high = _range(call, zero_point)
    axis, block = int(call.attribute("axis", 1)), int(call.attribute("block_size", 0))
    scaled = x / _along(scale, x, axis, block)
    rounded = straight_through(torch.round(scaled), scaled)
    shifted = rounded if zero_point is None else rounded + _along(zero_point, x, axis, block).float()
    return torch.clamp(shifted, low, high)


@quantised_operators.register("DequantizeLinear")
def dequantise(call: Call) -> Tensor:
    """(q - zero_point) * scale, per tensor, along ``axis``, or in blocks of it."""
    q, scale, zero_point = call.tensor(0).float(), call.tensor(1), call.optional(2)
    axis, block = int(call.attribute("axis", 1)), int(call.attribute("block_size", 0))
    if zero_point is not None:
        q = q - _along(zero_point, q, axis, block).float()
    return q * _along(scale, q, axis, block)


@quantised_operators.register("DynamicQuantizeLinear")
def quantise_by_its_own_range(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Integers 0 to 255, scale and zero point; the caller gives one record at a time, as the device does."""
    x = call.tensor(0)
    held = x.detach()
    low, high = torch.clamp(held.amin(), max=0.0), torch.clamp(held.amax(), min=0.0)
    scale = torch.where(high > low, (high - low) / 255.0, torch.ones_like(high))
    zero_point = torch.clamp(torch.round(-low / scale), 0.0, 255.0)
    scaled = x / scale
    integers = torch.clamp(torch.round(scaled.detach()) + zero_point, 0.0, 255.0)
    return straight_through(integers, scaled), scale, zero_point


@quantised_operators.register("MatMulInteger")
def integer_product(call: Call) -> Tensor:
    """Product of integers minus their zero points; those of the left are by row, those of the right by column."""
    a, b = call.tensor(0).float(), call.tensor(1).float()
    return torch.matmul(_centred(call, a, 2, axis=-2), _centred(call, b, 3, axis=-1))


@quantised_operators.register("ConvInteger")
def integer_convolution(call: Call) -> Tensor:
    """Convolution of integers minus their zero points; padding is the zero point, which is nothing here."""
    x, weight = call.tensor(0).float(), call.tensor(1).float()
    return convolve(call, _centred(call, x, 2, axis=1), _centred(call, weight, 3, axis=0), None)


def _centred(call: Call, values: Tensor, index: int, *, axis: int) -> Tensor:
    zero_point = call.optional(index)
    return values if zero_point is None else values - _along(zero_point, values, axis).float()


def _range(call: Call, zero_point: Tensor | None) -> tuple[float, float]:
    named = int(call.attribute("output_dtype", 0))
    if named:
        if named not in _NAMED_RANGES:
            raise call.unsupported(f"output_dtype {named}")
        return _NAMED_RANGES[named]
    dtype = torch.uint8 if zero_point is None else zero_point.dtype
    if dtype not in _RANGES:
        raise call.unsupported(f"zero point of type {dtype}")
    return _RANGES[dtype]


def _along(values: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """A scalar, one value for each entry of ``axis``, or one for each block of it, shaped to broadcast against ``x``."""
    if values.numel() == 1:
        return values.reshape(())
    if block:
        return torch.repeat_interleave(values, block, dim=axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis % x.dim()] = values.numel()
    return values.reshape(shape)
