"""Brings a quantised graph that torch exported into the form that onnxruntime fuses, and checks it.

The exporter leaves biases in FP32 and turns linear weights round after they were decoded; onnxruntime then computes in
FP32 between two conversions. Here biases become INT32 at the scale of the sums, and weights are turned round beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from device_client.errors import UsageError
from packager.shrink import shrink_model

_LARGEST_BIAS = 2.0**31 - 1
_WITH_BIAS = ("Conv", "Gemm")


def finish_qdq(data: bytes, *, where: str) -> bytes:
    """The file in its short form, with INT32 biases.

    Raises:
        UsageError: no weight is INT8.
    """
    model = onnx.load_from_string(shrink_model(data))
    graph = model.graph
    del model.functions[:]
    _turn_weights(graph)
    _quantise_biases(graph)
    short = shrink_model(model.SerializeToString(deterministic=True))
    if not any(
        tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
        for tensor in onnx.load_from_string(short).graph.initializer
    ):
        raise UsageError(
            "no weight was quantised",
            code="qat_nothing",
            where=where,
            hint="take names out of 'exclude', or use int8-static",
        )
    return short


def _turn_weights(graph: Any) -> None:
    """``Transpose(DequantizeLinear(constant))`` becomes ``DequantizeLinear(turned constant)``."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in graph.node:
        decode = makers.get(node.input[0]) if node.op_type == "Transpose" else None
        if decode is None or decode.op_type != "DequantizeLinear" or decode.input[0] not in constants:
            continue
        if uses[node.input[0]] != 1 or uses[decode.input[0]] != 1:
            continue
        array = numpy_helper.to_array(constants[decode.input[0]])
        order = next((list(item.ints) for item in node.attribute if item.name == "perm"), list(range(array.ndim))[::-1])
        constants[decode.input[0]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.transpose(order)), decode.input[0]))
        for attribute in decode.attribute:
            if attribute.name == "axis":
                attribute.i = order.index(attribute.i % array.ndim)
        decode.output[0], node.output[0] = node.output[0], f"{node.output[0]}_unused"
        node.input[0] = decode.output[0]


def _quantise_biases(graph: Any) -> None:
    """INT32 biases at input scale times weight scale, the scale of the integer sums they are added to."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    nodes = []
    for index, node in enumerate(graph.node):
        bias = constants.get(node.input[2]) if node.op_type in _WITH_BIAS and len(node.input) > 2 else None
        decoders = [makers.get(name) for name in node.input[:2]]
        if bias is not None and bias.dtype == np.float32 and bias.ndim == 1:
            scale = _sum_scale(decoders, constants, count=len(bias))
            if scale is not None and float(np.abs(bias / scale).max(initial=0)) <= _LARGEST_BIAS:
                nodes.append(_decoder(graph, f"bias_{index}", bias, scale))
                node.input[2] = nodes[-1].output[0]
        nodes.append(node)
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _sum_scale(decoders: list[Any], constants: dict[str, NDArray[Any]], *, count: int) -> NDArray[np.float32] | None:
    if any(node is None or node.op_type != "DequantizeLinear" for node in decoders):
        return None
    of_input, of_weight = (constants.get(node.input[1]) for node in decoders)
    if of_input is None or of_weight is None or of_input.size != 1:
        return None
    scale = of_input.reshape(-1) * of_weight.reshape(-1)
    return np.broadcast_to(scale, (count,)).astype(np.float32) if scale.size in (1, count) else None


def _decoder(graph: Any, name: str, bias: NDArray[Any], scale: NDArray[np.float32]) -> Any:
    whole = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
    graph.initializer.append(numpy_helper.from_array(whole, f"{name}_q"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    return helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale"], [name], axis=0)
