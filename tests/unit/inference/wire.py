"""Protobuf by hand, for files that no library writes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

VARINT, I64, LEN, I32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def field(number: int, content: bytes) -> bytes:
    return tag(number, LEN) + varint(len(content)) + content


def number(at: int, value: int) -> bytes:
    return tag(at, VARINT) + varint(value)


def value(name: bytes, *, element_type: int = 1) -> bytes:
    """A ValueInfo: float32 (N, 3), or of another element type."""
    shape = field(1, field(2, b"N")) + field(1, number(1, 3))
    return field(1, name) + field(2, field(1, number(1, element_type) + field(2, shape)))


def weight(*, name: bytes = b"w", data_type: int = 1, scale: float = 2.0) -> bytes:
    """A Tensor: three float32."""
    return number(1, 3) + number(2, data_type) + field(8, name) + field(9, np.full(3, scale, np.float32).tobytes())


def node(operator: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output])


MUL = node("Mul", ["x", "w"], "y").SerializeToString()


def model(*, nodes: tuple[bytes, ...] = (MUL,), weights: tuple[bytes, ...] = (weight(),), x: bytes = value(b"x")) -> bytes:
    """A complete model of x to y."""
    graph = b"".join([*(field(1, item) for item in nodes), field(2, b"g"), *(field(5, item) for item in weights)])
    graph += field(11, x) + field(12, value(b"y"))
    return number(1, 8) + field(7, graph) + field(8, number(2, 17))
