"""Turns a torch module into ONNX bytes that are the same on every run.

Uses torch's TorchScript-based exporter (``dynamo=False``): measured, it gives identical bytes over runs and hash
seeds, clean names, no stack traces with paths, and needs no further package; the newer exporter writes 28 % more
metadata. torch is imported here only, and only for ``module:function``.
"""

from __future__ import annotations

import inspect
import io
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import MissingExtraError, UsageError
from device_client.inference.session import open_session
from device_client.inference.walker import check_model

OPSET = 17


def export_module(
    function: Callable[[], Any], *, where: str, seed: int, example: Callable[[], Mapping[str, NDArray[Any]]]
) -> bytes:
    """Calls ``function`` under fixed seeds and one thread, and exports what it returns.

    Args:
        function: returns a torch module, or (module, example inputs); may train it.
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
    with reproducible(seed):
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
        inputs = _example_inputs(given, example, where=where)
        names = input_names(module, len(inputs))
        return _export(module, inputs, names, where=where)


def _example_inputs(given: object, example: Callable[[], Mapping[str, NDArray[Any]]], *, where: str) -> tuple[Any, ...]:
    import torch

    if given is None:
        arrays = example()
        if "x" not in arrays:
            raise UsageError(
                "a bare module needs DATA with one input 'x'",
                code="model_example",
                where=where,
                actual=", ".join(sorted(arrays)),
                hint="return (module, example inputs) from the function",
            )
        array = arrays["x"]
        return (torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32 if array.dtype.kind in "fu" else array.dtype)),)
    items: Sequence[Any] = given if isinstance(given, (tuple, list)) else (given,)
    tensors = tuple(item if isinstance(item, torch.Tensor) else torch.as_tensor(np.asarray(item)) for item in items)
    if not tensors or any(tensor.ndim == 0 for tensor in tensors):
        raise UsageError("example inputs need a batch axis", code="model_example", where=where, expected="tensors of (batch, ...)")
    return tensors


def input_names(module: Any, count: int) -> list[str]:
    """What the exported model's inputs are called: ``x`` for one, else the names in ``forward``."""
    if count == 1:
        return ["x"]
    parameters = list(inspect.signature(module.forward).parameters)
    return parameters[:count] if len(parameters) >= count else [f"x{index}" for index in range(count)]


def _export(module: Any, inputs: tuple[Any, ...], names: list[str], *, where: str) -> bytes:
    import torch

    with torch.no_grad():
        result = module(*inputs)
    outputs = ["y"] if isinstance(result, torch.Tensor) else [f"y{index}" for index in range(len(result))]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # see the module text: chosen knowingly
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # outputs are compared below
        try:
            torch.onnx.export(
                module,
                inputs,
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (*names, *outputs)},
            )
        except (RuntimeError, TypeError, ValueError) as e:
            raise UsageError(
                f"torch cannot export the module: {' '.join(str(e).split())[:200]}",
                code="model_export",
                where=where,
                hint="export it to .onnx yourself and give that file",
            ) from e
    data = file.getvalue()
    _compare(module, inputs, data, names, outputs, where=where)
    return data


def _compare(module: Any, inputs: tuple[Any, ...], data: bytes, names: list[str], outputs: list[str], *, where: str) -> None:
    """Runs both on the example rows and on one of them alone: tracing bakes in what depended on data or batch size."""
    import torch

    with open_session(check_model(data, where=where)) as session:
        for rows in (slice(None), slice(0, 1)):
            batch = tuple(tensor[rows] for tensor in inputs)
            with torch.no_grad():
                result = module(*batch)
            expected = (result,) if isinstance(result, torch.Tensor) else tuple(result)
            actual = session.run({name: tensor.numpy() for name, tensor in zip(names, batch, strict=True)})
            for name, want in zip(outputs, expected, strict=True):
                if not np.allclose(actual[name], want.numpy(), rtol=1e-3, atol=1e-4 * max(1.0, float(want.abs().max()))):
                    raise UsageError(
                        "the exported model does not compute what the module does",
                        code="model_export",
                        where=f"{where}, output {name}",
                        expected="equal outputs",
                        actual=f"differences up to {float(np.abs(actual[name] - want.numpy()).max()):g}",
                        hint="write the forward pass without Python control flow on values or on the batch size",
                    )


def export_to_onnx(module: Any, inputs: tuple[Any, ...], *, where: str) -> bytes:
    """Exports a module in eval mode, and compares what was exported with it.

    Args:
        module: a torch module on the CPU.
        inputs: example tensors, (batch, ...), in the order of its ``forward``; at least two rows.
        where: name for errors.

    Raises:
        UsageError: it cannot be exported, or what was exported computes something else.
    """
    return _export(module, inputs, input_names(module, len(inputs)), where=where)


@contextmanager
def reproducible(seed: int, *, threads: int = 1) -> Iterator[None]:
    """Fixed seeds and number of threads, deterministic kernels; all put back afterwards."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # what user code draws from
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
