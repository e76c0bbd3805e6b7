"""Quantise and dequantise with straight-through rounding: the forward pass is exact, the backward pass ignores ``round``.

The backward pass keeps the clamp, because exporters fold ReLU into the range of the quantiser. A gradient that dies in a
*trailing* quantiser is dealt with by the logit tap and not here.

Source: Bengio et al. 2013, straight-through estimator; ONNX QuantizeLinear (round half to even, saturate).
"""

from __future__ import annotations

import torch

from audits.bridge.calls import Call, Registry, Tensor

quantised_operators = Registry()

_RANGES = {torch.int8: (-128.0, 127.0), torch.uint8: (0.0, 255.0), torch.int16: (-32768.0, 32767.0), torch.uint16: (0.0, 65535.0)}


@quantised_operators.register("QuantizeLinear")
def quantise(call: Call) -> Tensor:
    """Integers as float32, so that a gradient can pass; the range comes from the zero point's type."""
    x, scale, zero_point = call.tensor(0), call.tensor(1), call.optional(2)
    if call.attribute("block_size", 0):
        raise call.unsupported("block_size")
    if zero_point is None and call.attribute("output_dtype", 0):
        raise call.unsupported("output_dtype without a zero point")
    dtype = torch.uint8 if zero_point is None else zero_point.dtype
    if dtype not in _RANGES:
        raise call.unsupported(f"zero point of type {dtype}")
    low, high = _RANGES[dtype]
    axis = int(call.attribute("axis", 1))
    scaled = x / _along(scale, x, axis)
    rounded = scaled + (torch.round(scaled) - scaled).detach()
    shifted = rounded if zero_point is None else rounded + _along(zero_point, x, axis).float()
    return torch.clamp(shifted, low, high)


@quantised_operators.register("DequantizeLinear")
def dequantise(call: Call) -> Tensor:
    """(q - zero_point) * scale, per tensor or along ``axis``."""
    q, scale, zero_point = call.tensor(0).float(), call.tensor(1), call.optional(2)
    if call.attribute("block_size", 0):
        raise call.unsupported("block_size")
    axis = int(call.attribute("axis", 1))
    if zero_point is not None:
        q = q - _along(zero_point, q, axis).float()
    return q * _along(scale, q, axis)


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scalar, or one value for each entry of ``axis``, shaped to broadcast against ``x``."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis % x.dim()] = values.numel()
    return values.reshape(shape)
