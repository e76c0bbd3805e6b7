"""Makes an ONNX file smaller without changing what it computes.

Below a megabyte the file's own overhead is most of what quantisation leaves (a quantised keyword spotter: 48.6 KB of
which 24 KB are weights), so names, documentation, shape annotations, copies and repeated constants matter. Also the
normal form of the packager: the same graph gives the same bytes, whatever tool named its tensors.

    annotations off -> copies and unused nodes out (simplify.py) -> one of each constant, short names (naming.py)

All of it goes into subgraphs too. Does *not* touch graph inputs and outputs (the contract names them) and does not
optimise arithmetic. Callers compare outputs before and after with ``assert_same_outputs``.
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
from packager.attributes import drop_default_attributes
from packager.features import check_own
from packager.graphs import Graph, all_graphs, all_nodes, standard_opset
from packager.naming import merge_initializers, rename_values
from packager.simplify import drop_unused, simplify

logger = logging.getLogger(__name__)


def shrink_model(data: bytes) -> bytes:
    """The same model in its short normal form, checked by ``onnx.checker``.

    Raises:
        onnx.checker.ValidationError: a bug here; nothing the caller can repair.
    """
    model = simplify(onnx.load_from_string(data))
    graph = model.graph
    _drop_annotations(model)
    for inner in all_graphs(graph):
        _drop_zero_points(inner)
    drop_unused(graph)
    drop_imports(model)
    drop_default_attributes(graph, opset=standard_opset(model))
    merge_initializers(graph)
    rename_values(graph)
    onnx.checker.check_model(model)
    shrunk: bytes = model.SerializeToString(deterministic=True)
    return shrunk


def assert_same_outputs(
    before: bytes, after: bytes, feeds: Mapping[str, NDArray[Any]], *, what: str, relative: float = 0.0
) -> None:
    """Runs both in the real runtime and compares; ``relative`` is the allowed difference by the largest output.

    Both are models of ours, with whatever features they need. Not-a-number counts as equal to itself.

    Raises:
        SealiftError: the outputs differ, which is a defect of the step, not of the model.
    """
    with open_session(check_own(before)) as first, open_session(check_own(after)) as second:
        compare_outputs(first.run(feeds), second.run(feeds), what=what, relative=relative)


def compare_outputs(
    expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]], *, what: str, relative: float = 0.0
) -> None:
    """Compares outputs of a model before and after a step; ``relative`` is the allowed difference by the largest output.

    Raises:
        SealiftError: they differ.
    """
    for name, want in expected.items():
        gap, scale = output_gap(want, actual[name])
        if not gap <= relative * scale:
            raise SealiftError(
                f"{what} changed the model's output",
                code="pack_outputs_changed",
                where=name,
                expected=f"differences of at most {relative * scale:g}",
                actual=f"{gap:g}",
                hint="report this model: the step must not change results",
            )


def output_gap(want: NDArray[Any], have: NDArray[Any]) -> tuple[float, float]:
    """The largest difference, and the largest finite size of what is wanted; infinite where shapes or kinds differ.

    Not-a-number and infinity count as equal to themselves.
    """
    if want.shape != have.shape or (want.dtype.kind in "OUS") != (have.dtype.kind in "OUS"):
        return np.inf, 0.0
    if not want.size:
        return 0.0, 0.0
    if want.dtype.kind in "OUS":
        return (0.0 if np.array_equal(want, have) else np.inf), 0.0
    first, second = want.astype(np.float64), have.astype(np.float64)
    finite = np.isfinite(first)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True):
        return np.inf, 0.0
    if not finite.any():
        return 0.0, 0.0
    gap = float(np.abs(first[finite] - second[finite]).max())
    return (gap if np.isfinite(gap) else np.inf), float(np.abs(first[finite]).max())


def drop_imports(model: Any) -> None:
    """Keeps the operator sets that a node needs, in a fixed order."""
    domains = {node.domain for node in all_nodes(model.graph)} | {""}
    imports = sorted((item for item in model.opset_import if item.domain in domains), key=lambda item: item.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)


def _drop_annotations(model: Any) -> None:
    for field in ("doc_string", "producer_name", "producer_version", "domain", "model_version", "metadata_props", "training_info"):
        model.ClearField(field)
    for graph in all_graphs(model.graph):
        graph.name = "g"
        for field in ("doc_string", "value_info", "metadata_props", "quantization_annotation"):
            graph.ClearField(field)
        for message in (*graph.input, *graph.output, *graph.initializer):
            message.ClearField("doc_string")
            message.ClearField("metadata_props")
    for node in all_nodes(model.graph):
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        if node.domain == "ai.onnx":
            node.ClearField("domain")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.type == onnx.AttributeProto.TENSOR:
                attribute.t.ClearField("doc_string")
                attribute.t.ClearField("name")
    for domain in model.opset_import:
        if domain.domain == "ai.onnx":
            domain.domain = ""


def _drop_zero_points(graph: Graph) -> None:
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
