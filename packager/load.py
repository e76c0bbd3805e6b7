"""Loads MODEL and brings it into the packager's normal form: one FP32 ONNX file that quantises and runs everywhere.

Which file or function it is, and who reads it: ``.onnx`` files pass the device's own walker before anything else reads
them (``onnx_file.py``); ``.pt2`` programs are read without unpickling (``program.py``); ``module:function`` gives a torch
module (``export.py``). All of them then go through ``prepare.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from device_client.bundle.digest import Digest
from device_client.entrypoint import is_entry_point, load_entry_point
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel
from packager.export import export_function
from packager.features import features_of
from packager.onnx_file import read_model_file
from packager.prepare import PreparedModel, prepare_onnx
from packager.program import export_program

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
_EXPECTED = "an .onnx or .pt2 file, or module:function"


@dataclass(frozen=True)
class LoadedModel:
    """The original, ready for compression.

    ``model``: the FP32 normal form. ``source_digest`` and ``source_bytes``: of what was given (the file, or the
    exported module). ``notes``: what the preparation changed. ``module``: the torch module in eval mode, where one was
    given. ``features``: what the normal form needs of a device, for the contract.
    """

    model: CheckedModel
    source_digest: Digest
    source_bytes: int
    source_name: str
    tools: tuple[str, ...]
    notes: tuple[str, ...]
    module: Any = None
    features: tuple[str, ...] = ()


def load_model(text: str, *, seed: int, example: Callable[[], Mapping[str, NDArray[Any]]]) -> LoadedModel:
    """Loads MODEL.

    Args:
        text: path of an ``.onnx`` or ``.pt2`` file, or ``module:function`` returning a torch module or (module, example
            inputs).
        seed: of torch, numpy and random while the function runs.
        example: gives a few rows of DATA by name, or an empty mapping: what a bare module is traced with, and what the
            model is compared on.

    Raises:
        UsageError: not a model that can be packed; says which file, what was expected, and the remedy.
        FormatError, LimitError: the walker refuses the file.
    """
    if is_entry_point(text):
        exported = export_function(load_entry_point(text), where=text, seed=seed, example=example)
        prepared = prepare_onnx(exported.data, where=text, example={**example(), **exported.rows})
        return _loaded(prepared, source_name="torch module", tools=("torch",), module=exported.module)
    path = Path(text)
    _refuse_file(path)
    if path.suffix.lower() == ".pt2":
        content = read_model_file(path)
        exported = export_program(content, where=path.name)
        prepared = prepare_onnx(exported.data, where=path.name, example={**example(), **exported.rows})
        loaded = _loaded(prepared, source_name="torch program", tools=("torch", "onnxscript"), module=exported.module)
        return _from_file(loaded, content)
    prepared = prepare_onnx(read_model_file(path), where=path.name, example=example())
    return _loaded(prepared, source_name="ONNX file", tools=(), module=None)


def _loaded(prepared: PreparedModel, *, source_name: str, tools: tuple[str, ...], module: Any) -> LoadedModel:
    return LoadedModel(
        model=prepared.model,
        source_digest=prepared.source.digest,
        source_bytes=len(prepared.source.data),
        source_name=source_name,
        tools=tools,
        notes=prepared.notes,
        module=module,
        features=features_of(prepared.model.data),
    )


def _from_file(loaded: LoadedModel, content: bytes) -> LoadedModel:
    """The lineage names the file that was given, not what was exported from it."""
    return replace(loaded, source_digest=Digest.of(content), source_bytes=len(content))


def _refuse_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(
            "model file not found",
            code="model_missing",
            where=str(path),
            expected=_EXPECTED,
            hint="check the path; a function is written package.module:function",
        )
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise UsageError(
            "this file can be a pickle, and a pickle is a program",
            code="model_format",
            where=str(path),
            expected=_EXPECTED,
            hint="write a function that builds the module, loads its weights and returns it, and give module:function",
        )
    if suffix not in (".onnx", ".pt2"):
        raise UsageError(
            "not a model format that can be packed",
            code="model_format",
            where=str(path),
            expected=_EXPECTED,
            actual=suffix or "no suffix",
            hint="export the model to ONNX and give that file",
        )
