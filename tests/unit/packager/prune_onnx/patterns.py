"""Small graphs, one per pattern, in which a given share of channels does nothing: removing those must change nothing.

``dead``: every fourth channel of a layer has no weights and no bias, so it is zero behind a Relu, and what reads it
gets nothing from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from packager.data import Dataset
from packager.load import load_model

from ..models import graph, write

Array = NDArray[Any]
Pattern = tuple[bytes, tuple[int, ...]]


class Draft:
    """Nodes and constants being collected; each call gives the name of what it made."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def conv(self, x: str, inputs: int, outputs: int, *, size: int = 3, group: int = 1, dead: bool = True, **more: Any) -> str:
        weight = self.rng.standard_normal((outputs, inputs // group, size, size))
        bias = self.rng.standard_normal(outputs)
        if dead:
            weight[::4], bias[::4] = 0, 0
        pads = {} if "auto_pad" in more else {"pads": [size // 2] * 4}
        return self.op("Conv", x, self.constant(weight), self.constant(bias), group=group, **pads, **more)

    def dense(self, x: str, inputs: int, outputs: int, *, dead: bool = True, transposed: int = 1) -> str:
        weight = self.rng.standard_normal((outputs, inputs))
        bias = self.rng.standard_normal(outputs)
        if dead:
            weight[::4], bias[::4] = 0, 0
        return self.op("Gemm", x, self.constant(weight if transposed else weight.T), self.constant(bias), transB=transposed)

    def finish(self, last: str, *, x: list[int | str], y: list[int | str]) -> bytes:
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        return graph(self.nodes, self.constants, x=x, y=y)

    def classify(self, x: str, channels: int, *, rows: tuple[int, ...] = (3, 8, 8)) -> Pattern:
        pooled = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.finish(self.dense(pooled, channels, 5, dead=False), x=["N", *rows], y=["N", 5]), rows


def chain() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    return d.classify(d.op("Relu", d.conv(first, 8, 12, strides=[2, 2])), 12)


def perceptron() -> Pattern:
    d = Draft()
    hidden = d.op("Relu", d.dense(d.op("Relu", d.dense("x", 6, 16)), 16, 8, transposed=0))
    return d.finish(d.dense(hidden, 8, 3, dead=False), x=["N", 6], y=["N", 3]), (6,)


def depthwise() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    second = d.op("Relu", d.conv(first, 8, 8, group=8))
    return d.classify(d.op("Clip", d.conv(second, 8, 12, size=1), d.constant(np.float32(0)), d.constant(np.float32(6))), 12)


def depthwise_doubling() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    wide = d.conv(first, 8, 16, group=8, dead=False)
    d.constants[d.nodes[-1].input[2]][[0, 1, 8, 9]] = 0
    return d.classify(d.op("Relu", wide), 16)


def residual() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    branch = d.conv(d.op("Relu", d.conv(first, 8, 12)), 12, 8)
    return d.classify(d.op("Relu", d.op("Add", first, branch)), 8)


def concatenation() -> Pattern:
    d = Draft()
    parts = [d.op("Relu", d.conv("x", 3, width)) for width in (4, 8)]
    both = d.op("Concat", *parts, "x", axis=1)
    return d.classify(d.op("Relu", d.conv(both, 15, 8)), 8)


def flattened() -> Pattern:
    d = Draft()
    pooled = d.op("MaxPool", d.op("Relu", d.conv("x", 3, 8)), kernel_shape=[2, 2], strides=[2, 2])
    flat = d.op("Reshape", pooled, d.constant(np.array([-1, 128], dtype=np.int64)))
    return d.finish(d.dense(flat, 128, 5, dead=False), x=["N", 3, 8, 8], y=["N", 5]), (3, 8, 8)


def channels_last() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv(d.op("Transpose", "x", perm=[0, 3, 1, 2]), 3, 8))
    flat = d.op("Flatten", d.op("Transpose", first, perm=[0, 2, 3, 1]))
    return d.finish(d.dense(flat, 512, 5, dead=False), x=["N", 8, 8, 3], y=["N", 5]), (8, 8, 3)


def excite() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    inner = d.op("Relu", d.conv(d.op("GlobalAveragePool", first), 8, 4, size=1))
    gate = d.op("Sigmoid", d.conv(inner, 4, 8, size=1, dead=False))
    return d.classify(d.op("Relu", d.conv(d.op("Mul", first, gate), 8, 8)), 8)


def grouped() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    return d.classify(d.op("Relu", d.conv(first, 8, 8, group=2)), 8)


def normalised() -> Pattern:
    d = Draft()
    scales = [d.rng.random(8) + 0.5 for _ in range(4)]
    scales[1][::4] = scales[2][::4] = 0
    plain = d.op("Relu", d.conv("x", 3, 8))
    first = d.op("Relu", d.op("BatchNormalization", plain, *(d.constant(values) for values in scales)))
    shift = d.op("Mul", first, d.constant(d.rng.random((8, 1, 1))))
    slope = d.op("PRelu", shift, d.constant(d.rng.random((1, 8, 1, 1))))
    return d.classify(slope, 8)


def feed_forward() -> Pattern:
    d = Draft()
    wide, narrow = d.rng.standard_normal((6, 16)), d.rng.standard_normal((16, 6))
    wide[:, ::4] = 0
    bias = d.rng.standard_normal(16)
    bias[::4] = 0
    hidden = d.op("Add", d.op("MatMul", "x", d.constant(wide)), d.constant(bias))
    erf = d.op("Erf", d.op("Div", hidden, d.constant(np.float32(1.4142135))))
    gelu = d.op("Mul", hidden, d.op("Add", erf, d.constant(np.float32(1))))
    back = d.op("Add", d.op("MatMul", gelu, d.constant(narrow)), d.constant(d.rng.standard_normal(6)))
    return d.finish(d.op("Add", back, "x"), x=["N", 4, 6], y=["N", 4, 6]), (4, 6)


def upsampling() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    padded = d.op("Pad", first, d.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64)))
    sized = d.op("Resize", padded, "", "", d.constant(np.array([1, 8, 20, 20], dtype=np.int64)), mode="nearest")
    weight = d.rng.standard_normal((8, 8, 2, 2))
    weight[:, ::4] = 0
    up = d.op("ConvTranspose", sized, d.constant(weight), strides=[2, 2])
    mean = d.op("ReduceMean", d.op("Relu", up), axes=[2, 3], keepdims=0)
    return d.finish(d.dense(mean, 8, 5, dead=False), x=[1, 3, 8, 8], y=[1, 5]), (3, 8, 8)


def recurrent() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8))
    steps = d.op("Squeeze", d.op("ReduceMean", first, axes=[3]), d.constant(np.array([3], dtype=np.int64)))
    series = d.op("Transpose", steps, perm=[2, 0, 1])
    weights = [d.constant(d.rng.standard_normal((1, 16, 8))), d.constant(d.rng.standard_normal((1, 16, 4)))]
    every = d.op("LSTM", series, *weights, hidden_size=4)
    last = d.op("Gather", every, d.constant(np.array(7, dtype=np.int64)), axis=0)
    return d.finish(
        d.dense(d.op("Squeeze", last, d.constant(np.array([0], dtype=np.int64))), 4, 5, dead=False), x=["N", 3, 8, 8], y=["N", 5]
    ), (3, 8, 8)


