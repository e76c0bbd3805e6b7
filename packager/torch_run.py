"""Running torch modules the same way each time: fixed seeds, one thread, quiet, outputs as a flat list of named tensors.

Shared by what exports (``export.py``, ``program.py``) and what trains. torch is imported inside functions.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import FormatError, UsageError
from device_client.inference.session import open_session
from packager.features import check_own

Flat = list[tuple[str, Any]]


@contextmanager
def torch_reproducible(seed: int, *, threads: int = 1) -> Iterator[None]:
    """Fixed seeds of torch, numpy and random, and deterministic kernels; all put back afterwards.

    Also switches off torch's short cut through its own transformer layers: exporters do not know its operators, and it reads
    inner weights without calling the inner layers, so that a layer put in their place would be passed by.

    Args:
        seed: in [0, 2**32).
        threads: of torch; the order of sums, and so the last bits of results, depend on it.
    """
    import torch

    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    short_cut = torch.backends.mha.get_fastpath_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # what user code draws from
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(strict)
            torch.backends.mha.set_fastpath_enabled(short_cut)


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Without the log lines and the printing of torch's readers and exporters: a library does not print."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def run_flat(module: Any, tensors: Sequence[Any]) -> Flat:
    """Runs a module without gradients; its outputs as a flat list of names and tensors."""
    import torch

    with torch.no_grad():
        return flatten(module(*tensors), where="outputs")


def flatten(value: Any, *, where: str, name: str = "y") -> Flat:
    """Tensors of nested tuples, lists and dictionaries; ``y`` alone, ``y0``, ``y1``, or the dictionary's keys."""
    import torch

    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        named = [(re.sub(r"[^A-Za-z0-9_]", "_", str(key)), item) for key, item in value.items() if item is not None]
        prefix = "" if name == "y" else f"{name}_"
        return [pair for key, item in named for pair in flatten(item, where=where, name=f"{prefix}{key}")]
    if isinstance(value, (tuple, list)):
        items = [item for item in value if item is not None]
        if len(items) == 1:
            return flatten(items[0], where=where, name=name)
        separator = "" if name == "y" else "_"
        return [pair for index, item in enumerate(items) for pair in flatten(item, where=where, name=f"{name}{separator}{index}")]
    raise UsageError(
        "the module gives something that is no tensor",
        code="model_export",
        where=where,
        expected="tensors, or tuples and dictionaries of them",
        actual=type(value).__name__,
        hint="wrap the module in one that returns tensors only",
    )


def as_array(tensor: Any) -> NDArray[Any]:
    """A tensor as the runtime gets it; BF16, which numpy has not, as FP32."""
    array: NDArray[Any] = tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()
    return array


def compare_export(
    run: Callable[..., Flat],
    inputs: tuple[Any, ...],
    data: bytes,
    names: list[str],
    outputs: list[str],
    *,
    where: str,
    rows: Sequence[int | None],
) -> None:
    """Runs both on the example rows and on the first of them alone: exporting bakes in what depended on data or batch size.

    Args:
        run: the module, of positional tensors.
        inputs: example rows, one tensor for each of ``names``.
        data: the ONNX file.
        names: of its inputs.
        outputs: names of its outputs, in the module's order.
        where: name for errors.
        rows: how many of the rows to run; ``None`` for all.

    Raises:
        UsageError: the outputs differ, or the runtime refuses the file.
    """
    try:
        with open_session(check_own(data, where=where)) as session:
            for count in rows:
                batch = tuple(tensor[:count] for tensor in inputs) if count is not None else inputs
                wanted = [tensor for _, tensor in run(*batch)]
                feed = {name: as_array(tensor) for name, tensor in zip(names, batch, strict=True)}
                kept = {spec.name for spec in session.inputs}  # an input that nothing reads is not in the file
                found = session.run({name: array for name, array in feed.items() if name in kept})
                for name, want in zip(outputs, wanted, strict=True):
                    _compare(found[name], as_array(want), where=f"{where}, output {name}")
    except FormatError as e:
        raise UsageError(
            f"onnxruntime does not run what torch exported: {e.what}",
            code="model_export",
            where=where,
            hint="export it to .onnx yourself and give that file",
        ) from e


def _compare(have: NDArray[Any], want: NDArray[Any], *, where: str) -> None:
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
    if have.shape != want.shape or not np.allclose(have, want, rtol=1e-3, atol=1e-4 * scale, equal_nan=True):
        gap = f"differences up to {float(np.abs(have - want).max()):g}" if have.shape == want.shape else f"shape {have.shape}"
        raise UsageError(
            "the exported model does not compute what the module does",
            code="model_export",
            where=where,
            expected="equal outputs",
            actual=gap,
            hint="write the forward pass without Python control flow on values or on the batch size",
        )
