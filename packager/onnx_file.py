"""Reads a person's ONNX file and refuses, by name and before any work, what cannot be packed.

The device's own walker looks first. Then: functions of the file itself are inlined, and everything is refused that no
technique or device could take: foreign operators, an invalid graph, quantised models, weights that are not numbers,
random operators, inputs or outputs that are not tensors. Does *not* change arithmetic or run the model (`prepare.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from device_client.bundle.features import KNOWN_FEATURES
from device_client.errors import FormatError, UsageError
from device_client.inference.walker import CheckedModel, ValueSpec, check_model
from device_client.limits import DEFAULT_LIMITS
from packager.data import RESERVED
from packager.graphs import STANDARD_DOMAINS, all_constants, all_graphs, all_nodes, is_standard
from packager.node_order import order_nodes

ANY_PACKING = replace(DEFAULT_LIMITS, max_model_varint_bytes=DEFAULT_LIMITS.max_model_bytes)  # of a file from outside
_QUANTISED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "GatherBlockQuantized"})
_QUANTISED_PREFIXES = ("QLinear", "QGemm", "QAttention", "DynamicQuantize")
_RANDOM_OPS = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_WEIGHT_OPS = (
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "GRU",
    "Gemm",
    "InstanceNormalization",
    "LSTM",
    "LayerNormalization",
    "MatMul",
    "RNN",
)
_MAX_NAMED = 5


@dataclass(frozen=True)
class AcceptedFile:
    """A file that can be packed: as the walker saw it, and parsed, with the functions of the file inlined."""

    checked: CheckedModel
    model: Any
    notes: tuple[str, ...]


def read_model_file(path: Path) -> bytes:
    """The bytes of a model file of a size that a device takes.

    Raises:
        UsageError: larger.
    """
    if path.stat().st_size > DEFAULT_LIMITS.max_model_bytes:
        raise UsageError(
            "model file too large",
            code="model_too_large",
            where=str(path),
            expected=f"at most {DEFAULT_LIMITS.max_model_bytes} bytes",
            actual=path.stat().st_size,
        )
    return path.read_bytes()


def accept_onnx(source: bytes, *, where: str) -> AcceptedFile:
    """Checks an ONNX file from outside.

    Raises:
        UsageError: not a model that can be packed; says which part, what was expected, and the remedy.
        FormatError: the walker refuses the file.
        LimitError: beyond a bound.
    """
    checked, inlined = _walk(source, where=where)
    model = onnx.load_from_string(source) if inlined is None else inlined
    notes = () if inlined is None else ("functions of the file were inlined",)
    if _put_in_order(model):
        notes = (*notes, "nodes were put in the order that ONNX asks for")
    model, shaped = _with_output_shapes(model)
    notes = (*notes, *shaped)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as e:
        raise UsageError(
            f"not a valid ONNX model: {' '.join(str(e).split())[:200]}", code="model_invalid", where=where, hint="export it again"
        ) from e
    _refuse_quantised(model, where=where)
    _refuse_random(model, where=where)
    _refuse_broken_weights(model, where=where)
    _refuse_signature(checked, where=where)
    return AcceptedFile(checked, model, notes)


def _with_output_shapes(model: Any) -> tuple[Any, tuple[str, ...]]:
    """The model with the shapes of outputs that have none: the runtime does without them, and ONNX does not."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return model, ()
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError):  # the checker says what is missing
        return model, ()
    return inferred, ("shapes of outputs were inferred",)


def _put_in_order(model: Any) -> bool:
    """Sorts the nodes; converters that add some at the end leave files that onnxruntime runs and ONNX does not allow."""
    before = [[tuple(node.output) for node in graph.node] for graph in all_graphs(model.graph)]
    try:
        for graph in all_graphs(model.graph):
            order_nodes(graph)
    except ValueError:  # a cycle: the checker says so
        return False
    return before != [[tuple(node.output) for node in graph.node] for graph in all_graphs(model.graph)]


def _walk(source: bytes, *, where: str) -> tuple[CheckedModel, Any | None]:
    """The walker's view, and the parsed model where functions had to be inlined."""
    try:
        return check_model(source, features=KNOWN_FEATURES, where=where, limits=ANY_PACKING), None
    except FormatError as e:
        if e.code == "model_domain":
            return _walk_functions(source, e, where=where)
        raise _explained(e, where=where) from e


def _walk_functions(source: bytes, error: FormatError, *, where: str) -> tuple[CheckedModel, Any]:
    """A second look at a file with foreign operator domains: they must be functions that the file itself holds."""
    try:
        model = onnx.load_from_string(source)
    except Exception as e:  # protobuf's own class, which depends on its implementation
        raise UsageError("not an ONNX file", code="model_syntax", where=where, expected="an ONNX model") from e
    functions = {(function.domain, function.name) for function in model.functions}
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    allowed = {*STANDARD_DOMAINS, *(name.removeprefix("domain:") for name in KNOWN_FEATURES)}
    foreign = {(node.domain, node.op_type) for node in nodes if node.domain not in allowed}
    custom = sorted(f"{domain}:{name}" for domain, name in foreign - functions)
    if custom or any(domain in STANDARD_DOMAINS for domain, _ in functions):
        raise UsageError(
            "the model uses custom operators" if custom else error.what,
            code="model_domain",
            where=where,
            expected="standard ONNX operators, or those of onnxruntime itself",
            actual=_listed(custom) or None,
            hint="export the model without custom operators: a device has no library for them",
        ) from error
    features = KNOWN_FEATURES | {f"domain:{domain}" for domain, _ in functions}
    try:
        checked = check_model(source, features=features, where=where, limits=ANY_PACKING)
        inlined = inliner.inline_local_functions(model)
        check_model(inlined.SerializeToString(), features=KNOWN_FEATURES, where=where, limits=ANY_PACKING)
    except FormatError as e:
        raise _explained(e, where=where) from e
    return checked, inlined