def tensorflow_padding() -> Pattern:
    d = Draft()
    first = d.op("Relu", d.conv("x", 3, 8, auto_pad="SAME_UPPER", strides=[2, 2]))
    return d.classify(d.op("Relu", d.conv(first, 8, 8, auto_pad="SAME_LOWER", strides=[2, 2])), 8)


PATTERNS: dict[str, Callable[[], Pattern]] = {
    "a chain of convolutions": chain,
    "a perceptron": perceptron,
    "depthwise convolutions": depthwise,
    "depthwise convolutions that double the channels": depthwise_doubling,
    "a residual block": residual,
    "a concatenation with the input": concatenation,
    "a flattened image": flattened,
    "channels last": channels_last,
    "squeeze and excite": excite,
    "a grouped convolution": grouped,
    "normalisation and scales per channel": normalised,
    "a transformer's feed-forward part": feed_forward,
    "resizing, padding and transposed convolution": upsampling,
    "a recurrent layer behind convolutions": recurrent,
    "padding as TensorFlow does it": tensorflow_padding,
}


def prepared(folder: Any, data: bytes) -> bytes:
    return load_model(write(folder, data), seed=0, example=dict).model.data


def dataset(shape: tuple[int, ...], count: int = 64, *, seed: int = 1) -> Dataset:
    rows = np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)
    return Dataset({"x": rows}, None, None, None, "test")
