"""The technique ``fp16``: weights stored in half precision, arithmetic in FP32.

Each large FP32 constant becomes FP16 with a ``Cast``, which the runtime folds when it loads the file: half the bytes, the speed
of the original, on any CPU. Half precision *arithmetic* is not made: where a CPU has no kernels for it the runtime casts back and
forth. Constants beyond FP16 (masks of -1e9), small ones, and scales of quantised pairs stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_client.errors import UsageError
from packager.ptq.graph import all_graphs, all_nodes
from packager.shrink import shrink_model
from packager.toml_table import TomlTable

_MAX_HALF = 65_504.0
_TINY_HALF = 6.2e-5
_LOST_SHARE = 1e-6  # of a tensor's energy that may be too small for FP16
_SCALE_READERS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits"})


@dataclass(frozen=True)
class Fp16:
    """Settings. ``min_elements``: smaller constants stay FP32; a Cast costs about 30 bytes."""

    min_elements: int = 64

    @classmethod
    def from_toml(cls, table: TomlTable) -> Fp16:
        """Reads the technique's table of a recipe."""
        return cls(min_elements=table.integer("min_elements", 64, minimum=1, maximum=2**31))


@dataclass(frozen=True)
class Fp16Result:
    """The model, and how many constants were narrowed or left for their values."""

    data: bytes
    narrowed: int
    left: int


def narrow_weights(data: bytes, config: Fp16) -> Fp16Result:
    """Stores FP32 constants as FP16.

    Raises:
        UsageError: there is none that can be narrowed (``quantise_nothing``).
    """
    model = onnx.load_from_string(data)
    kept = {value.name for graph in all_graphs(model.graph) for value in graph.output}
    kept |= {name for node in all_nodes(model.graph) if node.op_type in _SCALE_READERS for name in node.input}
    narrowed = left = 0
    for graph in all_graphs(model.graph):
        casts = []
        for tensor in graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < config.min_elements or tensor.name in kept:
                continue
            array = numpy_helper.to_array(tensor)
            if not _fits(array):
                left += 1
                continue
            inner = f"{tensor.name}/half"
            casts.append(helper.make_node("Cast", [inner], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), inner))
            narrowed += 1
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    if not narrowed:
        raise UsageError(
            "no constant can be stored in FP16",
            code="quantise_nothing",
            expected=f"an FP32 constant with {config.min_elements} elements or more and values within FP16",
            actual=f"{left} too large or too small in value",
        )
    return Fp16Result(shrink_model(model.SerializeToString()), narrowed, left)


def _fits(array: Any) -> bool:
    values = array.astype(np.float64)
    if not np.isfinite(values).all() or float(np.abs(values).max(initial=0)) > _MAX_HALF:
        return False
    energy = float(np.square(values).sum())
    return float(np.square(values[np.abs(values) < _TINY_HALF]).sum()) <= _LOST_SHARE * energy
