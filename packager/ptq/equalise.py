"""The technique ``equalise``: evens out the channels of values between layers, so that one step suits all of them.

Channels scaled down where they are made and up where they are read compute the same (``channel_groups.py`` says which belong
together). ``by = "weights"``: factors make the rows that make a channel and the columns that read it equally large, as in
Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1. ``by = "activations"``:
a channel that is small on the calibration rows is made larger, which pays where weights have a step per channel and
activations have one for all; the rule is equation 4 of Xiao et al. 2023, "SmoothQuant", carried over to convolutions.

Exact in FP32 but for rounding, which is checked. The graph keeps its nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import UsageError
from packager.data import Dataset
from packager.features import check_own
from packager.feed import feed_rows
from packager.ptq.channel_groups import ChannelGroup, channel_groups
from packager.ptq.graph import Array, GraphView, Layer, attribute, name_nodes
from packager.ptq.observe import observe
from packager.shrink import assert_same_outputs
from packager.toml_table import TomlTable

_BOUND = 1e3
_MAX_ROWS = 128
_TOLERANCE = 1e-4  # of the largest output: rounding of FP32


@dataclass(frozen=True)
class Equalise:
    """Settings. ``strength``: of ``activations``, as in ``smooth``. ``sweeps``: of ``weights``, as groups share layers."""

    by: str = "activations"
    strength: float = 0.5
    sweeps: int = 8

    @classmethod
    def from_toml(cls, table: TomlTable) -> Equalise:
        """Reads the technique's table of a recipe."""
        return cls(
            by=table.text("by", "activations", choices=("activations", "weights")),
            strength=table.number("strength", 0.5, minimum=0.0, maximum=1.0),
            sweeps=table.integer("sweeps", 8, minimum=1, maximum=100),
        )


@dataclass(frozen=True)
class EqualiseResult:
    """The model, and how many groups of layers were evened out."""

    data: bytes
    groups: int


def equalise(data: bytes, config: Equalise, rows: Dataset) -> EqualiseResult:
    """Evens out an FP32 model's layers.

    Args:
        data: the model.
        config: settings.
        rows: calibration rows; at most 128, and the first one shows that outputs stay the same.

    Raises:
        UsageError: no two layers of the model can be evened out (``equalise_nothing``).
        SealiftError: outputs changed, which is a defect here (``pack_outputs_changed``).
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    view = GraphView(model)
    groups = channel_groups(view)
    if not groups:
        raise UsageError(
            "no two layers can be evened out",
            code="equalise_nothing",
            expected="Conv or Gemm, then Relu, pooling or a sum, then Conv, Gemm or MatMul, with weights of their own",
            hint="leave 'equalise' out of the recipe",
        )
    for group in groups:
        for layer in group.makers:
            _own_bias(view, layer)
    if config.by == "activations":
        seen = _seen(model, groups, rows.take(np.arange(min(len(rows), _MAX_ROWS))))
        for group, largest in zip(groups, seen, strict=True):
            _scale(view, group, _factors(view, group, config, largest))
    else:
        for _ in range(config.sweeps):
            for group in groups:
                _scale(view, group, _factors(view, group, config, None))
    for node in model.graph.node:
        node.ClearField("name")
    result = model.SerializeToString(deterministic=True)
    feeds = feed_rows(check_own(data).inputs, rows.inputs)
    assert_same_outputs(data, result, feeds, what="equalise", relative=_TOLERANCE)
    return EqualiseResult(result, len(groups))


def _own_bias(view: GraphView, layer: Layer) -> None:
    """Equal biases are one constant in the normal form; each layer gets its own to change."""
    if layer.bias is None or view.is_private(layer.bias):
        return
    name = f"{layer.name}/bias"
    view.model.graph.initializer.append(numpy_helper.from_array(view.array(layer.bias), name))
    view.tensors[name] = view.model.graph.initializer[-1]
    layer.node.input[2] = name


def _factors(view: GraphView, group: ChannelGroup, config: Equalise, largest: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(channels,), what the group's values are divided by; 1 where a channel is always zero."""
    theirs = _largest([_by_input(view.array(layer.weight).astype(np.float64), layer, group.channels) for layer in group.readers])
    if largest is None:
        ours = _largest([np.moveaxis(view.array(layer.weight).astype(np.float64), layer.axis, 0) for layer in group.makers])
        strength = 0.5
    else:
        ours, strength = largest, config.strength
    usable = (ours > 0) & (theirs > 0)
    factors = np.where(usable, np.where(usable, ours, 1.0) ** strength / np.where(usable, theirs, 1.0) ** (1 - strength), 1.0)
    centre = np.exp(np.log(factors[usable]).mean()) if usable.any() else 1.0  # so that the values keep their overall size
    return np.where(usable, np.clip(factors / centre, 1 / _BOUND, _BOUND), 1.0)


def _largest(matrices: list[Array]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.max([np.abs(matrix).reshape(len(matrix), -1).max(axis=1) for matrix in matrices], axis=0)
    return found


def _scale(view: GraphView, group: ChannelGroup, factors: NDArray[np.float64]) -> None:
    for layer in group.makers:
        rows = np.moveaxis(view.array(layer.weight).astype(np.float64), layer.axis, 0)
        scaled = rows / factors.reshape(-1, *[1] * (rows.ndim - 1))
        view.set_array(layer.weight, np.moveaxis(scaled, 0, layer.axis).astype(np.float32))
        if layer.bias is not None:
            bias = layer.node.input[2]
            view.set_array(bias, (view.array(bias).astype(np.float64) / factors).astype(np.float32))
    for layer in group.readers:
        view.set_array(layer.weight, _scale_inputs(view.array(layer.weight), layer, factors))


def _seen(model: Any, groups: tuple[ChannelGroup, ...], rows: Dataset) -> list[NDArray[np.float64]]:
    """The largest magnitude of each group's channels, over the values that a layer or an addition reads or makes."""
    names = list(dict.fromkeys(value for group in groups for value in group.values))
    largest = [np.zeros(group.channels) for group in groups]
    for values in observe(model, names, rows):
        for index, group in enumerate(groups):
            for value in group.values:
                array = np.abs(values[value].astype(np.float64))
                if array.shape[group.channel_axis] == group.channels:
                    channels = np.moveaxis(array, group.channel_axis, 0).reshape(group.channels, -1)
                    largest[index] = np.maximum(largest[index], channels.max(axis=1))
    return largest


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
