"""Memory of a model, modelled from its graph: deterministic, so it may stand in the contract.

An upper bound, not a measurement: every intermediate value is counted as alive at once, at batch 1.
"""

from __future__ import annotations

import math

import onnx

RUNTIME_BYTES = 64 * 1024 * 1024
"""What the process needs before any model: interpreter, numpy and onnxruntime, by measurement 55 to 60 MB on x86-64."""

_ITEM_BYTES = 4
_WEIGHT_COPIES = 3  # the file, the parsed model, and the kernels' packed form


def peak_ram_bytes(data: bytes) -> int:
    """Modelled peak memory, in bytes, of a process that runs the model on one row; rounded up to whole MiB."""
    total = RUNTIME_BYTES + _WEIGHT_COPIES * len(data) + _ITEM_BYTES * activation_elements(data)
    mib = 1024 * 1024
    return math.ceil(total / mib) * mib


def activation_elements(data: bytes) -> int:
    """Number of values in all intermediate tensors for one row; unknown sizes count as 1."""
    model = onnx.load_from_string(data)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for value in model.graph.output:  # or the declared dynamic batch would win over the inferred one
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.output)
    return sum(math.prod(max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim) for value in values)
