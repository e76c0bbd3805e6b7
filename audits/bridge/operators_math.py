"""Element-wise operators, activations, reductions and products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from audits.bridge.calls import Call, Registry, Tensor

math_operators = Registry()

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Max": torch.maximum,
    "Min": torch.minimum,
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Erf": torch.erf,
    "Softplus": functional.softplus,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
}


@math_operators.register(*_UNARY)
def unary(call: Call) -> Tensor:
    """One tensor in, one out, element by element."""
    return _UNARY[call.node.op](call.tensor(0))


@math_operators.register(*_BINARY)
def binary(call: Call) -> Tensor:
    """Two tensors with numpy broadcasting."""
    if len(call.inputs) != 2:
        raise call.unsupported(f"{len(call.inputs)} inputs")
    return _BINARY[call.node.op](call.tensor(0), call.tensor(1))


@math_operators.register("Div")
def divide(call: Call) -> Tensor:
    """Division; of integers it truncates, as ONNX says."""
    a, b = call.tensor(0), call.tensor(1)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@math_operators.register("Clip")
def clip(call: Call) -> Tensor:
    """Bounds from inputs (opset 11 and later) or attributes (before)."""
    low, high = call.optional(1), call.optional(2)
    low_value = call.attribute("min", None) if low is None else low.item()
    high_value = call.attribute("max", None) if high is None else high.item()
    if low_value is None and high_value is None:
        return call.tensor(0)
    return torch.clamp(call.tensor(0), min=low_value, max=high_value)


@math_operators.register("LeakyRelu")
def leaky_relu(call: Call) -> Tensor:
    """Default slope 0.01."""
    return functional.leaky_relu(call.tensor(0), call.attribute("alpha", 0.01))


@math_operators.register("PRelu")
def p_relu(call: Call) -> Tensor:
    """Slope as a tensor."""
    x = call.tensor(0)
    return torch.where(x >= 0, x, x * call.tensor(1))


@math_operators.register("Elu")
def elu(call: Call) -> Tensor:
    """Default alpha 1."""
    return functional.elu(call.tensor(0), call.attribute("alpha", 1.0))


@math_operators.register("Gelu")
def gelu(call: Call) -> Tensor:
    """Exact or tanh form."""
    approximate = call.attribute("approximate", b"none")
    return functional.gelu(call.tensor(0), approximate=approximate.decode() if isinstance(approximate, bytes) else approximate)


@math_operators.register("HardSigmoid")
def hard_sigmoid(call: Call) -> Tensor:
    """max(0, min(1, alpha x + beta))."""
    return torch.clamp(call.attribute("alpha", 0.2) * call.tensor(0) + call.attribute("beta", 0.5), 0.0, 1.0)


@math_operators.register("Softmax", "LogSoftmax")
def softmax(call: Call) -> Tensor:
    """Along one axis; before opset 13 over all dimensions from ``axis`` on."""
    x = call.tensor(0)
    function = functional.softmax if call.node.op == "Softmax" else functional.log_softmax
    axis = int(call.attribute("axis", -1 if call.opset >= 13 else 1))
    if call.opset >= 13:
        return function(x, dim=axis)
    flat = torch.flatten(x, start_dim=axis) if axis else x.reshape(1, -1)
    return function(flat, dim=-1).reshape(x.shape)


@math_operators.register("MatMul")
def mat_mul(call: Call) -> Tensor:
    """Batched product."""
    return torch.matmul(call.tensor(0), call.tensor(1))


@math_operators.register("Gemm")
def gemm(call: Call) -> Tensor:
    """Weighted product plus bias: alpha A' B' + beta C."""
    a, b, c = call.tensor(0), call.tensor(1), call.optional(2)
    a = a.transpose(0, 1) if call.attribute("transA", 0) else a
    b = b.transpose(0, 1) if call.attribute("transB", 0) else b
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    if c is not None and alpha == beta == 1.0 and c.dim() == 1:
        return torch.addmm(c, a, b)
    product = alpha * torch.matmul(a, b)
    return product if c is None else product + beta * c


@math_operators.register("Sum")
def add_all(call: Call) -> Tensor:
    """Sum of any number of tensors."""
    total = call.tensor(0)
    for index in range(1, len(call.inputs)):
        total = total + call.tensor(index)
    return total


@math_operators.register("ReduceMean", "ReduceSum", "ReduceMax")
def reduce(call: Call) -> Tensor:
    """Reduction over given axes, all of them where none is given."""
    x = call.tensor(0)
    axes = call.integers(1, "axes")
    if axes is None:
        if call.attribute("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    keep = bool(call.attribute("keepdims", 1))
    if call.node.op == "ReduceMax":
        return torch.amax(x, dim=axes, keepdim=keep)
    return torch.mean(x, dim=axes, keepdim=keep) if call.node.op == "ReduceMean" else torch.sum(x, dim=axes, keepdim=keep)
