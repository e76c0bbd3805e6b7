"""What each operator does with the channels of its inputs. Operators that are not here fix them.

A rule reads the channels of the node's inputs, says which of its constants are cut with them, and gives channels to its
output. Semantics: ONNX operator texts, opset 13 and higher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from packager.prune_onnx.graph import attribute
from packager.prune_onnx.trace import Channels, Mixer, Resize, Trace, gather, spread
from packager.prune_onnx.units import FIXED, Ids

_ELEMENTWISE = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign"),
    *("Clip", "Erf", "Gelu", "Mish", "ThresholdedRelu", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Sin", "Cos"),
    *("Floor", "Ceil", "Round", "Identity", "Dropout", "Cast"),
)
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Min", "Max", "Sum", "Mean")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_REDUCTIONS = tuple(f"Reduce{name}" for name in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"))


def _conv(trace: Trace, index: int, node: Any) -> None:
    weight = trace.view.constant(node, 1)
    if weight is None or (len(node.input) > 2 and node.input[2] and trace.view.constant(node, 2) is None):
        trace.fix_inputs(node)
        return
    groups, inputs = attribute(node, "group", 1), trace.units_at(node, 0, 1)
    if groups == 1:
        outputs = trace.units.new(len(weight), owner=index)
        trace.cut(index, 1, 1, inputs)
    elif groups == len(inputs):  # depthwise: a channel gives one or more of its own
        outputs = np.repeat(inputs, len(weight) // groups)
        trace.grouped.append((index, inputs))
    else:  # every group keeps the same number: the channels at one position of all groups go together
        outputs = trace.units.new(len(weight), owner=index)
        for units in (inputs, outputs):
            for part in units.reshape(groups, -1)[1:]:
                trace.units.couple(units.reshape(groups, -1)[0], part)
        trace.cut(index, 1, 1, inputs.reshape(groups, -1)[0])
    _layer_outputs(trace, index, node, outputs, weight_axis=0)
    trace.mixers.append(Mixer(index, inputs, outputs, groups))
    trace.give(node.output[0], 1, outputs)


def _layer_outputs(trace: Trace, index: int, node: Any, outputs: Ids, *, weight_axis: int) -> None:
    trace.cut(index, 1, weight_axis, outputs)
    bias = trace.view.constant(node, 2)
    if bias is not None and bias.ndim and bias.shape[-1] == len(outputs):
        trace.cut(index, 2, bias.ndim - 1, outputs)


def _conv_transpose(trace: Trace, index: int, node: Any) -> None:
    weight = trace.view.constant(node, 1)
    if weight is None or attribute(node, "group", 1) != 1:
        trace.fix_inputs(node)
        return
    inputs, outputs = trace.units_at(node, 0, 1), trace.units.new(weight.shape[1], owner=index)
    trace.cut(index, 1, 0, inputs)
    _layer_outputs(trace, index, node, outputs, weight_axis=1)
    trace.mixers.append(Mixer(index, inputs, outputs))
    trace.give(node.output[0], 1, outputs)


def _gemm(trace: Trace, index: int, node: Any) -> None:
    weight, transposed = trace.view.constant(node, 1), attribute(node, "transB", 0)
    computed_bias = len(node.input) > 2 and node.input[2] and trace.view.constant(node, 2) is None
    if weight is None or attribute(node, "transA", 0) or computed_bias or node.input[0] in trace.view.constants:
        trace.fix_inputs(node)
        return
    inputs = trace.units_at(node, 0, 1)
    outputs = trace.units.new(weight.shape[0 if transposed else 1], owner=index)
    trace.cut(index, 1, 1 if transposed else 0, inputs)
    _layer_outputs(trace, index, node, outputs, weight_axis=0 if transposed else 1)
    trace.mixers.append(Mixer(index, inputs, outputs))
    trace.give(node.output[0], 1, outputs)


def _matmul(trace: Trace, index: int, node: Any) -> None:
    weight = trace.view.constant(node, 1)
    if weight is None or weight.ndim != 2 or node.input[0] in trace.view.constants or len(trace.view.shapes[node.input[0]]) < 2:
        trace.fix_inputs(node)
        return
    inputs = trace.units_at(node, 0, len(trace.view.shapes[node.input[0]]) - 1)
    outputs = trace.units.new(weight.shape[1], owner=index)
    trace.cut(index, 1, 0, inputs)
    trace.cut(index, 1, 1, outputs)
    trace.mixers.append(Mixer(index, inputs, outputs))
    trace.give(node.output[0], len(trace.view.shapes[node.output[0]]) - 1, outputs)


def _recurrent(trace: Trace, index: int, node: Any) -> None:
    """The input's features can go; the hidden units stay."""
    weight = trace.view.constant(node, 1)
    trace.fix_inputs(node, skip=(0,))
    if weight is None or attribute(node, "layout", 0):
        trace.fix_inputs(node)
        return
    inputs = trace.units_at(node, 0, 2)
    trace.cut(index, 1, 2, inputs)
    trace.mixers.append(Mixer(index, inputs, np.full(weight.shape[1], FIXED, dtype=np.int64)))


