"""The single steps by which a third-party graph becomes plain: operator set, constants, folding, bias shapes, batch.

Each takes and gives ONNX bytes and leaves the outputs as they were; ``prepare.py`` puts them in order and checks that. A
step that cannot be done says so in its notes and gives back what it got.
"""

from __future__ import annotations

import logging
from typing import Any

import onnx
from onnx import numpy_helper, version_converter

from device_client.errors import FormatError
from device_client.inference.session import fold_constants
from device_client.limits import DEFAULT_LIMITS
from packager.features import check_own
from packager.graphs import STANDARD_DOMAINS, all_graphs, all_nodes, standard_opset
from packager.shrink import drop_imports

logger = logging.getLogger(__name__)

MIN_OPSET = 13  # first with per-channel QuantizeLinear and DequantizeLinear
_MIN_IR = 4  # first in which an initialiser need not be an input

Step = tuple[bytes, tuple[str, ...]]


def plain_constants(model: Any) -> Step:
    """No initialiser that a caller could override by an input, and integer weights in a form that a device reads."""
    notes = []
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) < len(model.graph.input):
        notes.append(f"{len(model.graph.input) - len(inputs)} initialisers were also inputs and are now constants")
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    packed = [
        tensor
        for graph in all_graphs(model.graph)
        for tensor in graph.initializer
        if tensor.int32_data or tensor.int64_data or tensor.uint64_data
    ]
    if sum(tensor.ByteSize() for tensor in packed) > DEFAULT_LIMITS.max_model_varint_bytes:
        for tensor in packed:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    model.ir_version = max(model.ir_version, _MIN_IR)
    return model.SerializeToString(deterministic=True), tuple(notes)


def raise_opset(data: bytes) -> Step:
    """At least ``MIN_OPSET``, by onnx's converter."""
    model = onnx.load_from_string(data)
    opset = standard_opset(model)
    if opset >= MIN_OPSET:
        return data, ()
    drop_imports(model)  # the optimiser adds domains that the converter does not know
    try:
        converted = version_converter.convert_version(model, MIN_OPSET)
        onnx.checker.check_model(converted)
    except (RuntimeError, onnx.checker.ValidationError, ValueError) as e:
        logger.info("not converted: %s", e)
        return data, (f"opset {opset} kept, so no per-channel quantisation: {' '.join(str(e).split())[:120]}",)
    converted.ir_version = max(
        converted.ir_version, onnx.helper.find_min_ir_version_for(list(converted.opset_import), ignore_unknown=True)
    )
    return converted.SerializeToString(deterministic=True), (f"opset {opset} converted to {MIN_OPSET}",)


def fold(data: bytes) -> Step:
    """Basic optimisations by onnxruntime: constants folded, batch normalisation merged; the same on every CPU.

    Raises:
        FormatError: the runtime refuses the model.
    """
    folded = fold_constants(check_own(data))
    before, after = (
        {node.domain for node in all_nodes(onnx.load_from_string(item).graph)} - set(STANDARD_DOMAINS) for item in (data, folded)
    )
    if after - before:
        return data, ("constants not folded: the optimiser used operators outside the standard",)
    return folded, ()


def flat_biases(data: bytes) -> bytes:
    """A Gemm bias of shape (1, N) becomes (N,), the same by broadcasting: the quantiser fails on the former."""
    model = onnx.load_from_string(data)
    for graph in all_graphs(model.graph):
        biases = {node.input[2] for node in graph.node if node.op_type == "Gemm" and len(node.input) == 3}
        others = {name for node in all_nodes(graph) for name in (node.input if node.op_type != "Gemm" else node.input[:2])}
        for tensor in graph.initializer:
            if tensor.name in biases - others and len(tensor.dims) == 2 and tensor.dims[0] == 1:
                del tensor.dims[0]
    flat: bytes = model.SerializeToString(deterministic=True)
    return flat


def set_batch(data: bytes, size: int | str) -> bytes:
    """The model with another first axis of all inputs and outputs: a number, or the name of a dynamic one."""
    model = onnx.load_from_string(data)
    for graph in all_graphs(model.graph):
        graph.ClearField("value_info")
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].Clear()
            if isinstance(size, int):
                dims[0].dim_value = size
            else:
                dims[0].dim_param = size
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def try_fold(data: bytes) -> Step:
    """As ``fold``, where the runtime takes the model."""
    try:
        return fold(data)
    except FormatError as e:
        logger.info("%s", e.what)
        return data, (f"constants not folded: {e.what[:120]}",)
