"""Which nodes cost most when they alone are quantised: the table that says what to leave in FP32.

Each node is tried by itself in the FP32 model: what it reads goes through 8 bits and back, its weights are those of the INT8
model, everything else is exact. The figure is the signal to noise ratio of the model's output on calibration rows; where the
model ends in a Softmax, of the values before it, which a Softmax would flatten. One session per node, or per run of
neighbours where there are more than 64. What it does not show: how errors of several nodes add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from packager.data import Dataset
from packager.ptq.graph import Array, GraphView, layers, name_nodes
from packager.ptq.observe import float_values, observe
from packager.ptq.ranges import Range, find_ranges
from packager.ptq.static import Int8Static, excluded_nodes, operators
from packager.ptq.weight_only import MIN_LOW_BITS

MAX_SESSIONS = 64
_ROWS, _LARGE_ROWS = 32, 8
_LARGE_BYTES = 1_000_000
_COMPUTING = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "Resize"}
)
_EXACT_DB = 200.0


@dataclass(frozen=True)
class NodeSensitivity:
    """Nodes that were quantised alone. ``sqnr_db``: of the model's output, decibel; lower is worse. ``error``: mean square."""

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    sqnr_db: float
    error: float

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "nodes": list(self.nodes),
            "operators": list(self.operators),
            "sqnr_db": round(self.sqnr_db, 2),
            "mean_squared_error": float(f"{self.error:.4g}"),
        }


def sensitivity(
    data: bytes, config: Int8Static, calibration: Dataset, *, weight_bits: int | None = None
) -> tuple[NodeSensitivity, ...]:
    """The table, worst first.

    Args:
        data: the FP32 model as ``int8-static`` would get it.
        config: of that technique.
        calibration: at most 32 of its rows are used, 8 where the model is larger than a megabyte.
        weight_bits: for techniques that round weights alone: to so many bits, and activations stay exact.

    Raises:
        UsageError: the settings leave nothing to quantise.
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    ops = operators(model, config)
    left = set(excluded_nodes(model, config, ops))
    nodes = [node for node in model.graph.node if node.op_type in ops and node.op_type in _COMPUTING and node.name not in left]
    rows = calibration.take(np.arange(min(len(calibration), _ROWS if len(data) < _LARGE_BYTES else _LARGE_ROWS)))
    limit = (64 if config.reduce_range else 127) if weight_bits is None else 2 ** (weight_bits - 1) - 1
    if weight_bits is not None:
        view = GraphView(model)
        with_weights = {layer.name for layer in layers(view) if view.array(layer.weight).size >= MIN_LOW_BITS}
        nodes = [node for node in nodes if node.name in with_weights]
    names = float_values(model, [name for node in nodes for name in node.input]) if weight_bits is None else ()
    ranges = find_ranges(model, names, rows, method=config.calibration, percentile=config.percentile)
    output = _judged_output(model)
    exact = _output(model, output, rows)
    size = -(-len(nodes) // MAX_SESSIONS)
    found = []
    for start in range(0, len(nodes), size):
        part = nodes[start : start + size]
        value = _output(_quantised_alone(model, part, ranges, limit=limit, per_channel=config.per_channel), output, rows)
        error = float(np.square(exact - value).mean())
        signal = float(np.square(exact).mean())
        ratio = _EXACT_DB if error <= 0 else min(_EXACT_DB, 10 * math.log10(max(signal, 1e-30) / error))
        found.append(NodeSensitivity(tuple(node.name for node in part), tuple(node.op_type for node in part), ratio, error))
    return tuple(sorted(found, key=lambda item: (item.sqnr_db, item.nodes)))


def _judged_output(model: Any) -> str:
    view = GraphView(model)
    name = str(model.graph.output[0].name)
    maker = view.producers.get(name)
    return str(maker.input[0]) if maker is not None and maker.op_type == "Softmax" else name


def _output(model: Any, name: str, rows: Dataset) -> Array:
    return np.concatenate([values[name].astype(np.float64).reshape(-1) for values in observe(model, [name], rows)])


def _quantised_alone(model: Any, nodes: Sequence[Any], ranges: Mapping[str, Range], *, limit: int, per_channel: bool) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    view = GraphView(copy)
    by_name = {layer.name: layer for layer in layers(view)}
    chosen = {node.name for node in nodes}
    made = []
    for node in copy.graph.node:
        if node.name in chosen:
            for position, name in enumerate(node.input):
                if name in ranges and ranges[name][1] > ranges[name][0]:
                    made += _through_8_bits(copy, node, position, ranges[name])
            layer = by_name.get(node.name)
            if layer is not None:
                rounded = _rounded(view.array(layer.weight), layer.axis, limit=limit, per_channel=per_channel)
                copy.graph.initializer.append(numpy_helper.from_array(rounded, f"{node.name}/weight"))
                node.input[1] = f"{node.name}/weight"
        made.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    return copy


def _through_8_bits(model: Any, node: Any, position: int, ends: Range) -> list[Any]:
    scale = (ends[1] - ends[0]) / 255
    zero = int(np.clip(np.rint(-ends[0] / scale), 0, 255))
    prefix, source = f"{node.name}/{position}", node.input[position]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.asarray(scale, dtype=np.float32), f"{prefix}/scale"),
            numpy_helper.from_array(np.asarray(zero, dtype=np.uint8), f"{prefix}/zero"),
        ]
    )
    node.input[position] = f"{prefix}/x"
    constants = [f"{prefix}/scale", f"{prefix}/zero"]
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [f"{prefix}/q"]),
        helper.make_node("DequantizeLinear", [f"{prefix}/q", *constants], [f"{prefix}/x"]),
    ]


def _rounded(weights: Array, axis: int, *, limit: int, per_channel: bool) -> Array:
    others = tuple(index for index in range(weights.ndim) if index != axis)
    ends = np.abs(weights).max(axis=others if per_channel else None, keepdims=True)
    scale = np.where(ends > 0, ends / limit, 1.0)
    return np.asarray(np.clip(np.rint(weights / scale), -limit, limit) * scale, dtype=np.float32)
