"""Reads a ``.pt2`` program of ``torch.export`` and turns it into ONNX bytes.

The file itself never reaches torch: ``program_archive.py`` copies what is harmless into an archive that loads without
unpickling. Exported by torch's newer exporter, which takes such programs with their dynamic sizes; its bytes were the same
over runs and hash seeds (measured). Does *not* give a module to train: a program is fixed in eval mode.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

from device_client.errors import MissingExtraError, UsageError
from packager.export import ExportedModule
from packager.program_archive import safe_archive
from packager.torch_run import compare_export, quiet_torch, run_flat, torch_reproducible

OPSET = 18  # the lowest that the newer exporter writes without conversion


def export_program(content: bytes, *, where: str) -> ExportedModule:
    """Exports the program to ONNX and compares the two on noise.

    Raises:
        UsageError: an archive that would need a pickle, a program that cannot be exported or computes something else.
        MissingExtraError: torch or onnxscript is not installed.
    """
    clean = safe_archive(content, where=where)
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it, and says so too late
        import torch
    except ModuleNotFoundError as e:
        raise MissingExtraError("train", missing=e.name or "torch") from e
    with torch_reproducible(0), warnings.catch_warnings(), quiet_torch():
        warnings.simplefilter("ignore")  # of torch about itself; outputs are compared below
        try:
            program = torch.export.load(io.BytesIO(clean))
            module = program.module()
        except Exception as e:
            raise _failed("torch cannot read the program", where, e) from e
        names, inputs, batched = _inputs(program, where=where)
        data, outputs = _export(program, module, names, inputs, where=where)
    compare_export(
        lambda *batch: run_flat(module, batch), inputs, data, names, outputs, where=where, rows=(None, 1) if batched else (None,)
    )
    return ExportedModule(data, None, {})


def _export(program: Any, module: Any, names: list[str], inputs: tuple[Any, ...], *, where: str) -> tuple[bytes, list[str]]:
    import torch

    outputs = [name for name, _ in run_flat(module, inputs)]
    try:
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=names, output_names=outputs, optimize=True, verbose=False
        )
        model = _name_batch(exported.model_proto)
        return model.SerializeToString(deterministic=True), outputs
    except Exception as e:
        raise _failed("torch cannot export the program", where, e) from e


def _name_batch(model: Any) -> Any:
    """The program's name of the first axis, such as ``s77``, says nothing: it becomes ``batch``."""
    firsts = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input if value.type.tensor_type.shape.dim}
    name = firsts.pop() if len(firsts) == 1 else ""
    model.graph.ClearField("value_info")
    for value in (*model.graph.input, *model.graph.output) if name else ():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == name:
                dim.dim_param = "batch"
    return model


def _inputs(program: Any, *, where: str) -> tuple[list[str], tuple[Any, ...], bool]:
    """Names and noise for the program's inputs; True where the first axis of each is dynamic."""
    import torch

    generator = torch.Generator().manual_seed(0)
    wanted = set(program.graph_signature.user_inputs)
    names, inputs, batched = [], [], []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in wanted:
            continue
        meta = node.meta.get("val")
        if not isinstance(meta, torch.Tensor):
            raise UsageError(
                f"input '{node.name}' of the program is not a tensor",
                code="model_signature",
                where=where,
                expected="tensors",
                hint="export the module with tensors as its only arguments",
            )
        shape = [size if isinstance(size, int) else _legal_size(program, size) for size in meta.shape]
        names.append(node.name)
        inputs.append(_noise(shape, meta.dtype, generator))
        batched.append(bool(shape) and not isinstance(meta.shape[0], int))
    return names, tuple(inputs), bool(batched) and all(batched)


def _legal_size(program: Any, size: Any) -> int:
    """Two where the program allows it, else the nearest size that it does."""
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        return 2
    low, high = (int(bound) if bound.is_Integer else None for bound in (bounds.lower, bounds.upper))
    wanted = max(2, low or 0)
    return wanted if high is None else min(wanted, high)


def _noise(shape: list[int], dtype: Any, generator: Any) -> Any:
    import torch

    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _failed(what: str, where: str, error: Exception) -> UsageError:
    return UsageError(
        f"{what}: {' '.join(str(error).split())[:200]}",
        code="model_export",
        where=where,
        hint="export it to .onnx yourself and give that file",
    )
