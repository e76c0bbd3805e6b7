"""Element-wise operators, activations, reductions and products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from audits.bridge.calls import Call, Registry, Tensor, straight_through

math_operators = Registry()

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
}
_MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Sum": torch.add, "Max": torch.maximum, "Min": torch.minimum}
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
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Softsign": functional.softsign,
    "Mish": functional.mish,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "Identity": lambda x: x,
}
_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {"Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round}
_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim),
    "ReduceSumSquare": lambda x, dim, keepdim: torch.sum(x * x, dim=dim, keepdim=keepdim),
}


@math_operators.register(*_UNARY)
def unary(call: Call) -> Tensor:
    """One tensor in, one out, element by element."""
    return _UNARY[call.node.op](call.tensor(0))


@math_operators.register(*_BINARY)
def binary(call: Call) -> Tensor:
    """Two tensors with numpy broadcasting."""
    return _BINARY[call.node.op](call.tensor(0), call.tensor(1))


@math_operators.register(*_MANY)
def many(call: Call) -> Tensor:
    """Any number of tensors with numpy broadcasting, the first two first."""
    total = call.tensor(0)
    for index in range(1, len(call.inputs)):
        total = _MANY[call.node.op](total, call.tensor(index))
    return total


@math_operators.register(*_ROUNDING)
def rounding(call: Call) -> Tensor:
    """To whole numbers, ties to even; the gradient passes as if nothing was rounded."""
    x = call.tensor(0)
    return straight_through(_ROUNDING[call.node.op](x), x)


@math_operators.register("Mod")
def modulo(call: Call) -> Tensor:
    """The remainder with the sign of the divisor, or of the dividend where ``fmod`` is set."""
    remainder = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    return remainder(call.tensor(0), call.tensor(1))


@math_operators.register("Where")
def where(call: Call) -> Tensor:
    """Picks from two tensors, element by element."""
    return torch.where(call.tensor(0).bool(), call.tensor(1), call.tensor(2))


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


@math_operators.register("LayerNormalization")
def layer_norm(call: Call) -> Tensor:
    """Mean zero and variance one over the axes from ``axis`` on, then scale and bias."""
    if any(call.node.outputs[1:]):
        raise call.unsupported("mean and deviation as outputs")
    x, bias = call.tensor(0), call.optional(2)
    shape = x.shape[int(call.attribute("axis", -1)) % x.dim() :]
    y = functional.layer_norm(x, shape, eps=float(call.attribute("epsilon", 1e-5))) * call.tensor(1)
    return y if bias is None else y + bias


@math_operators.register("Einsum")
def einsum(call: Call) -> Tensor:
    """Products and sums by a formula."""
    return torch.einsum(call.attribute("equation", b"").decode(), *[call.tensor(index) for index in range(len(call.inputs))])


@math_operators.register(*_REDUCTIONS)
def reduce(call: Call) -> Tensor:
    """Reduction over given axes, all of them where none is given."""
    x = call.tensor(0)
    axes = call.integers(1, "axes")
    if axes is None:
        if call.attribute("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    keep = bool(call.attribute("keepdims", 1))
    return _REDUCTIONS[call.node.op](x, dim=axes, keepdim=keep)