def _explained(error: FormatError, *, where: str) -> FormatError | UsageError:
    """The walker's refusal in the words of somebody who exports models, where that helps."""
    if error.code == "model_external_data":
        return UsageError(
            "the model keeps weights in another file",
            code=error.code,
            where=where,
            expected="one self-contained .onnx file",
            hint="load it with onnx.load and save it with onnx.save(model, file, save_as_external_data=False)",
        )
    if error.code in ("model_control_flow", "model_domain"):
        return UsageError(
            error.what,
            code=error.code,
            where=where,
            expected="standard ONNX operators",
            hint="export the model without custom operators and without subgraphs in other operators than If, Loop and Scan",
        )
    if error.code in ("model_syntax", "model_field_unknown", "model_incomplete"):
        return UsageError(
            "not an ONNX file",
            code=error.code,
            where=where,
            expected="an ONNX model",
            actual=error.what,
            hint="export the model again",
        )
    return error


def _refuse_quantised(model: Any, *, where: str) -> None:
    found = {
        node.op_type
        for node in all_nodes(model.graph)
        if node.op_type in _QUANTISED_OPS or node.op_type.startswith(_QUANTISED_PREFIXES) or node.op_type.endswith("Integer")
    }
    if found:
        raise UsageError(
            "the model is quantised already",
            code="model_quantised",
            where=where,
            expected="a model with float weights",
            actual=_listed(sorted(found)),
            hint="give the model from before quantisation",
        )


def _refuse_random(model: Any, *, where: str) -> None:
    """A device compares golden outputs; a model that draws numbers has none."""
    found = sorted({node.op_type for node in all_nodes(model.graph) if is_standard(node, *_RANDOM_OPS)})
    if found:
        raise UsageError(
            "the model draws random numbers",
            code="model_random",
            where=where,
            expected="outputs that follow from the inputs",
            actual=_listed(found),
            hint="give the random values as an input, or export the model in inference mode",
        )


def _refuse_broken_weights(model: Any, *, where: str) -> None:
    """Not-a-number anywhere; infinity in what layers compute with. An infinite constant elsewhere is an attention mask."""
    weights = {name for node in all_nodes(model.graph) if is_standard(node, *_WEIGHT_OPS) for name in node.input[1:] if name}
    for name, values in _float_constants(model):
        what = "NaN" if np.isnan(values).any() else "infinity" if name in weights and np.isinf(values).any() else ""
        if what:
            raise UsageError(
                f"the weights '{name[:120]}' hold {what}",
                code="model_values",
                where=where,
                expected="finite numbers",
                actual=f"{int(np.sum(~np.isfinite(values)))} of {values.size} values are not finite",
                hint="the training diverged, or the conversion overflowed: look at this tensor where the model was made",
            )


def _float_constants(model: Any) -> Iterator[tuple[str, Any]]:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    for name, tensor in all_constants(model.graph):
        if tensor.data_type in kinds:
            values = numpy_helper.to_array(tensor)
            yield name, values if tensor.data_type != onnx.TensorProto.BFLOAT16 else values.astype(np.float32)


def _refuse_signature(checked: CheckedModel, *, where: str) -> None:
    """Every input and output is a dense tensor of numbers, and the shape of every input has a known rank."""
    if not checked.inputs or not checked.outputs:
        missing = "input" if not checked.inputs else "output"
        raise UsageError(
            f"the model has no {missing}",
            code="model_signature",
            where=where,
            expected="at least one input and one output",
            hint="export the model with its inputs; initialisers do not count",
        )
    for kind, specs in (("input", checked.inputs), ("output", checked.outputs)):
        for spec in specs:
            problem = _problem(kind, spec)
            if problem:
                raise UsageError(
                    f"{kind} '{spec.name}' {problem}",
                    code="model_signature",
                    where=where,
                    expected="a tensor of numbers",
                    actual="no shape" if spec.shape is None else f"{spec.dtype} {spec.shape}",
                    hint="export the model with tensors of known rank, and with no input named y, groups or split",
                )


def _problem(kind: str, spec: ValueSpec) -> str | None:
    if spec.dtype is None:
        return "is not a tensor"
    if spec.dtype == "string":
        return "is text"
    if kind == "output":  # its shape follows from the inputs
        return None
    if spec.shape is None:
        return "has no shape"
    if any(isinstance(size, int) and size <= 0 for size in spec.shape):
        return "has an empty axis"
    return "has a reserved name" if spec.name in RESERVED else None


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(name[:60] for name in list(names)[:_MAX_NAMED])
    return shown + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
