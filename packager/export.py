"""Turns a torch module into ONNX bytes that are the same on every run.

Uses torch's TorchScript-based exporter (``dynamo=False``) first: measured, it gives identical bytes over runs and hash
seeds, clean names, no stack traces with paths, and needs no further package; the newer exporter writes 28 % more metadata.
It is the second choice, for modules that tracing gets wrong: the first one bakes in what depends on values or on the batch.
torch is imported here only, and only for ``module:function``.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import MissingExtraError, UsageError
from packager.torch_run import as_array, compare_export, flatten, quiet_torch, run_flat, torch_reproducible

OPSET = 17
_NEWER_OPSET = 18  # the lowest that the newer exporter writes without conversion


@dataclass(frozen=True)
class ExportedModule:
    """``data``: the ONNX file. ``module``: the torch module in eval mode. ``rows``: example inputs by name, (rows, ...)."""

    data: bytes
    module: Any
    rows: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def export_module(
    function: Callable[[], Any], *, where: str, seed: int, example: Callable[[], Mapping[str, NDArray[Any]]]
) -> bytes:
    """As ``export_function``, the ONNX file alone."""
    return export_function(function, where=where, seed=seed, example=example).data


def export_function(
    function: Callable[[], Any], *, where: str, seed: int, example: Callable[[], Mapping[str, NDArray[Any]]]
) -> ExportedModule:
    """Calls ``function`` under fixed seeds and one thread, and exports what it returns.

    Args:
        function: returns a torch module, or (module, example inputs); may train it. Example inputs are a tensor, a tuple of
            tensors, or a mapping of keyword arguments.
        where: name for errors.
        seed: of torch, numpy and random while ``function`` runs.
        example: rows of DATA, used when the function returns no example inputs.

    Raises:
        UsageError: not a module, it cannot be exported, or what was exported computes something else.
        MissingExtraError: torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as e:
        raise MissingExtraError("packager", missing=e.name or "torch") from e
    with torch_reproducible(seed):
        found = function()
        module, given = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(module, torch.nn.Module):
            raise UsageError(
                "the model function must return a torch module",
                code="model_type",
                where=where,
                expected="torch.nn.Module, or (module, example inputs)",
                actual=type(module).__name__,
            )
        module = module.cpu().eval()
        inputs = _example_inputs(module, given, example, where=where)
        data = _export(module, inputs, where=where)
        whole = not _have_rows(inputs.values())
        rows = {name: as_array(tensor[None] if whole else tensor) for name, tensor in inputs.items()}
        return ExportedModule(data, module, rows)


def export_to_onnx(module: Any, example: Any, *, where: str = "module") -> bytes:
    """Exports a module that is at hand, in eval mode, and compares the two.

    Args:
        module: a torch module on the CPU.
        example: a tensor, a tuple of tensors or a mapping of keyword arguments, each with rows along the first axis.
        where: name for errors.

    Raises:
        UsageError: it cannot be exported, or what was exported computes something else.
    """
    was_training = module.training
    module.eval()
    try:
        with torch_reproducible(0):
            return _export(module, _named(module, example, where=where), where=where)
    finally:
        module.train(was_training)


def _example_inputs(module: Any, given: object, example: Callable[[], Mapping[str, NDArray[Any]]], *, where: str) -> dict[str, Any]:
    """Example inputs by name: the function's own, else rows of DATA that are called like the module's arguments, or ``x``."""
    if given is not None:
        return _named(module, given, where=where)
    arrays = example()
    if "x" in arrays:
        return _named(module, _tensor(arrays["x"]), where=where)
    arguments = _required_arguments(module)
    if not arguments or not arguments <= arrays.keys():
        raise UsageError(
            "a bare module needs DATA with one input 'x', or with arrays called like its arguments",
            code="model_example",
            where=where,
            expected=", ".join(sorted(arguments)) or "x",
            actual=", ".join(sorted(arrays)) or "no data",
            hint="return (module, example inputs) from the function",
        )
    named = [name for name in inspect.signature(module.forward).parameters if name in arrays]
    return _checked({name: _tensor(arrays[name]) for name in named}, where=where)


