"""The technique ``int8-static``: activations and weights in 8 bits, with ranges from the calibration part.

onnxruntime's quantiser is the engine (``engine.py``). What is ours: which operators and nodes take part, the ranges
(``ranges.py``), 7-bit weights by default, rounding and biases that make up for the error (``rerounding.py``, ``bias.py``),
the short form with QLinear operators (``qoperator.py``), exclusion of nodes with huge constants (an attention mask of -1e9
took a language model's perplexity from 17 to 1195), and the check that something did change.

Why 7 bits: without VNNI, x86 multiplies unsigned by signed bytes into saturating 16-bit sums, and 255 * 127 * 2 does
not fit: an 8-bit variant fell from 92 % to 8 % on such a CPU. With weights in [-64, 64] the largest sum is
255 * 64 * 2 = 32640, below 2**15. The cost is one bit of weight precision. ``saturation.py`` judges the result by its bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from device_client.errors import SealiftError, UsageError
from packager.data import Dataset
from packager.ptq.bias import correct_biases
from packager.ptq.engine import EnginePlan, insert_pairs, values_of
from packager.ptq.graph import HEAVY_OPS, name_nodes
from packager.ptq.observe import float_values
from packager.ptq.qoperator import to_qoperator
from packager.ptq.ranges import METHODS, find_ranges
from packager.ptq.rerounding import reround
from packager.shrink import shrink_model
from packager.toml_table import TomlTable

LIGHT_OPS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Quantised too in plain convolutional networks, so that data stays 8-bit between heavy operators."""

_PER_TENSOR_RANGES_HURT = frozenset({"Erf", "Gelu", "LayerNormalization", "InstanceNormalization", "SimplifiedLayerNormalization"})
_HUGE = 1e4  # constants beyond it are masks, not data
FORMATS = ("qdq", "qoperator")
ROUNDINGS = ("nearest", "gptq", "adaround")


@dataclass(frozen=True)
class Int8Static:
    """Settings of the technique ``int8-static``.

    ``calibration``: how activation ranges follow from the calibration part (``ranges.py``); ``percentile``: of that method.
    ``reduce_range``: 7-bit weights. ``format``: ``qdq``, or ``qoperator`` for shorter files. ``activations``: ``u8``, or
    ``s8`` for devices that multiply signed bytes. ``rounding``: of weights (``rounding.py``). ``ops``: operator types, or
    empty for the choice by network; ``exclude_ops``: taken out of that list; ``exclude_nodes``: ids of the sensitivity table.
    ``float_outputs``: heavy operators give FP32, for networks whose other operators stay FP32.
    """

    calibration: str = "minmax"
    per_channel: bool = True
    reduce_range: bool = True
    ops: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    format: str = "qdq"
    activations: str = "u8"
    percentile: float = 99.99
    rounding: str = "nearest"
    bias_correction: bool = False
    float_outputs: bool = False

    @classmethod
    def from_toml(cls, table: TomlTable) -> Int8Static:
        """Reads the technique's table of a recipe; ``weight_bits`` 7 or 8 is another way to write ``reduce_range``."""
        reduce_range = table.boolean("reduce_range", default=True)
        weight_bits = table.integer("weight_bits", 7 if reduce_range else 8, minimum=7, maximum=8)
        return cls(
            calibration=table.text("calibration", "minmax", choices=METHODS),
            per_channel=table.boolean("per_channel", default=True),
            reduce_range=weight_bits == 7,
            ops=table.texts("ops"),
            exclude_ops=table.texts("exclude_ops"),
            exclude_nodes=table.texts("exclude_nodes"),
            format=table.text("format", "qdq", choices=FORMATS),
            activations=table.text("activations", "u8", choices=("u8", "s8")),
            percentile=table.number("percentile", 99.99, minimum=50.0, maximum=100.0),
            rounding=table.text("rounding", "nearest", choices=ROUNDINGS),
            bias_correction=table.boolean("bias_correction", default=False),
            float_outputs=table.boolean("float_outputs", default=False),
        )


@dataclass(frozen=True)
class QuantisationResult:
    """A quantised model, not larger than it must be, with what was done: for the report."""

    data: bytes
    notes: tuple[str, ...]
    quantised_ops: tuple[tuple[str, int], ...]
    int8_weight_share: float  # of all weight elements, in [0, 1]


