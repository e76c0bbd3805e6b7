"""What a training returned, as ONNX bytes: bytes and model objects as they are, a torch module exported. Runs in the child."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.errors import UsageError

_OPSET = 17


def to_onnx(made: object, *, example: npt.NDArray[np.float32], names: tuple[str, str], where: str) -> bytes:
    """ONNX bytes of a trained model.

    Args:
        made: ONNX bytes, an ``onnx.ModelProto`` without external data, or a torch module.
        example: rows that a module is traced with, (N, ...).
        names: of the exported module's input and output: the audited model's, so that one recipe fits both.
        where: the entry point, for errors.

    Raises:
        UsageError: anything else, or a module that cannot be exported (``isolated_result``).
    """
    if isinstance(made, bytes | bytearray):
        return bytes(made)
    serialise = getattr(made, "SerializeToString", None)
    if callable(serialise):
        data: bytes = serialise()
        return data
    import torch

    if not isinstance(made, torch.nn.Module):
        raise UsageError(
            "the training returned no model",
            code="isolated_result",
            where=where,
            expected="a torch module or ONNX bytes",
            actual=type(made).__name__,
        )
    return _export(made, example=example, names=names, where=where)


def _export(module: Any, *, example: npt.NDArray[np.float32], names: tuple[str, str], where: str) -> bytes:
    """Traced on the CPU in evaluation mode, with a free batch."""
    import torch

    stream = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch announces the end of this exporter; the other one needs a further package
            torch.onnx.export(
                module.cpu().eval(),
                (torch.from_numpy(np.ascontiguousarray(example)),),
                stream,
                input_names=[names[0]],
                output_names=[names[1]],
                dynamic_axes={names[0]: {0: "n"}, names[1]: {0: "n"}},
                opset_version=_OPSET,
                dynamo=False,
            )
    except Exception as e:
        raise UsageError(
            "the trained module cannot be exported",
            code="isolated_result",
            where=where,
            actual=f"{type(e).__name__}: {e}"[:200],
            hint="let the training return ONNX bytes",
        ) from e
    return stream.getvalue()