def _required_arguments(module: Any) -> set[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    return {
        item.name
        for item in parameters
        if item.default is inspect.Parameter.empty and item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
    }


def _named(module: Any, given: object, *, where: str) -> dict[str, Any]:
    """Names for example inputs: ``x`` for one, the arguments' names for several."""
    if isinstance(given, Mapping):
        return _checked({str(name): _tensor(item) for name, item in given.items()}, where=where)
    items: Sequence[Any] = given if isinstance(given, (tuple, list)) else (given,)
    parameters = list(inspect.signature(module.forward).parameters)
    if len(items) == 1:
        names = ["x"]
    else:
        names = parameters[: len(items)] if len(parameters) >= len(items) else [f"x{index}" for index in range(len(items))]
    return _checked(dict(zip(names, map(_tensor, items), strict=True)), where=where)


def _tensor(item: Any) -> Any:
    import torch

    if isinstance(item, torch.Tensor):
        return item.detach().cpu()
    array = np.asarray(item)
    return torch.from_numpy(np.array(array, dtype=np.float32 if array.dtype.kind in "fu" else array.dtype, order="C"))


def _checked(inputs: dict[str, Any], *, where: str) -> dict[str, Any]:
    if not inputs or any(tensor.ndim == 0 for tensor in inputs.values()):
        raise UsageError("example inputs need a batch axis", code="model_example", where=where, expected="tensors of (batch, ...)")
    return inputs


def _have_rows(tensors: Iterable[Any]) -> bool:
    """True if the first axis of all can be the batch; a sequence-first network with its states has no such axis."""
    return len({len(tensor) for tensor in tensors}) == 1


def _export(module: Any, inputs: dict[str, Any], *, where: str) -> bytes:
    """By the first exporter whose file computes what the module does."""
    adapter, rows, outputs = _adapt(module, inputs, where=where)
    failure: UsageError | None = None
    for write in (_write_traced, _write_newer):
        try:
            data = write(adapter, rows, list(inputs), outputs, where=where)
            compare_export(
                lambda *batch: run_flat(adapter, batch),
                rows,
                data,
                list(inputs),
                outputs,
                where=where,
                rows=(None, 1) if _is_batch(rows) else (None,),
            )
        except UsageError as e:
            failure = failure or e
        except ModuleNotFoundError:  # the newer exporter needs a package of the extra `train`
            break
        else:
            return data
    if failure is None:
        raise MissingExtraError("train", missing="onnxscript")
    raise failure


def _is_batch(tensors: Sequence[Any]) -> bool:
    return _have_rows(tensors) and len(tensors[0]) > 1


def _adapt(module: Any, inputs: dict[str, Any], *, where: str) -> tuple[Any, tuple[Any, ...], list[str]]:
    """A module of positional tensors that gives a tuple, two rows where the module takes them, and names of its outputs."""
    import torch

    names = list(inputs)
    positional = names == list(inspect.signature(module.forward).parameters)[: len(names)] or names == ["x"]

    class Adapter(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            found = self.inner(*tensors) if positional else self.inner(**dict(zip(names, tensors, strict=True)))
            return tuple(tensor for _, tensor in flatten(found, where=where))

    adapter = Adapter().eval()
    tensors = tuple(inputs.values())
    if all(len(tensor) == 1 for tensor in tensors):
        doubled = tuple(torch.cat([tensor, tensor]) for tensor in tensors)
        tensors = doubled if _runs(adapter, doubled) else tensors
    with torch.no_grad():
        try:
            found = module(*tensors) if positional else module(**dict(zip(names, tensors, strict=True)))
        except Exception as e:
            raise UsageError(
                f"the module does not run on its example inputs: {' '.join(str(e).split())[:160]}",
                code="model_example",
                where=where,
                actual=", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items()),
                hint="return (module, example inputs) from the function, or correct DATA",
            ) from e
    outputs = [name if name not in inputs else f"{name}_out" for name, _ in flatten(found, where=where)]
    return adapter, tensors, outputs


def _runs(module: Any, tensors: tuple[Any, ...]) -> bool:
    import torch

    try:
        with torch.no_grad():
            module(*tensors)
    except Exception:  # noqa: BLE001  # anybody's code: whatever it raises, it does not take two rows
        return False
    return True


def _write_traced(module: Any, inputs: tuple[Any, ...], names: list[str], outputs: list[str], *, where: str) -> bytes:
    import torch

    file = io.BytesIO()
    results = [tensor for _, tensor in run_flat(module, inputs)]
    is_batch, rows = _is_batch(inputs), len(inputs[0])
    batched = [name for name, tensor in zip(outputs, results, strict=True) if tensor.ndim and len(tensor) == rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated (see the module text), traces values, writes sizes: compared below
        try:
            torch.onnx.export(
                module,
                inputs,
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (*names, *batched)} if is_batch else None,
            )
        except Exception as e:
            raise _failed(e, where) from e
    return file.getvalue()


def _write_newer(module: Any, inputs: tuple[Any, ...], names: list[str], outputs: list[str], *, where: str) -> bytes:
    import onnxscript  # noqa: F401  # torch's exporter needs it, and says so too late
    import torch

    batch = {0: torch.export.Dim("batch")} if _is_batch(inputs) else None
    with warnings.catch_warnings(), quiet_torch():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=_NEWER_OPSET,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=(tuple(batch for _ in inputs),),
                verbose=False,
            )
            data: bytes = program.model_proto.SerializeToString(deterministic=True)
        except Exception as e:
            raise _failed(e, where) from e
    return data


def _failed(error: Exception, where: str) -> UsageError:
    return UsageError(
        f"torch cannot export the module: {' '.join(str(error).split())[:200]}",
        code="model_export",
        where=where,
        hint="export it to .onnx yourself and give that file",
    )
