"""The technique ``equalise``: evens out the channels between two layers, so that one step suits all of them.

A channel scaled down by ``s`` in one layer and up by ``s`` in the next computes the same where only positively homogeneous
operators lie between (Relu, LeakyRelu, pooling, flattening). ``s`` is chosen so that both layers span the same range in
every channel. Exact in FP32 but for rounding, which is checked. Data-free; the graph keeps its nodes.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import UsageError
from packager.data import Dataset
from packager.ptq.graph import Array, GraphView, Layer, attribute, layers, name_nodes
from packager.shrink import assert_same_outputs
from packager.toml_table import TomlTable

_BETWEEN = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Reshape"})
_BOUND = 1e3
_TOLERANCE = 1e-4  # of the largest output: rounding of FP32


@dataclass(frozen=True)
class Equalise:
    """Settings. ``sweeps``: over all pairs, as the pairs of a chain share layers."""

    sweeps: int = 8

    @classmethod
    def from_toml(cls, table: TomlTable) -> Equalise:
        """Reads the technique's table of a recipe."""
        return cls(sweeps=table.integer("sweeps", 8, minimum=1, maximum=100))


@dataclass(frozen=True)
class EqualiseResult:
    """The model, and how many pairs of layers were evened out."""

    data: bytes
    pairs: int


def equalise(data: bytes, config: Equalise, rows: Dataset) -> EqualiseResult:
    """Evens out an FP32 model's layers.

    Args:
        data: the model.
        config: settings.
        rows: of any part; the first one shows that outputs stay the same.

    Raises:
        UsageError: no two layers of the model can be evened out (``equalise_nothing``).
        SealiftError: outputs changed, which is a defect here (``pack_outputs_changed``).
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    view = GraphView(model)
    found = list(_pairs(view))
    if not found:
        raise UsageError(
            "no two layers can be evened out",
            code="equalise_nothing",
            expected="Conv or Gemm, then Relu or pooling, then Conv, Gemm or MatMul, with weights of their own",
            hint="leave 'equalise' out of the recipe",
        )
    for first, _ in found:
        _own_bias(view, first)
    for _ in range(config.sweeps):
        for first, second in found:
            _balance(view, first, second)
    for node in model.graph.node:
        node.ClearField("name")
    result = model.SerializeToString(deterministic=True)
    feeds = {name: array[:1] for name, array in rows.inputs.items()}
    assert_same_outputs(data, result, feeds, what="equalise", relative=_TOLERANCE)
    return EqualiseResult(result, len(found))


def _pairs(view: GraphView) -> Iterator[tuple[Layer, Layer]]:
    """Layers with only homogeneous operators between them, and weights that nobody else reads."""
    found = {layer.name: layer for layer in layers(view) if view.is_private(layer.weight) and _is_plain(layer.node)}
    for first in found.values():
        if first.node.op_type == "MatMul" or len(view.tensors[first.weight].dims) < 2:
            continue  # its bias is another node's
        if first.bias is not None and not (view.is_float(first.bias) and len(view.tensors[first.bias].dims) == 1):
            continue
        value = first.node.output[0]
        while (
            view.is_private(value)
            and view.consumers[value][0].op_type in _BETWEEN
            and _keeps_channels(view, view.consumers[value][0], value)
        ):
            value = view.consumers[value][0].output[0]
        if not view.is_private(value):
            continue
        second = found.get(view.consumers[value][0].name)
        if second is not None and second.node.input[0] == value and _fits(view, first, second):
            yield first, second


def _is_plain(node: Any) -> bool:
    if node.op_type == "ConvTranspose":
        return False
    return not attribute(node, "transA", 0) and all(float(attribute(node, name, 1.0)) == 1.0 for name in ("alpha", "beta"))


def _keeps_channels(view: GraphView, node: Any, value: str) -> bool:
    if node.op_type == "Flatten":
        return int(attribute(node, "axis", 1)) == 1
    if node.op_type != "Reshape":
        return bool(node.input[0] == value)
    shape = view.array(node.input[1]).reshape(-1) if node.input[1] in view.tensors else np.zeros(0)
    return bool(shape.size == 2 and node.input[0] == value)  # (batch, all the rest), channels first


def _fits(view: GraphView, first: Layer, second: Layer) -> bool:
    channels = view.tensors[first.weight].dims[first.axis]
    inputs = _input_count(view, second)
    return bool(inputs % channels == 0) and (inputs == channels or (first.node.op_type == "Conv" and second.node.op_type != "Conv"))


def _input_count(view: GraphView, layer: Layer) -> int:
    dims = view.tensors[layer.weight].dims
    if layer.node.op_type == "Conv":
        return int(dims[1]) * int(attribute(layer.node, "group", 1))
    return int(dims[1 - layer.axis])


def _own_bias(view: GraphView, layer: Layer) -> None:
    """Equal biases are one constant in the normal form; each layer gets its own to change."""
    if layer.bias is None or view.is_private(layer.bias):
        return
    name = f"{layer.name}/bias"
    view.model.graph.initializer.append(numpy_helper.from_array(view.array(layer.bias), name))
    view.tensors[name] = view.model.graph.initializer[-1]
    layer.node.input[2] = name


def _balance(view: GraphView, first: Layer, second: Layer) -> None:
    rows = np.moveaxis(view.array(first.weight).astype(np.float64), first.axis, 0)
    channels = rows.shape[0]
    columns = _by_input(view.array(second.weight).astype(np.float64), second, channels)
    ours = np.abs(rows.reshape(channels, -1)).max(axis=1)
    theirs = np.abs(columns).reshape(channels, -1).max(axis=1)
    usable = (ours > 0) & (theirs > 0)
    scale = np.where(usable, np.sqrt(np.where(usable, ours, 1.0) / np.where(usable, theirs, 1.0)), 1.0)
    scale = np.clip(scale, 1 / _BOUND, _BOUND)
    scaled = rows / scale.reshape(-1, *[1] * (rows.ndim - 1))
    view.set_array(first.weight, np.moveaxis(scaled, 0, first.axis).astype(np.float32))
    if first.bias is not None:
        bias = first.node.input[2]
        view.set_array(bias, (view.array(bias).astype(np.float64) / scale).astype(np.float32))
    view.set_array(second.weight, _scale_inputs(view.array(second.weight), second, scale))


def _by_input(weights: Array, layer: Layer, channels: int) -> Array:
    """(channels, ...): what each of the first layer's channels is multiplied with."""
    if layer.node.op_type == "Conv":
        groups = int(attribute(layer.node, "group", 1))
        split = weights.reshape(groups, weights.shape[0] // groups, weights.shape[1], -1)
        return split.transpose(0, 2, 1, 3).reshape(channels, -1)
    return np.moveaxis(weights, 1 - layer.axis, 0).reshape(channels, -1)


def _scale_inputs(weights: Array, layer: Layer, scale: NDArray[np.float64]) -> Array:
    if layer.node.op_type == "Conv":
        groups = int(attribute(layer.node, "group", 1))
        split = weights.reshape(groups, weights.shape[0] // groups, weights.shape[1], -1).astype(np.float64)
        return (split * scale.reshape(groups, 1, weights.shape[1], 1)).reshape(weights.shape).astype(np.float32)
    axis = 1 - layer.axis
    factors = np.repeat(scale, weights.shape[axis] // len(scale))
    shaped = factors.reshape(-1, 1) if axis == 0 else factors.reshape(1, -1)
    return (weights.astype(np.float64) * shaped).astype(np.float32)
