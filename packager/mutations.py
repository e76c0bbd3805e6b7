"""Damaged copies of a model, to ask whether golden probes would notice.

Each mutant is one defect that a wrong conversion, a broken kernel or a patched file could bring: an output channel
zeroed or negated, two channels exchanged, a scale or weight off by 10 %, a bias or zero point wrong, outputs
permuted. Which ones are made follows from the model's digest. Copies that equal the original are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_HEAVY_AXES = {"Conv": 0, "ConvTranspose": 1, "QLinearConv": 0}
_INTEGER_FORMS = {"QLinearConv": (3, 4, 6, 8), "QLinearMatMul": (3, 4, 6, None), "MatMulInteger": (1, None, None, None)}
"""Positions of the weights, their scale, the output's scale and the bias."""
_Array = NDArray[Any]


@dataclass(frozen=True)
class Mutant:
    """A damaged model; ``kind`` names the defect."""

    kind: str
    data: bytes


@dataclass(frozen=True)
class _Edit:
    """A constant replaced for one input of one node; other nodes that share it keep the original."""

    kind: str
    node: Any
    position: int
    change: Callable[[_Array], _Array]


def make_mutants(data: bytes, *, count: int, rng: np.random.Generator) -> Iterator[Mutant]:
    """At most ``count`` mutants, taken in turn from each kind of defect.

    Args:
        data: the variant's ONNX bytes, without subgraphs.
        count: upper bound; a small model may have fewer.
        rng: seeded by the caller from a digest.
    """
    model = onnx.load_from_string(data)
    by_kind: dict[str, list[_Edit]] = {}
    for edit in _edits(model, rng):
        by_kind.setdefault(edit.kind, []).append(edit)
    permuted = [mutant for mutant in (_permuted_output(model, output) for output in model.graph.output) if mutant]
    yield from permuted[:count]
    made = len(permuted)
    queues = [[edits[index] for index in rng.permutation(len(edits))] for _, edits in sorted(by_kind.items())]
    while made < count and any(queues):
        for queue in queues:
            mutant = _next_mutant(model, queue)
            if mutant is not None and made < count:
                made += 1
                yield mutant


def _next_mutant(model: Any, queue: list[_Edit]) -> Mutant | None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    while queue:
        edit = queue.pop()
        name = edit.node.input[edit.position]
        before = numpy_helper.to_array(tensors[name])
        after = np.asarray(edit.change(before.copy()), dtype=before.dtype)
        if np.array_equal(before, after):
            continue  # an equal copy cannot be caught
        model.graph.initializer.append(numpy_helper.from_array(after, "sealift_mutated"))
        edit.node.input[edit.position] = "sealift_mutated"
        mutant = Mutant(edit.kind, model.SerializeToString())
        edit.node.input[edit.position] = name
        del model.graph.initializer[-1]
        return mutant
    return None


