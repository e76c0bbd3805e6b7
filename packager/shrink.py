"""Makes an ONNX file smaller without changing what it computes.

Below a megabyte the file's own overhead is most of what quantisation leaves (a quantised keyword spotter: 48.6 KB of
which 24 KB are weights), so names, documentation, shape annotations and repeated constants matter. Also the normal
form of the packager: the same graph gives the same bytes, whatever tool named its tensors.

Does *not* touch graph inputs and outputs (the contract names them), optimise arithmetic, or go into subgraphs
(control flow is refused by the walker before). Callers compare outputs before and after with ``assert_same_outputs``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device_client.errors import SealiftError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model

logger = logging.getLogger(__name__)
_DIGITS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def shrink_model(data: bytes) -> bytes:
    """The same model in its short normal form, checked by ``onnx.checker``.

    Raises:
        onnx.checker.ValidationError: a bug here; nothing the caller can repair.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    _drop_annotations(model)
    _constants_to_initializers(graph)
    _drop_zero_points(graph)
    _drop_unused(model)
    _merge_initializers(graph)
    _rename(graph)
    onnx.checker.check_model(model)
    shrunk: bytes = model.SerializeToString(deterministic=True)
    return shrunk


def assert_same_outputs(
    before: bytes, after: bytes, feeds: Mapping[str, NDArray[Any]], *, what: str, relative: float = 0.0
) -> None:
    """Runs both in the real runtime and compares; ``relative`` is the allowed difference by the largest output.

    Raises:
        SealiftError: the outputs differ, which is a defect of the step, not of the model.
    """
    with open_session(check_model(before)) as first, open_session(check_model(after)) as second:
        expected, actual = first.run(feeds), second.run(feeds)
    for name, want in expected.items():
        have = actual[name]
        scale = float(np.abs(want).max()) if want.size else 0.0
        gap = float(np.abs(want.astype(np.float64) - have.astype(np.float64)).max()) if want.size else 0.0
        if want.shape != have.shape or not gap <= relative * scale:
            raise SealiftError(
                f"{what} changed the model's output",
                code="pack_outputs_changed",
                where=name,
                expected=f"differences of at most {relative * scale:g}",
                actual=f"{gap:g}",
                hint="report this model: the step must not change results",
            )


def _drop_annotations(model: Any) -> None:
    for field in ("doc_string", "producer_name", "producer_version", "domain", "model_version", "metadata_props", "training_info"):
        model.ClearField(field)
    graph = model.graph
    graph.name = "g"
    for field in ("doc_string", "value_info", "metadata_props", "quantization_annotation"):
        graph.ClearField(field)
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        if node.domain == "ai.onnx":
            node.ClearField("domain")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    for domain in model.opset_import:
        if domain.domain == "ai.onnx":
            domain.domain = ""


def _constants_to_initializers(graph: Any) -> None:
    """A ``Constant`` node costs more bytes than an initialiser and hides duplicates."""
    kept = []
    for node in graph.node:
        value = next((item for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and node.domain == "" and value is not None:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _drop_zero_points(graph: Any) -> None:
    """An all-zero zero point of a ``DequantizeLinear`` is what an absent one means (ONNX, operator text).

    Dropped where a constant feeds a convolution only: measured, onnxruntime fuses such a convolution all the same, but
    leaves a Gemm without zero points in FP32.
    """
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    consumers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[0] in arrays:
            zero = arrays.get(node.input[2])
            feeds_convolution = consumers.get(node.output[0], set()) <= {"Conv"}
            if feeds_convolution and zero is not None and not numpy_helper.to_array(zero).any():
                del node.input[2]


def _drop_unused(model: Any) -> None:
    graph = model.graph
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # nodes are in topological order, so one pass backwards finds all that is used
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(name for name in node.input if name)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    domains = {node.domain for node in graph.node} | {""}
    imports = sorted((item for item in model.opset_import if item.domain in domains), key=lambda item: item.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)


def _merge_initializers(graph: Any) -> None:
    """Keeps one of each set of equal constants, in raw form, and none as an input of the graph."""
    names: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    replaced: dict[str, str] = {}
    kept = []
    fixed = {value.name for value in graph.output}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), array.tobytes())
        if tensor.name in fixed:
            kept.append(tensor)
            continue
        first = names.setdefault(key, tensor.name)
        replaced[tensor.name] = first
        if first == tensor.name:
            kept.append(numpy_helper.from_array(array, tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = [value for value in graph.input if value.name not in replaced]
    del graph.input[:]
    graph.input.extend(inputs)
    _map_names(graph, replaced)


def _rename(graph: Any) -> None:
    """Gives every inner tensor a short name, in order of first use."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    count = 0
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name and name not in fixed and name not in names:
                short = _short_name(count)
                while short in fixed:
                    count += 1
                    short = _short_name(count)
                names[name] = short
                count += 1
    _map_names(graph, names)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    ordered = sorted(graph.initializer, key=lambda tensor: (len(tensor.name), tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(ordered)


def _map_names(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)


def _short_name(number: int) -> str:
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, len(_DIGITS))
        name = _DIGITS[digit] + name
    return name