def quantise_int8_static(data: bytes, config: Int8Static, calibration: Dataset) -> QuantisationResult:
    """Quantises an FP32 model of opset 13 or higher.

    Cost: one pass over the calibration rows (``minmax``) or two, one more for ``rounding``, up to 32 for
    ``bias_correction``; memory holds one batch of activations, or a histogram per tensor. Deterministic: no randomness.

    Raises:
        UsageError: the settings leave nothing to quantise, or the engine cannot take this model.
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    ops = operators(model, config)
    left = excluded_nodes(model, config, ops)
    ranges = find_ranges(
        model, float_values(model, values_of(model, ops)), calibration, method=config.calibration, percentile=config.percentile
    )
    plan = EnginePlan(
        ops, left, config.per_channel, config.reduce_range, config.activations == "s8", float_outputs=config.float_outputs
    )
    quantised = insert_pairs(model, plan, ranges)
    counts, share = _count(quantised, ops)
    notes = list(_notes(config, ops, left))
    if config.rounding != "nearest":
        notes.append(reround(model, quantised, calibration, method=config.rounding, limit=64 if config.reduce_range else 127))
    if config.bias_correction:
        notes.append(correct_biases(model, quantised, calibration))
    if config.format == "qoperator":
        notes.append(to_qoperator(quantised))
    return QuantisationResult(shrink_model(quantised.SerializeToString()), tuple(notes), counts, share)


def operators(model: Any, config: Int8Static) -> tuple[str, ...]:
    """Operator types to quantise: those of the recipe, or by the kind of network.

    Raises:
        UsageError: none is left that has weights (``quantise_nothing``).
    """
    present = {node.op_type for node in model.graph.node}
    if config.ops:
        chosen: tuple[str, ...] = config.ops
    elif present & _PER_TENSOR_RANGES_HURT or has_inner_softmax(model):
        chosen = HEAVY_OPS
    else:
        chosen = HEAVY_OPS + LIGHT_OPS
    ops = tuple(op for op in chosen if op in present and op not in config.exclude_ops)
    if not set(ops) & set(HEAVY_OPS):
        raise UsageError(
            "nothing to quantise in this model",
            code="quantise_nothing",
            expected=f"one of {', '.join(HEAVY_OPS)}",
            actual=", ".join(sorted(present)),
            hint="check 'ops' and 'exclude_ops' in the recipe, or pack with an empty list: technique = []",
        )
    return ops


def has_inner_softmax(model: Any) -> bool:
    """True where a heavy operator computes with what a Softmax gave, as attention does; a final Softmax is none."""
    reached: set[str] = set()
    for node in model.graph.node:  # in topological order
        follows = bool(reached & set(node.input))
        if follows and node.op_type in HEAVY_OPS:
            return True
        if follows or node.op_type == "Softmax":
            reached.update(node.output)
    return False


def excluded_nodes(model: Any, config: Int8Static, ops: tuple[str, ...]) -> tuple[str, ...]:
    """Nodes that stay FP32: those that the recipe names, and those with huge constants.

    Raises:
        UsageError: the recipe names a node that the model does not have (``quantise_node``).
    """
    names = [node.name for node in model.graph.node]
    unknown = sorted(set(config.exclude_nodes) - set(names))
    if unknown:
        raise UsageError(
            "the recipe excludes a node that the model does not have",
            code="quantise_node",
            expected=f"n0 to n{len(names) - 1}, as in the sensitivity table",
            actual=", ".join(unknown)[:100],
        )
    huge = _nodes_with_huge_constants(model, ops)
    return tuple(name for name in names if name in huge or name in config.exclude_nodes)


def _nodes_with_huge_constants(model: Any, ops: tuple[str, ...]) -> set[str]:
    huge = set()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if array.size and not float(np.abs(array).max()) <= _HUGE:
                huge.add(tensor.name)
    return {node.name for node in model.graph.node if node.op_type in ops and huge & set(node.input)}


def _count(quantised: Any, ops: tuple[str, ...]) -> tuple[tuple[tuple[str, int], ...], float]:
    """Checks that the engine did something sound: how many operators of each type, and the share of weights in INT8."""
    graph = quantised.graph
    used = {name for node in graph.node for name in node.input}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in used}
    producers = {name: node for node in graph.node for name in node.output}
    int8 = sum(array.size for array in arrays.values() if array.dtype == np.int8 and array.ndim > 1)
    floats = sum(array.size for array in arrays.values() if array.dtype == np.float32 and array.ndim > 1)
    if not int8:
        raise UsageError(
            "quantisation changed no weight",
            code="quantise_nothing",
            hint="weights must be constants of Conv, Gemm or MatMul; check 'ops' and 'exclude_ops' in the recipe",
        )
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = arrays.get(node.input[1])
            if scale is None or not bool(np.all(np.isfinite(scale) & (scale > 0))):
                raise SealiftError(
                    "quantisation made an unusable scale",
                    code="quantise_scale",
                    where=node.input[0],
                    expected="finite and above zero",
                    hint="look for constant or infinite values in the calibration data",
                )
    counts = Counter(
        node.op_type
        for node in graph.node
        if node.op_type in ops and any(producers[name].op_type == "DequantizeLinear" for name in node.input if name in producers)
    )
    return tuple(sorted(counts.items())), int8 / (int8 + floats)


def _notes(config: Int8Static, ops: tuple[str, ...], left: tuple[str, ...]) -> tuple[str, ...]:
    notes = [f"operators: {', '.join(sorted(ops))}"]
    masks = len(set(left) - set(config.exclude_nodes))
    if masks:
        notes.append(f"{masks} nodes left in FP32: they hold constants beyond {_HUGE:g}")
    if config.exclude_nodes:
        notes.append(f"nodes left in FP32 by the recipe: {', '.join(config.exclude_nodes)}")
    if not config.reduce_range:
        notes.append("8-bit weights: saturate on x86 without VNNI, so only such CPUs are named in requires")
    return tuple(notes)
