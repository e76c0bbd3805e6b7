"""Operators that move values and do not change them, and the integer arithmetic that exporters do on shapes."""

from __future__ import annotations

import math

import torch
from onnx import TensorProto, numpy_helper
from torch.nn import functional

from audits.bridge.calls import Call, Registry, Tensor

shape_operators = Registry()

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT16: torch.int16,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.BOOL: torch.bool,
}


@shape_operators.register("Flatten")
def flatten(call: Call) -> Tensor:
    """Into two dimensions around ``axis``."""
    x = call.tensor(0)
    axis = int(call.attribute("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


@shape_operators.register("Reshape")
def reshape(call: Call) -> Tensor:
    """0 copies a dimension unless ``allowzero``; -1 is inferred."""
    x = call.tensor(0)
    wanted = call.integers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        wanted = [x.shape[index] if size == 0 else size for index, size in enumerate(wanted)]
    return x.reshape(wanted)


@shape_operators.register("Transpose")
def transpose(call: Call) -> Tensor:
    """Permutes dimensions; reverses them where no order is given."""
    x = call.tensor(0)
    return x.permute(*call.attribute("perm", list(range(x.dim()))[::-1]))


@shape_operators.register("Concat")
def concat(call: Call) -> Tensor:
    """Joins tensors along one axis."""
    return torch.cat([call.tensor(index) for index in range(len(call.inputs))], dim=int(call.attribute("axis", 0)))


@shape_operators.register("Squeeze")
def squeeze(call: Call) -> Tensor:
    """Removes dimensions of size one."""
    x = call.tensor(0)
    axes = call.integers(1, "axes")
    return torch.squeeze(x) if axes is None else torch.squeeze(x, dim=tuple(axes))


@shape_operators.register("Unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    """Inserts dimensions of size one."""
    x = call.tensor(0)
    axes = call.integers(1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@shape_operators.register("Shape")
def shape(call: Call) -> Tensor:
    """The dimensions as int64."""
    dims = list(call.tensor(0).shape)
    return torch.tensor(dims[call.attribute("start", 0) : call.attribute("end", len(dims))], dtype=torch.int64)


@shape_operators.register("Gather")
def gather(call: Call) -> Tensor:
    """Picks entries along one axis; negative indices count from the end."""
    x, index = call.tensor(0), call.tensor(1).long()
    axis = int(call.attribute("axis", 0)) % x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = torch.index_select(x, axis, index.reshape(-1))
    return picked.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


@shape_operators.register("Slice")
def cut(call: Call) -> Tensor:
    """Ranges along axes, forwards or backwards."""
    x = call.tensor(0)
    starts, ends = call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            window = [slice(None)] * x.dim()
            window[axis] = slice(start, end, step)
            x = x[tuple(window)]
        else:
            picked = range(*slice(start, end, step).indices(x.shape[axis]))
            x = torch.index_select(x, axis, torch.tensor(picked, dtype=torch.int64))
    return x


@shape_operators.register("Split")
def split(call: Call) -> tuple[Tensor, ...]:
    """Equal parts, or the sizes that are given."""
    x = call.tensor(0)
    axis = int(call.attribute("axis", 0))
    sizes = call.integers(1, "split")
    if sizes is None:
        sizes = [-(-x.shape[axis] // len(call.node.outputs))] * (len(call.node.outputs) - 1)
        sizes.append(x.shape[axis] - sum(sizes))
    return tuple(torch.split(x, sizes, dim=axis))


@shape_operators.register("Cast")
def cast(call: Call) -> Tensor:
    """Changes the number type; to an integer without a gradient."""
    dtype = _DTYPES.get(call.attribute("to", 0))
    if dtype is None:
        raise call.unsupported(f"target type {call.attribute('to', 0)}")
    return call.tensor(0).to(dtype)


@shape_operators.register("Expand")
def expand(call: Call) -> Tensor:
    """Broadcasts to a shape, in both directions."""
    x = call.tensor(0)
    return x.expand(torch.broadcast_shapes(x.shape, tuple(call.integers(1, "shape") or [])))


@shape_operators.register("ConstantOfShape")
def constant_of_shape(call: Call) -> Tensor:
    """A tensor filled with one value, 0 in float32 where none is given."""
    sizes = call.integers(0, "shape") or []
    value = call.node.attributes.get("value")
    if value is None:
        return torch.zeros(sizes, dtype=torch.float32)
    fill = torch.tensor(numpy_helper.to_array(value))
    return fill.reshape(()).expand(sizes)


@shape_operators.register("Range")
def count(call: Call) -> Tensor:
    """Numbers from a start below an end."""
    start, end, step = (call.tensor(index).item() for index in range(3))
    return torch.arange(start, end, step, dtype=call.tensor(0).dtype)


@shape_operators.register("Tile")
def tile(call: Call) -> Tensor:
    """Repeats along each axis."""
    return call.tensor(0).repeat(call.integers(1, "repeats") or [])


@shape_operators.register("Trilu")
def triangle(call: Call) -> Tensor:
    """The upper or lower triangle, the rest zero."""
    diagonal = (call.integers(1, "k") or [0])[0]
    return torch.triu(call.tensor(0), diagonal) if call.attribute("upper", 1) else torch.tril(call.tensor(0), diagonal)


@shape_operators.register("DepthToSpace")
def depth_to_space(call: Call) -> Tensor:
    """Channels into blocks of pixels."""
    x, size = call.tensor(0), int(call.node.attributes["blocksize"])
    n, c, h, w = x.shape
    if call.attribute("mode", b"DCR") == b"DCR":
        parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // size**2, h * size, w * size)


@shape_operators.register("Pad")
def pad(call: Call) -> Tensor:
    """Constant, reflect or edge padding."""
    x = call.tensor(0)
    sizes = call.integers(1, "pads") or []
    if call.optional(3) is not None:
        raise call.unsupported("axes")
    mode = call.attribute("mode", b"constant").decode()
    half = len(sizes) // 2
    order = [size for axis in reversed(range(half)) for size in (sizes[axis], sizes[axis + half])]
    if mode == "constant":
        value = call.optional(2)
        return functional.pad(x, order, value=call.attribute("value", 0.0) if value is None else value.item())
    while order and order[-2:] == [0, 0]:
        order = order[:-2]
    return functional.pad(x, order, mode="replicate" if mode == "edge" else mode)


@shape_operators.register("Dropout")
def dropout(call: Call) -> Tensor:
    """The identity: inference does not drop."""
    return call.tensor(0)
