"""Fixes that are made on the bytes: weights pruned by magnitude, and output nodes for sealed deployments.

Pruning without training afterwards never goes back to the members. Fine-tuning after it does, and puts the leak back, which
is why it is not offered here (Yuan and Zhang 2022; measured in the method document). Output nodes hide scores from a caller
and nothing from whoever has the file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import UsageError

_WEIGHTED = {"Gemm": 1, "MatMul": 1, "Conv": 1, "ConvTranspose": 1}
_TINY = 1e-12


def prune(model: bytes, *, share: float) -> bytes:
    """The same graph with the smallest weights of each layer set to zero.

    Args:
        model: ONNX bytes with float weights.
        share: of each layer's weights, in (0, 1).

    Raises:
        UsageError: no float weight of a product or a convolution (``fix_weights``).
    """
    proto = onnx.load_model_from_string(model)
    names = {node.input[_WEIGHTED[node.op_type]] for node in proto.graph.node if node.op_type in _WEIGHTED}
    found = [item for item in proto.graph.initializer if item.name in names and item.data_type == TensorProto.FLOAT]
    if not found:
        raise UsageError("the model has no float weights to prune", code="fix_weights", hint="give the uncompressed model")
    for tensor in found:
        values = numpy_helper.to_array(tensor).copy()
        count = round(share * values.size)
        smallest = np.argsort(np.abs(values), axis=None, kind="stable")[:count]
        values.reshape(-1)[smallest] = 0.0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    pruned: bytes = proto.SerializeToString()
    return pruned


def hide_scores(model: bytes, *, kind: str, strength: float, logits: bool) -> bytes:
    """The same model with nodes behind its output.

    Args:
        model: ONNX bytes with one output, (N, C).
        kind: ``temperature``, ``rounding``, ``top_1`` or ``label_only``.
        strength: temperature, or decimals.
        logits: whether the output is before a softmax; it is a probability afterwards in any case.
    """
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    output = graph.output[0].name
    raw = f"{output}/open"
    for node in graph.node:
        node.output[:] = [raw if name == output else name for name in node.output]
        node.input[:] = [raw if name == output else name for name in node.input]
    nodes = [helper.make_node("Softmax", [raw], ["hide/p"], name="hide/p", axis=1)] if logits else []
    nodes += _hiding_nodes(kind, "hide/p" if logits else raw, output)
    values = {"hide/tiny": _TINY, "hide/factor": 10.0**strength if kind == "rounding" else strength or 1.0}
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in values.items() if name in used
    )
    graph.node.extend(nodes)
    hidden: bytes = proto.SerializeToString()
    return hidden


def _hiding_nodes(kind: str, given: str, output: str) -> list[onnx.NodeProto]:
    def node(operator: str, inputs: list[str], result: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [result], name=f"hide/{operator}/{result}", **attributes)

    if kind == "temperature":
        return [
            node("Max", [given, "hide/tiny"], "hide/positive"),
            node("Log", ["hide/positive"], "hide/log"),
            node("Div", ["hide/log", "hide/factor"], "hide/cool"),
            node("Softmax", ["hide/cool"], output, axis=1),
        ]
    if kind == "rounding":
        return [
            node("Mul", [given, "hide/factor"], "hide/large"),
            node("Round", ["hide/large"], "hide/whole"),
            node("Div", ["hide/whole", "hide/factor"], output),
        ]
    top = [
        node("ReduceMax", [given], "hide/top", axes=[1], keepdims=1),
        node("Less", [given, "hide/top"], "hide/below"),
        node("Not", ["hide/below"], "hide/is_top"),
        node("Cast", ["hide/is_top"], output if kind == "label_only" else "hide/mask", to=TensorProto.FLOAT),
    ]
    return top if kind == "label_only" else [*top, node("Mul", [given, "hide/mask"], output)]
