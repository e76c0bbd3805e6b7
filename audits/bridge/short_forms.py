"""Takes apart operators that do several things at once, so that the rest of the bridge needs to know neither them nor their tail.

Runs once when a graph is read. ``QLinearConv`` and ``QLinearMatMul`` become their pairs of DequantizeLinear and
QuantizeLinear, which mean the same (the tap then finds the output's quantiser as in any QDQ graph). ``MatMulNBits`` with
constant weights becomes a product with the weights as numbers. A 4-bit zero point says its range in an attribute, because
its values become 8-bit integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from audits.bridge.node import BridgeError, Node

Array = npt.NDArray[Any]

_NARROW = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4}


def take_apart(nodes: Iterable[Node], constants: dict[str, Array]) -> list[Node]:
    """The same graph without short forms; adds the constants that this makes.

    Raises:
        BridgeError: a form of such an operator that is not known, or a name that is taken.
    """
    made: list[Node] = []
    for node in nodes:
        if node.op in {"QLinearConv", "QLinearMatMul"} and node.domain in {"", "ai.onnx"}:
            made.extend(_pairs(node))
        elif node.op == "MatMulNBits" and node.domain == "com.microsoft":
            made.append(_product(node, constants))
        elif node.op == "QuantizeLinear" and len(node.inputs) > 2:
            made.append(_with_range(node, constants))
        else:
            made.append(node)
    names = [name for node in made for name in node.outputs if name]
    if len(set(names)) != len(names) or not constants.keys().isdisjoint(names):
        raise BridgeError("a name is written twice", code="bridge_graph", where="onnx")
    for name, array in constants.items():
        if array.dtype.name in _NARROW:
            constants[name] = array.astype(np.int8)
    return made


def _pairs(node: Node) -> Iterator[Node]:
    """x, scale, zero; w, scale, zero; scale and zero of the output; for a convolution the bias in steps of x times w."""
    x, w, y = node.inputs[0:3], node.inputs[3:6], node.inputs[6:8]
    new = f"{node.outputs[0]} taken apart: "
    is_conv = node.op == "QLinearConv"
    yield _node("DequantizeLinear", x, new + "x")
    # a product has scales by column of the right side, and may have them by row of the left
    yield _node("DequantizeLinear", w, new + "w", axis=0 if is_conv else -1)
    inputs = [new + "x", new + "w"]
    if is_conv and len(node.inputs) > 8 and node.inputs[8]:
        yield _node("Mul", (x[1], w[1]), new + "step")
        yield _node("DequantizeLinear", (node.inputs[8], new + "step"), new + "b", axis=0)
        inputs.append(new + "b")
    yield Node(node.op.removeprefix("QLinear"), "", node.name, tuple(inputs), (new + "y",), node.attributes)
    yield _node("QuantizeLinear", (new + "y", *y), node.outputs[0], name=node.name)


def _product(node: Node, constants: dict[str, Array]) -> Node:
    """Weights of ``bits`` in blocks along K, neighbours in one byte, lowest bits first, around half their range."""
    packed, scales = constants.get(node.inputs[1]), constants.get(node.inputs[2])
    bits, block = int(node.attributes["bits"]), int(node.attributes["block_size"])
    rows, columns = int(node.attributes["N"]), int(node.attributes["K"])
    if packed is None or scales is None or any(node.inputs[3:]) or bits not in (2, 4, 8):
        raise BridgeError(
            "operator form not supported: MatMulNBits with zero points, a bias, or computed weights",
            code="bridge_operator",
            where=node.name or node.op,
        )
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    integers = (packed.reshape(rows, -1, 1) >> shifts) & np.uint8(2**bits - 1)
    centred = integers.reshape(rows, -1, block).astype(np.float32) - np.float32(2 ** (bits - 1))
    weights = (centred * scales.reshape(rows, -1, 1).astype(np.float32)).reshape(rows, -1)[:, :columns]
    name = f"{node.outputs[0]} taken apart: weights"
    constants[name] = np.ascontiguousarray(weights.T)
    return _node("MatMul", (node.inputs[0], name), node.outputs[0], name=node.name)


def _with_range(node: Node, constants: dict[str, Array]) -> Node:
    zero_point = constants.get(node.inputs[2])
    narrow = None if zero_point is None else _NARROW.get(zero_point.dtype.name)
    if narrow is None:
        return node
    return Node(node.op, node.domain, node.name, node.inputs, node.outputs, {**node.attributes, "output_dtype": narrow})


def _node(op: str, inputs: tuple[str, ...], output: str, *, name: str = "", **attributes: Any) -> Node:
    return Node(op, "", name, inputs, (output,), MappingProxyType(attributes))