def _same(trace: Trace, index: int, node: Any) -> None:
    """Each element by itself."""
    trace.fix_inputs(node, skip=() if len(node.output) > 1 else (0,))
    if (found := trace.of(node)) is not None:
        trace.give(node.output[0], found.axis, found.units)


def _broadcast(trace: Trace, index: int, node: Any) -> None:
    """Elements of several tensors meet by the broadcasting rule: axes are counted from the end."""
    shape = trace.view.shapes[node.output[0]]
    given = {at: found for at in range(len(node.input)) if (found := trace.of(node, at)) is not None}
    places = {found.axis - len(trace.view.shapes[node.input[at]]) for at, found in given.items()}
    if len(places) != 1 or any(len(found.units) != shape[next(iter(places))] for found in given.values()):
        trace.fix_inputs(node)
        return
    place = next(iter(places))
    first = next(iter(given.values())).units
    for found in given.values():
        trace.units.couple(first, found.units)
    for at, name in enumerate(node.input):
        own = trace.view.constants[name].shape if name in trace.view.constants else trace.view.shapes[name]
        if at in given or len(own) < -place or own[place] == 1:
            continue
        if name in trace.view.constants:
            trace.cut(index, at, len(own) + place, first)
        else:  # a tensor whose values along this axis are no channels
            trace.units.fix(first)
    trace.give(node.output[0], len(shape) + place, first)


def _pool(trace: Trace, index: int, node: Any) -> None:
    units = trace.units_at(node, 0, 1)
    if len(node.output) > 1:  # indices into the whole tensor
        trace.units.fix(units)
    trace.give(node.output[0], 1, units)


def _normalisation(trace: Trace, index: int, node: Any) -> None:
    """Statistics of each channel by itself, so it can go with its scale, bias, mean and variance."""
    units = trace.units_at(node, 0, 1)
    if any(trace.view.constant(node, at) is None for at in range(1, len(node.input))):
        trace.fix_inputs(node)
        return
    for at in range(1, len(node.input)):
        trace.cut(index, at, 0, units)
    trace.give(node.output[0], 1, units)


def _reduce(trace: Trace, index: int, node: Any) -> None:
    found, axes = trace.of(node), trace.view.constant(node, 1)
    if found is None:
        return
    rank = len(trace.view.shapes[node.input[0]])
    listed = attribute(node, "axes", []) if axes is None else axes.reshape(-1).tolist()
    reduced = {axis % rank for axis in listed}
    if not reduced or found.axis in reduced:
        trace.fix_inputs(node)
        return
    kept = attribute(node, "keepdims", 1)
    trace.give(node.output[0], found.axis - (0 if kept else sum(axis < found.axis for axis in reduced)), found.units)


def _softmax(trace: Trace, index: int, node: Any) -> None:
    found = trace.of(node)
    if found is None:
        return
    if attribute(node, "axis", -1) % len(trace.view.shapes[node.input[0]]) == found.axis:
        trace.fix_inputs(node)
        return
    trace.give(node.output[0], found.axis, found.units)


def _concat(trace: Trace, index: int, node: Any) -> None:
    axis = attribute(node, "axis", 0) % len(trace.view.shapes[node.output[0]])
    if any(name in trace.view.constants for name in node.input):
        trace.fix_inputs(node)
        return
    given = [found for at in range(len(node.input)) if (found := trace.of(node, at)) is not None]
    if not given:
        return
    if all(found.axis == axis for found in given):
        trace.give(node.output[0], axis, np.concatenate([trace.units_at(node, at, axis) for at in range(len(node.input))]))
    elif len(given) == len(node.input) and len({found.axis for found in given}) == 1:
        for found in given[1:]:
            trace.units.couple(given[0].units, found.units)
        trace.give(node.output[0], given[0].axis, given[0].units)
    else:
        trace.fix_inputs(node)


