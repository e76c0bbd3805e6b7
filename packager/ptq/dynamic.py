"""The technique ``int8-dynamic``: 8-bit weights, activations quantised while the model runs, with the range of each call.

For products with constant weights only (MatMul, Gemm): convolutions in this form run 5 to 60 times slower than in FP32. No
calibration rows are looked at, so nothing can be wrong about them; made for attention and perceptrons whose ranges vary.
Standard operators only: the runtime fuses the five nodes into one when it loads the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import UsageError
from packager.ptq.graph import GraphView, Layer, attribute, layers, name_nodes
from packager.shrink import shrink_model
from packager.toml_table import TomlTable

_TINY = 1e-12


@dataclass(frozen=True)
class Int8Dynamic:
    """Settings. ``reduce_range``: 7-bit weights, safe on x86 without VNNI. ``exclude_nodes``: ids of the sensitivity table."""

    per_channel: bool = True
    reduce_range: bool = True
    min_elements: int = 256
    exclude_nodes: tuple[str, ...] = ()

    @classmethod
    def from_toml(cls, table: TomlTable) -> Int8Dynamic:
        """Reads the technique's table of a recipe."""
        return cls(
            per_channel=table.boolean("per_channel", default=True),
            reduce_range=table.boolean("reduce_range", default=True),
            min_elements=table.integer("min_elements", 256, minimum=1, maximum=2**31),
            exclude_nodes=table.texts("exclude_nodes"),
        )


@dataclass(frozen=True)
class DynamicResult:
    """The model, and the ids of the nodes that now compute in INT8."""

    data: bytes
    nodes: tuple[str, ...]


def quantise_int8_dynamic(data: bytes, config: Int8Dynamic) -> DynamicResult:
    """Quantises the products of an FP32 model.

    Raises:
        UsageError: it has none with constant weights of two axes (``quantise_nothing``).
    """
    model = onnx.load_from_string(data)
    name_nodes(model)
    view = GraphView(model)
    chosen = [layer for layer in layers(view) if _fits(view, layer, config)]
    if not chosen:
        raise UsageError(
            "no product to quantise in this model",
            code="quantise_nothing",
            expected=f"MatMul or Gemm with constant weights of two axes and {config.min_elements} elements or more",
            hint="use int8-static for convolutions, weight-only for recurrent layers",
        )
    by_name = {layer.name: layer for layer in chosen}
    constants: dict[str, str] = {}
    quantised: dict[str, tuple[str, str, str]] = {}
    nodes = []
    for node in model.graph.node:
        if node.name in by_name:
            nodes.extend(_product(view, by_name[node.name], config, constants, quantised))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return DynamicResult(shrink_model(model.SerializeToString()), tuple(by_name))


def _fits(view: GraphView, layer: Layer, config: Int8Dynamic) -> bool:
    node = layer.node
    if node.op_type not in ("MatMul", "Gemm") or layer.name in config.exclude_nodes or len(view.tensors[layer.weight].dims) != 2:
        return False
    plain = not attribute(node, "transA", 0) and float(attribute(node, "beta", 1.0)) == 1.0
    return plain and int(np.prod(view.tensors[layer.weight].dims)) >= config.min_elements


def _product(
    view: GraphView, layer: Layer, config: Int8Dynamic, constants: dict[str, str], quantised: dict[str, tuple[str, str, str]]
) -> list[Any]:
    node = layer.node
    x, out = node.input[0], node.output[0]
    made = []
    if x not in quantised:  # one quantised form serves all products that read the value
        quantised[x] = (f"{x}/q", f"{x}/scale", f"{x}/zero")
        made.append(helper.make_node("DynamicQuantizeLinear", [x], list(quantised[x])))
    integers, scale, zero = quantised[x]
    weight, weight_scale = _weights(view, layer, config, constants)
    inner = f"{out}/product" if layer.bias else out
    made += [
        helper.make_node("MatMulInteger", [integers, weight, zero], [f"{out}/sum"]),
        helper.make_node("Cast", [f"{out}/sum"], [f"{out}/float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, weight_scale], [f"{out}/scale"]),
        helper.make_node("Mul", [f"{out}/float", f"{out}/scale"], [inner]),
    ]
    if layer.bias:
        made.append(helper.make_node("Add", [inner, layer.bias], [out]))
    return made


def _weights(view: GraphView, layer: Layer, config: Int8Dynamic, constants: dict[str, str]) -> tuple[str, str]:
    """Names of the INT8 weights (K, N) and of their scale, (N,) or (); weights shared by layers stay shared."""
    alpha = float(attribute(layer.node, "alpha", 1.0)) if layer.node.op_type == "Gemm" else 1.0
    key = f"{layer.weight}/{layer.axis}/{alpha:g}"
    if key not in constants:
        weights = view.array(layer.weight).astype(np.float64) * alpha
        weights = weights.T if layer.axis == 0 else weights
        limit = 64 if config.reduce_range else 127
        ends = np.abs(weights).max(axis=0) if config.per_channel else np.abs(weights).max()
        scale = np.maximum(ends, _TINY).astype(np.float32) / np.float32(limit)
        integers = np.clip(np.rint(weights / scale), -limit, limit).astype(np.int8)
        constants[key] = key
        view.model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.ascontiguousarray(integers), f"{key}/q"),
                numpy_helper.from_array(np.asarray(scale, dtype=np.float32), f"{key}/scale"),
            ]
        )
    return f"{key}/q", f"{key}/scale"
