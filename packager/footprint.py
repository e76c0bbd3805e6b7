"""Memory of a model, modelled from its graph: deterministic, so it may stand in the contract.

An upper bound, not a measurement, of a process that runs the model on one row in onnxruntime on one thread: what the
process needs before any model, four copies of the file, three of weights that are widened at load, and twice the planned
activations and scratch room (the runtime's arena grows in steps). docs/measurements.md compares it with measured peaks.
"""

from __future__ import annotations

import math

import onnx

from packager.measure.workload import Workload, count_workload

MIB = 1024 * 1024
RUNTIME_BYTES = 64 * MIB
"""What the process needs before any model: interpreter, numpy and onnxruntime, by measurement 60 to 61 MiB on x86-64."""

_WEIGHT_COPIES = 4  # the file, the parsed model, the kernels' packed form; measured up to 3.7
_WIDENED_COPIES = 3  # what is folded at load, on the way, and the kernels' packed form
_ARENA_GROWTH = 2  # measured at most 1.5; the arena doubles when it is full
_RESERVE_BYTES = 16 * MIB  # where the size of a value is not known


def peak_ram_bytes(data: bytes) -> int:
    """Modelled peak memory, in bytes, of a process that runs the model on one row; rounded up to whole MiB."""
    return process_bytes(count_workload(data))


def process_bytes(workload: Workload) -> int:
    """The same for a model that was counted already."""
    memory = workload.memory
    total = RUNTIME_BYTES + _WEIGHT_COPIES * workload.file_bytes + _ARENA_GROWTH * (memory.arena_bytes + workload.scratch_bytes)
    total += _WIDENED_COPIES * workload.widened_bytes
    total += _RESERVE_BYTES if memory.unknown else 0
    return math.ceil(total / MIB) * MIB


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
