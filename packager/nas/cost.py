"""What a network costs, by formulas alone, so that a search decides the same on every machine.

Bytes in INT8 form: one per weight, a 32-bit bias and scale per output channel, and what a node and its quantisation take
in the file (measured on shrunken files of such networks: about 400 bytes a layer). Multiply-accumulates stand for latency:
they say nothing about how well a CPU runs a depthwise convolution, so the report measures the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from packager.data import Dataset

if TYPE_CHECKING:
    from torch import nn

_CHANNEL_BYTES = 8
_NODE_BYTES = 400
_FP32_NODE_BYTES = 190
_FILE_BYTES = 300


@dataclass(frozen=True)
class Cost:
    """``int8_bytes``, ``fp32_bytes``: modelled file sizes. ``macs``: multiply-accumulates of one row."""

    int8_bytes: int
    fp32_bytes: int
    macs: int


def module_cost(module: nn.Module, row: Sequence[int]) -> Cost:
    """The cost of a network with batch normalisation folded."""
    from packager.nas.network import multiply_accumulates

    layers = [layer.weight for layer in module.modules() if getattr(layer, "weight", None) is not None and layer.weight.ndim > 1]
    elements, channels = sum(int(weight.numel()) for weight in layers), sum(int(weight.shape[0]) for weight in layers)
    return Cost(
        elements + _CHANNEL_BYTES * channels + _NODE_BYTES * len(layers) + _FILE_BYTES,
        4 * (elements + channels) + _FP32_NODE_BYTES * len(layers) + _FILE_BYTES,
        multiply_accumulates(module, row),
    )


def original_macs(data: bytes, rows: Dataset) -> int:
    """Multiply-accumulates of one row of an ONNX file, in Conv, Gemm and MatMul with constant weights."""
    from packager.prune_onnx.graph import GraphView

    view, total = GraphView(data, rows), 0
    for node in view.nodes:
        weight = view.constant(node, 1)
        if weight is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        outputs = int(np.prod(view.shapes[node.output[0]]))
        per_output = weight[0].size if node.op_type == "Conv" else view.shapes[node.input[0]][-1]
        total += outputs * per_output
    return total
