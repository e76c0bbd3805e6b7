"""Which recipes are worth trying on a network, best first: what `auto` begins with, and what it may change then.

Decided from the graph alone, so the same model always gets the same list: convolutional networks do best in static INT8 with
QLinear operators, attention with exact normalisations and masks around INT8 products, recurrent ones with INT8 weights and
FP32 arithmetic. Order is expectation, not measurement: whoever searches measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from packager.ptq.channel_groups import channel_groups
from packager.ptq.dynamic import Int8Dynamic
from packager.ptq.equalise import Equalise
from packager.ptq.fp16 import Fp16
from packager.ptq.graph import GraphView, all_nodes, layers, name_nodes
from packager.ptq.sensitivity import NodeSensitivity
from packager.ptq.smooth import Smooth, can_smooth
from packager.ptq.static import Int8Static, has_inner_softmax
from packager.ptq.weight_only import WeightOnly
from packager.technique import TechniqueStep

Steps = tuple[TechniqueStep, ...]

TARGETS = ("portable", "vnni")
"""``portable``: right on every CPU, so 7-bit weights. ``vnni``: 8-bit weights, for x86 with that instruction only."""

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_NORMALISED = frozenset({"LayerNormalization", "Erf", "Gelu", "SimplifiedLayerNormalization", "InstanceNormalization"})
_TAIL_SHARE = 0.05
_OUTLIER_DB = 3.0


def candidates(data: bytes, *, has_train: bool, task: str, target: str) -> list[Steps]:
    """6 to 14 recipes, best first by expectation.

    Args:
        data: the FP32 model in normal form.
        has_train: rows to train on exist, so training will win below 8 bits, and the slow roundings are left out.
        task: as in the recipe; without classes the ranges that keep rare values come first.
        target: one of ``TARGETS``.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {TARGETS}")
    model = onnx.load_from_string(data)
    name_nodes(model)
    kind = network_kind(model)
    static = Int8Static(reduce_range=target == "portable", rounding="gptq", bias_correction=True)
    if kind == "convolutional":
        found = list(_convolutional(model, static, task=task))
    elif kind == "attention":
        found = list(_attention(model, static))
    elif kind == "recurrent":
        found = list(_recurrent(model, static))
    else:
        found = list(_perceptron(static))
    found += [(_step("weight-only", WeightOnly(method="gptq")),), (_step("fp16", Fp16()),)]
    if not has_train:
        found.append((_step("gptq", WeightOnly(bits=4, block=32, method="gptq")),))
    return list(dict.fromkeys(found))


def network_kind(model: Any) -> str:
    """``convolutional``, ``attention`` (also GELU and normalised networks), ``recurrent`` or ``perceptron``."""
    counts = Counter(node.op_type for node in all_nodes(model.graph))
    if any(counts[op] for op in _RECURRENT):
        return "recurrent"
    if any(counts[op] for op in _NORMALISED) or has_inner_softmax(model):
        return "attention"
    return "convolutional" if counts["Conv"] or counts["ConvTranspose"] else "perceptron"


def refine(steps: Steps, table: Sequence[NodeSensitivity], *, limit: int = 4) -> list[Steps]:
    """The same recipe with its worst nodes treated better: one, two, then up to ``limit`` of those that stand out.

    INT8 leaves them in FP32; weights below 8 bits leave them to a step of 8 bits.

    Args:
        steps: a recipe with ``int8-static``, ``int8-dynamic`` or weights below 8 bits; without one the result is empty.
        table: of ``sensitivity`` for the model that this step gets, worst first; with ``weight_bits`` for weights alone.
        limit: most rows of the table that are left out.
    """
    place = next((index for index, step in enumerate(steps) if _can_exclude(step)), None)
    if place is None or len(table) < 2:
        return []
    config, after = steps[place].config, steps[place + 1 :]
    if isinstance(config, WeightOnly):
        after = (*after, _step("weight-only", WeightOnly()))
    middle = float(np.median([row.sqnr_db for row in table]))
    outliers = sum(row.sqnr_db < middle - _OUTLIER_DB for row in table)
    counts = sorted({1, 2, min(limit, outliers)} & set(range(1, min(limit, len(table) - 1) + 1)))
    found = []
    for count in counts:
        worst = tuple(name for row in table[:count] for name in row.nodes)
        kept = tuple(sorted({*config.exclude_nodes, *worst}, key=lambda name: int(name[1:])))
        found.append((*steps[:place], replace(steps[place], config=replace(config, exclude_nodes=kept)), *after))
    return found


def _can_exclude(step: TechniqueStep) -> bool:
    return step.name in ("int8-static", "int8-dynamic") or (isinstance(step.config, WeightOnly) and step.config.bits < 8)