def _edits(model: Any, rng: np.random.Generator) -> Iterator[_Edit]:
    """Every single defect worth trying."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantised = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    dequantised.update(_widened(model))
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            yield from _layer_edits(node, dequantised, tensors, rng)
        if node.op_type in _INTEGER_FORMS:
            yield from _integer_edits(node, tensors, rng)
        # Of a pair only this half is changed: both halves off by the same factor compute nearly the same.
        if node.op_type == "DequantizeLinear" and node.input[0] not in tensors:
            yield from _activation_edits(node, tensors)


def _widened(model: Any) -> dict[str, Any]:
    """Makers of weights that are stored narrower and widened when the file is loaded: a Cast, or a Cast and a Mul."""
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    scaled = {node.output[0]: casts[node.input[0]] for node in model.graph.node if node.op_type == "Mul" and node.input[0] in casts}
    return {**casts, **scaled}


def _integer_edits(node: Any, tensors: dict[str, Any], rng: np.random.Generator) -> Iterator[_Edit]:
    """Defects of a layer whose operator takes integers."""
    weights, *scales, bias = _INTEGER_FORMS[node.op_type]
    for position in scales:
        if position is not None and node.input[position] in tensors:
            yield _Edit("scale x1.1", node, position, _times_1_1)
    if bias is not None and len(node.input) > bias:
        yield _Edit("bias zeroed", node, bias, np.zeros_like)
    if weights is not None and node.input[weights] in tensors:
        yield from _channel_edits(node, node, weights, tensors[node.input[weights]].dims, rng)


def _layer_edits(node: Any, dequantised: dict[str, Any], tensors: dict[str, Any], rng: np.random.Generator) -> Iterator[_Edit]:
    for index, name in enumerate(node.input[1:3], start=1):
        source = dequantised.get(name)
        owner, position = (node, index) if source is None else (source, 0)
        if owner.input[position] not in tensors:
            continue
        # Not for biases: fused kernels take a bias in units of the other two scales and never read its own (measured).
        if index == 1 and source is not None and len(source.input) > 1 and source.input[1] in tensors:
            yield _Edit("scale x1.1", source, 1, _times_1_1)
        if index == 2:
            yield _Edit("bias zeroed", owner, position, np.zeros_like)
            continue
        if source is None or source.op_type == "Cast":
            yield _Edit("weights x1.1", owner, position, _times_1_1)
        yield from _channel_edits(node, owner, position, tensors[owner.input[position]].dims, rng)


def _channel_edits(node: Any, owner: Any, position: int, dims: Any, rng: np.random.Generator) -> Iterator[_Edit]:
    """Defects of single output channels of ``node``, whose weights are an input of ``owner``."""
    axis, channels = _output_axis(node, dims)
    for channel in rng.permutation(channels)[:16].tolist():
        other = (channel + 1) % channels
        yield _Edit("channel zeroed", owner, position, partial(_on_channel, channel=channel, axis=axis, factor=0))
        yield _Edit("channel negated", owner, position, partial(_on_channel, channel=channel, axis=axis, factor=-1))
        if channels > 1:
            yield _Edit("channels exchanged", owner, position, partial(_exchange, channel=channel, other=other, axis=axis))


def _activation_edits(node: Any, tensors: dict[str, Any]) -> Iterator[_Edit]:
    if node.input[1] in tensors:
        yield _Edit("activation scale x1.1", node, 1, _times_1_1)
    if len(node.input) == 3 and node.input[2] in tensors:
        yield _Edit("zero point off by 8", node, 2, _shifted)


def _times_1_1(array: _Array) -> _Array:
    return np.asarray(array * 1.1)


def _shifted(array: _Array) -> _Array:
    return np.where(array > 127, array - 8, array + 8)


def _output_axis(node: Any, dims: Any) -> tuple[int, int]:
    """Which axis of the weights is the output channel, and how many there are."""
    axis = _HEAVY_AXES.get(node.op_type, len(dims) - 1)
    if node.op_type == "Gemm" and any(item.name == "transB" and item.i for item in node.attribute):
        axis = 0
    return axis, int(dims[axis])


def _on_channel(array: _Array, *, channel: int, axis: int, factor: int) -> _Array:
    view = np.moveaxis(array, axis, 0)
    view[channel] = view[channel] * factor
    return array


def _exchange(array: _Array, *, channel: int, other: int, axis: int) -> _Array:
    view = np.moveaxis(array, axis, 0)
    view[[channel, other]] = view[[other, channel]]
    return array


def _permuted_output(model: Any, output: Any) -> Mutant | None:
    """The values of the last axis shifted by one: classes under each other's names."""
    dims = output.type.tensor_type.shape.dim
    if len(dims) < 2 or dims[-1].dim_value < 2:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inner = "sealift_permuted"
    for node in copy.graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = inner
        for index, name in enumerate(node.input):
            if name == output.name:
                node.input[index] = inner
    order = np.roll(np.arange(dims[-1].dim_value, dtype=np.int64), 1)
    copy.graph.initializer.append(numpy_helper.from_array(order, "sealift_order"))
    copy.graph.node.append(helper.make_node("Gather", [inner, "sealift_order"], [output.name], axis=len(dims) - 1))
    return Mutant("outputs permuted", copy.SerializeToString())
