"""Bias correction: rounding shifts the mean of a layer's output; the bias takes the shift back.

Layer by layer in graph order, each with the layers before it corrected already, as errors add up along the way. The shift is
measured per channel on calibration rows, in the quantised model against the FP32 one. Layers without a bias keep their shift.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2, with means
measured instead of derived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.data import Dataset
from packager.ptq.graph import GraphView, Layer, attribute, layers
from packager.ptq.observe import observe

MAX_PASSES = 32
MAX_ROWS = 128


@dataclass(frozen=True)
class _Target:
    """A layer whose bias can be corrected. ``output``: the value's name in the quantised model; ``bias``: the integers'."""

    layer: Layer
    output: str
    bias: str
    scale: NDArray[np.float64]


def correct_biases(model: Any, quantised: Any, calibration: Dataset) -> str:
    """Changes the biases of ``quantised`` in place, and says how many.

    Args:
        model: the FP32 model that ``quantised`` was made from, with the same node names.
        quantised: with integer biases behind DequantizeLinear.
        calibration: at most 128 of its rows are used; at most 32 passes over them.
    """
    targets = _targets(model, quantised)
    if not targets:
        return "bias correction: no layer has a bias of its own"
    rows = calibration.take(np.arange(min(len(calibration), MAX_ROWS)))
    wanted = _means(model, {target.layer.node.output[0]: target.layer for target in targets}, rows)
    view = GraphView(quantised)
    size = -(-len(targets) // MAX_PASSES)
    for start in range(0, len(targets), size):
        part = targets[start : start + size]
        means = _means(quantised, {target.output: target.layer for target in part}, rows)
        for target in part:
            shift = means[target.output] - wanted[target.layer.node.output[0]]
            before = view.array(target.bias).astype(np.float64)
            after = np.clip(before - np.rint(shift / target.scale), -(2**31), 2**31 - 1)
            view.set_array(target.bias, after.astype(np.int32))
    return f"bias correction: {len(targets)} layers"


def _targets(model: Any, quantised: Any) -> Sequence[_Target]:
    view = GraphView(quantised)
    nodes = {node.name: node for node in quantised.graph.node}
    found = []
    for layer in layers(GraphView(model)):
        node = nodes.get(layer.name)
        if layer.bias is None or node is None or len(node.input) < 3 or float(attribute(node, "beta", 1.0)) != 1.0:
            continue
        source = view.producers.get(node.input[2])
        if source is None or source.op_type != "DequantizeLinear" or not view.is_private(node.input[2]):
            continue
        name, scale = source.input[0], source.input[1]
        if name in view.tensors and scale in view.tensors and view.is_private(name) and len(view.tensors[name].dims) == 1:
            found.append(_Target(layer, node.output[0], name, view.array(scale).astype(np.float64)))
    return found


def _means(model: Any, outputs: Mapping[str, Layer], rows: Dataset) -> dict[str, NDArray[np.float64]]:
    """Mean of each output per channel, (C_out,), over rows and positions."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    for values in observe(model, list(outputs), rows):
        for name, array in values.items():
            axis = 1 if outputs[name].node.op_type in ("Conv", "ConvTranspose") else array.ndim - 1
            others = tuple(index for index in range(array.ndim) if index != axis)
            sums[name] = sums.get(name, np.float64(0)) + array.sum(axis=others, dtype=np.float64)
            counts[name] = counts.get(name, 0) + array.size // array.shape[axis]
    return {name: total / counts[name] for name, total in sums.items()}