def tail_nodes(model: Any) -> tuple[str, ...]:
    """The last layer and what surrounds it up to the output, where its weights are a small share: cheap to leave in FP32."""
    view = GraphView(model)
    heavy = layers(view)
    if len(heavy) < 3:
        return ()
    sizes = [int(np.prod(view.tensors[layer.weight].dims)) for layer in heavy]
    if sizes[-1] > _TAIL_SHARE * sum(sizes):
        return ()
    names = [node.name for node in model.graph.node]
    first = names.index(heavy[-2].name) + 1
    rest = list(model.graph.node)[first:]
    start = next((index for index, node in enumerate(rest) if "Pool" in node.op_type), None)
    return tuple(node.name for node in (rest[start:] if start is not None else rest[-(len(names) - names.index(heavy[-1].name)) :]))


def _convolutional(model: Any, static: Int8Static, *, task: str) -> Iterator[Steps]:
    short = replace(static, format="qoperator")
    tail = tail_nodes(model)
    balance = (_step("equalise", Equalise(strength=0.7)),) if channel_groups(GraphView(model)) else ()
    ranges = ("mse", "minmax", "percentile") if task == "classification" else ("minmax", "mse", "percentile")
    for method in ranges[:2]:
        yield (*balance, _step("int8-static", replace(short, calibration=method)))
        yield (_step("int8-static", replace(short, calibration=method)),)
    if tail:
        yield (*balance, _step("int8-static", replace(short, calibration="mse", exclude_nodes=tail)))
    yield (_step("int8-static", replace(short, calibration=ranges[2])),)
    yield (_step("int8-static", replace(short, calibration="entropy")),)
    yield (_step("int8-static", replace(static, calibration=ranges[0])),)
    yield (_step("int8-static", replace(short, per_channel=False, calibration=ranges[0])),)


def _attention(model: Any, static: Int8Static) -> Iterator[Steps]:
    rest = _rest(model)
    balance = (_step("smooth", Smooth()),) if can_smooth(model) else ()
    products = replace(static, float_outputs=True)
    dynamic = Int8Dynamic(reduce_range=static.reduce_range)
    counts = Counter(layer.node.op_type for layer in layers(GraphView(model)))
    if counts["MatMul"] or counts["Gemm"]:
        others = (_step("weight-only", WeightOnly()),) if counts["Conv"] else rest
        yield (*balance, _step("int8-dynamic", dynamic), *others)
        yield (_step("int8-dynamic", dynamic), *others)
    yield (*balance, _step("int8-static", replace(products, calibration="minmax")), *rest)
    yield (*balance, _step("int8-static", replace(products, calibration="mse")), *rest)
    yield (_step("int8-static", replace(products, calibration="percentile")), *rest)
    yield (_step("int8-static", replace(static, calibration="minmax")), *rest)
    if counts["Conv"]:
        yield (_step("int8-static", replace(static, ops=("Conv",), format="qoperator")), *rest)


def _recurrent(model: Any, static: Int8Static) -> Iterator[Steps]:
    rest = (_step("weight-only", WeightOnly(method="gptq")),)
    yield rest
    heavy = {layer.node.op_type for layer in layers(GraphView(model))}
    if heavy & {"MatMul", "Gemm"}:
        yield (_step("int8-dynamic", Int8Dynamic(reduce_range=static.reduce_range)), *rest)
    if heavy:
        yield (_step("int8-static", replace(static, format="qoperator", calibration="mse")), *rest)
        yield (_step("int8-static", replace(static, calibration="minmax")), *rest)
    yield (_step("weight-only", WeightOnly(block=32)),)
    yield (_step("adaround", WeightOnly(bits=4, block=16, method="adaround")),)


def _perceptron(static: Int8Static) -> Iterator[Steps]:
    for method in ("minmax", "mse", "percentile"):
        yield (_step("int8-static", replace(static, calibration=method)),)
    yield (_step("int8-static", replace(static, calibration="minmax", per_channel=False)),)
    yield (_step("int8-dynamic", Int8Dynamic(reduce_range=static.reduce_range)),)
    yield (_step("weight-only", WeightOnly(form="dequantise")),)


def _rest(model: Any) -> Steps:
    """Embeddings keep their FP32 values through the quantised products; their bytes are halved and halved again here."""
    view = GraphView(model)
    for node in model.graph.node:
        if node.op_type == "Gather" and view.is_float(node.input[0]) and int(np.prod(view.tensors[node.input[0]].dims)) >= 256:
            return (_step("weight-only", WeightOnly(ops=("Gather",))),)
    return ()


def _step(name: str, config: Any) -> TechniqueStep:
    return TechniqueStep(name, config)