def _split(trace: Trace, index: int, node: Any) -> None:
    found = trace.of(node)
    if found is None:
        return
    if attribute(node, "axis", 0) % len(trace.view.shapes[node.input[0]]) == found.axis:
        trace.fix_inputs(node)
        return
    for name in node.output:
        trace.give(name, found.axis, found.units)


def _slice(trace: Trace, index: int, node: Any) -> None:
    found = trace.of(node)
    rank = len(trace.view.shapes[node.input[0]]) if found else 0
    starts, axes = trace.view.constant(node, 1), trace.view.constant(node, 3)
    if found is None or starts is None or (len(node.input) > 3 and node.input[3] and axes is None):
        trace.fix_inputs(node)
        return
    listed = range(len(starts)) if axes is None else axes.tolist()
    if found.axis in {axis % rank for axis in listed}:
        trace.fix_inputs(node)
        return
    trace.give(node.output[0], found.axis, found.units)


def _pad(trace: Trace, index: int, node: Any) -> None:
    found, pads = trace.of(node), trace.view.constant(node, 1)
    if found is None or pads is None or (len(node.input) > 3 and node.input[3]):
        trace.fix_inputs(node)
        return
    rank = len(trace.view.shapes[node.input[0]])
    if pads[found.axis] or pads[found.axis + rank]:
        trace.fix_inputs(node)
        return
    trace.give(node.output[0], found.axis, found.units)


def _resize(trace: Trace, index: int, node: Any) -> None:
    found, scales, sizes = trace.of(node), trace.view.constant(node, 2), trace.view.constant(node, 3)
    whole = attribute(node, "axes", []) == [] and attribute(node, "coordinate_transformation_mode", "") != "tf_crop_and_resize"
    if found is None or not whole:
        trace.fix_inputs(node)
    elif scales is not None and scales.size and scales[found.axis] == 1:
        trace.give(node.output[0], found.axis, found.units)
    elif sizes is not None and sizes.size and sizes[found.axis] == len(found.units):
        trace.resizes.append(Resize(index, 3, found.axis, found.units))
        trace.give(node.output[0], found.axis, found.units)
    else:
        trace.fix_inputs(node)


def _transpose(trace: Trace, index: int, node: Any) -> None:
    if (found := trace.of(node)) is not None:
        rank = len(trace.view.shapes[node.input[0]])
        order = list(attribute(node, "perm", range(rank - 1, -1, -1)))
        trace.give(node.output[0], order.index(found.axis), found.units)


def _reshape(trace: Trace, index: int, node: Any) -> None:
    """Any operator that only renames positions: Reshape, Flatten, Squeeze, Unsqueeze."""
    found = trace.of(node)
    if found is None:
        return
    is_reshape = node.op_type == "Reshape"
    if is_reshape and trace.view.constant(node, 1) is None:
        trace.fix_inputs(node)
        return
    placed = gather(spread(found, trace.view.shapes[node.input[0]]).reshape(trace.view.shapes[node.output[0]]))
    if placed is None:
        trace.fix_inputs(node)
        return
    if is_reshape:
        trace.resizes.append(Resize(index, 1, placed.axis, placed.units))
    trace.give(node.output[0], placed.axis, placed.units)


def _gather(trace: Trace, index: int, node: Any) -> None:
    """Takes positions along another axis, such as the last step of a sequence."""
    found, positions = trace.of(node), trace.view.constant(node, 1)
    if found is None or positions is None:
        trace.fix_inputs(node)
        return
    axis = attribute(node, "axis", 0) % len(trace.view.shapes[node.input[0]])
    if axis == found.axis:
        trace.fix_inputs(node)
        return
    moved = Channels(found.axis + (positions.ndim - 1 if axis < found.axis else 0), found.units)
    trace.give(node.output[0], moved.axis, moved.units)


Rule = Callable[[Trace, int, Any], None]

RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "BatchNormalization": _normalisation,
    "InstanceNormalization": _normalisation,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Gather": _gather,
    **dict.fromkeys(_ELEMENTWISE, _same),
    **dict.fromkeys(_BROADCASTING, _broadcast),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
"""By operator type of the standard domain."""
