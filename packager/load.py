"""Loads MODEL and brings it into the packager's normal form: one FP32 ONNX file that quantises and runs everywhere.

``.onnx`` files pass the device's own walker before anything else reads them. ``module:function`` gives a torch module
(``export.py``). Then: opset 13 or higher, initialisers that are also inputs become constants, constants are folded,
names and annotations dropped. Every step is checked to leave the outputs as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter

from device_client.bundle.digest import Digest
from device_client.entrypoint import is_entry_point, load_entry_point
from device_client.errors import FormatError, UsageError
from device_client.inference.session import fold_constants
from device_client.inference.walker import CheckedModel, ValueSpec, check_model
from device_client.limits import DEFAULT_LIMITS
from packager.data import RESERVED
from packager.export import export_module
from packager.shrink import assert_same_outputs, shrink_model

logger = logging.getLogger(__name__)

MIN_OPSET = 13  # first with per-channel QuantizeLinear and DequantizeLinear
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
_QUANTISED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
_ANY_PACKING = replace(DEFAULT_LIMITS, max_model_varint_bytes=DEFAULT_LIMITS.max_model_bytes)  # of the packager's own files
_HALF = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.DOUBLE: "float64"}


@dataclass(frozen=True)
class LoadedModel:
    """The original, ready for compression.

    ``model``: the FP32 normal form. ``source_digest`` and ``source_bytes``: of what was given (the file, or the
    exported module). ``notes``: what the preparation changed. ``module``: the torch module, where one was given.
    """

    model: CheckedModel
    source_digest: Digest
    source_bytes: int
    source_name: str
    tools: tuple[str, ...]
    notes: tuple[str, ...]
    module: Any = None


def load_model(text: str, *, seed: int, example: Callable[[], Mapping[str, NDArray[Any]]]) -> LoadedModel:
    """Loads MODEL.

    Args:
        text: path of an ``.onnx`` file, or ``module:function`` returning a torch module or (module, example inputs).
        seed: of torch, numpy and random while the function runs.
        example: called for a few rows of DATA when the function returns a bare module.

    Raises:
        UsageError: not a model that can be packed; says which file, what was expected, and the remedy.
        FormatError: the walker refuses the file.
    """
    if is_entry_point(text):
        source = export_module(load_entry_point(text), where=text, seed=seed, example=example)
        return _prepare(source, source_name="torch module", where=text, tools=("torch",))
    path = Path(text)
    return _prepare(_read_onnx(path), source_name="ONNX file", where=path.name, tools=())


def _read_onnx(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(
            "model file not found",
            code="model_missing",
            where=str(path),
            expected="an .onnx file or module:function",
            hint="check the path; a function is written package.module:function",
        )
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise UsageError(
            "this file can be a pickle, and a pickle is a program",
            code="model_format",
            where=str(path),
            expected="an .onnx file or module:function",
            hint="write a function that builds the module, loads its weights and returns it, and give module:function",
        )
    if suffix != ".onnx":
        raise UsageError(
            "not a model format that can be packed",
            code="model_format",
            where=str(path),
            expected="an .onnx file or module:function",
            actual=suffix or "no suffix",
        )
    if path.stat().st_size > DEFAULT_LIMITS.max_model_bytes:
        raise UsageError(
            "model file too large",
            code="model_too_large",
            where=str(path),
            expected=f"at most {DEFAULT_LIMITS.max_model_bytes} bytes",
            actual=path.stat().st_size,
        )
    return path.read_bytes()


def _prepare(source: bytes, *, source_name: str, where: str, tools: tuple[str, ...]) -> LoadedModel:
    checked = _walk(source, where=where)
    model = onnx.load_from_string(source)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as e:
        raise UsageError(
            f"not a valid ONNX model: {' '.join(str(e).split())[:200]}", code="model_invalid", where=where, hint="export it again"
        ) from e
    _check_types(model, where=where)
    _check_signature(checked, where=where)
    notes: list[str] = []
    source = _raw_weights(model, source)
    data = _upgrade(model, source, opset=checked.opset, where=where, notes=notes)
    data = _fold(data, where=where, notes=notes)
    data = shrink_model(_flat_biases(data))
    feeds = _plain_inputs(checked)
    # Folding merges batch normalisation into weights, which rounds; a wrong conversion is off by far more.
    assert_same_outputs(source, data, feeds, what="preparing the model", relative=1e-4)
    return LoadedModel(check_model(data), checked.digest, len(checked.data), source_name, tools, tuple(notes))


def prepare_onnx(source: bytes, *, where: str) -> bytes:
    """The normal form of an FP32 ONNX file, as ``load_model`` makes it; for what a technique exported.

    Raises:
        UsageError: not a model that can be packed.
        FormatError: the walker refuses the file.
    """
    return _prepare(source, source_name="ONNX file", where=where, tools=()).model.data


def _walk(source: bytes, *, where: str) -> CheckedModel:
    try:
        return check_model(source, where=where, limits=_ANY_PACKING)
    except FormatError as e:
        if e.code == "model_external_data":
            raise UsageError(
                "the model keeps weights in another file",
                code=e.code,
                where=where,
                expected="one self-contained .onnx file",
                hint="load it with onnx.load and save it with onnx.save(model, file, save_as_external_data=False)",
            ) from e
        if e.code in ("model_control_flow", "model_domain"):
            raise UsageError(
                e.what,
                code=e.code,
                where=e.where,
                expected="a plain graph of standard ONNX operators",
                hint="export the model without control flow (fixed settings and lengths) and without custom operators",
            ) from e
        if e.code in ("model_syntax", "model_field_unknown", "model_incomplete"):
            raise UsageError(
                "not an ONNX file", code=e.code, where=where, expected="an ONNX model", actual=e.what, hint="export the model again"
            ) from e
        raise


def _check_types(model: Any, *, where: str) -> None:
    graph = model.graph
    quantised = sorted({node.op_type for node in graph.node} & _QUANTISED_OPS)
    if quantised:
        raise UsageError(
            "the model is quantised already",
            code="model_quantised",
            where=where,
            expected="an FP32 model",
            actual=", ".join(quantised),
            hint="give the model from before quantisation",
        )
    found = {_HALF[tensor.data_type] for tensor in graph.initializer if tensor.data_type in _HALF}
    values = (*graph.input, *graph.output)
    found |= {_HALF[value.type.tensor_type.elem_type] for value in values if value.type.tensor_type.elem_type in _HALF}
    if found:
        raise UsageError(
            "the model is not FP32",
            code="model_precision",
            where=where,
            expected="float32 weights, inputs and outputs",
            actual=", ".join(sorted(found)),
            hint="export it in float32 (torch: module.float())",
        )


def _check_signature(checked: CheckedModel, *, where: str) -> None:
    """Every input and output is a dense tensor of known rank whose first axis is the batch: one or dynamic."""
    if not checked.inputs or not checked.outputs:
        raise UsageError("the model has no input or no output", code="model_signature", where=where)
    for kind, specs in (("input", checked.inputs), ("output", checked.outputs)):
        for spec in specs:
            problem = _signature_problem(kind, spec)
            if problem:
                raise UsageError(
                    f"{kind} '{spec.name}' {problem}",
                    code="model_signature",
                    where=where,
                    expected="a first axis for the batch that is 1 or dynamic, other axes fixed",
                    actual="no shape" if spec.shape is None else f"{spec.dtype} {spec.shape}",
                    hint="export the model with such a shape, and with no input named y, groups or split",
                )


def _signature_problem(kind: str, spec: ValueSpec) -> str | None:
    if spec.dtype is None or spec.shape is None or not spec.shape:
        return "is not a tensor with a batch axis"
    if kind == "output":  # inner sizes may follow from the input; the first axis cannot be told from shapes alone
        return None
    if isinstance(spec.shape[0], int) and spec.shape[0] != 1:
        return "has a fixed batch"
    if not all(isinstance(size, int) and size > 0 for size in spec.shape[1:]):
        return "has a dynamic axis besides the batch"
    return "has a reserved name" if spec.name in RESERVED else None


def _raw_weights(model: Any, source: bytes) -> bytes:
    """The same model with its integer weights in ``raw_data``, if it has more numbers of varying length than a device reads."""
    packed = [tensor for tensor in model.graph.initializer if tensor.int32_data or tensor.int64_data or tensor.uint64_data]
    if sum(tensor.ByteSize() for tensor in packed) <= DEFAULT_LIMITS.max_model_varint_bytes:
        return source
    for tensor in packed:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    raw: bytes = model.SerializeToString(deterministic=True)
    return raw


def _upgrade(model: Any, source: bytes, *, opset: int, where: str, notes: list[str]) -> bytes:
    """Opset 13 or higher, and no initialiser that a caller could override by an input."""
    if opset < MIN_OPSET:
        try:
            model = version_converter.convert_version(model, MIN_OPSET)
        except RuntimeError as e:
            raise UsageError(
                f"cannot convert opset {opset} to {MIN_OPSET}: {' '.join(str(e).split())[:160]}",
                code="model_opset",
                where=where,
                hint=f"export the model with opset {MIN_OPSET} or higher",
            ) from e
        notes.append(f"opset {opset} converted to {MIN_OPSET}")
        source = model.SerializeToString()
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) == len(model.graph.input) and opset >= MIN_OPSET:
        return source
    if len(inputs) < len(model.graph.input):
        notes.append(f"{len(model.graph.input) - len(inputs)} initialisers were also inputs and are now constants")
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(list(model.opset_import)))
    upgraded: bytes = model.SerializeToString(deterministic=True)
    return upgraded


def _fold(data: bytes, *, where: str, notes: list[str]) -> bytes:
    """Basic optimisations by onnxruntime: constants folded, batch normalisation merged; the same on every CPU."""
    checked = check_model(data)
    try:
        folded = fold_constants(checked)
    except FormatError as e:
        raise UsageError(e.what, code="model_runtime", where=where, hint="check that the model runs in onnxruntime as it is") from e
    if any(node.domain not in ("", "ai.onnx") for node in onnx.load_from_string(folded).graph.node):
        notes.append("constants not folded: the optimiser used operators outside the standard")
        return data
    return folded


def _flat_biases(data: bytes) -> bytes:
    """A Gemm bias of shape (1, N) becomes (N,), the same by broadcasting: the quantiser fails on the former."""
    model = onnx.load_from_string(data)
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) == 3}
    others = {name for node in model.graph.node for name in (node.input if node.op_type != "Gemm" else node.input[:2])}
    for tensor in model.graph.initializer:
        if tensor.name in biases - others and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]
    flat: bytes = model.SerializeToString(deterministic=True)
    return flat


def _plain_inputs(checked: CheckedModel) -> dict[str, NDArray[Any]]:
    """One row of small numbers per input, to compare before and after; integers stay legal indices."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in checked.inputs:
        shape = (1, *(size for size in (spec.shape or ())[1:] if isinstance(size, int)))
        dtype = np.dtype(spec.dtype)
        feeds[spec.name] = (rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)).astype(dtype)
    return feeds
