"""What others make of the same model and calibration rows: onnxruntime's two defaults, and NNCF's ONNX backend where it is.

NNCF lives in a Python of its own, named by ``SEALIFT_NNCF_PYTHON``, with nncf, onnx and onnxruntime: Sealift does not depend on it.
Every peer gets the file as its maker published it and, only if that fails, the packager's FP32 form of it; which one is noted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.inference.runtime import import_runtime

NNCF_PYTHON = "SEALIFT_NNCF_PYTHON"
_TIMEOUT_S = 900
_WARNINGS, _ERRORS = 2, 3  # onnxruntime's severities

# ``fast_bias_correction`` off is its fuller, slower correction; the default is what people get.
_NNCF = """
import sys
import numpy as np, onnx, nncf
model = onnx.load(sys.argv[1])
ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
constants = {tensor.name for tensor in model.graph.initializer}
with np.load(sys.argv[2], allow_pickle=False) as rows:
    arrays = {name: rows[name] for name in ranks if name not in constants}
count = len(next(iter(arrays.values())))
def feed(row):
    alone = {name for name, array in arrays.items() if ranks[name] == array.ndim - 1}
    return {name: np.asarray(array[row]) if name in alone else array[row : row + 1] for name, array in arrays.items()}
done = nncf.quantize(model, nncf.Dataset(range(count), feed), subset_size=count)
onnx.save(done, sys.argv[3])
"""


@dataclass(frozen=True)
class PeerModel:
    """What a peer made, or why it made nothing. ``note``: which input it took."""

    peer: str
    data: bytes | None
    note: str


def make_peers(source: bytes, normal: bytes, calibration: Mapping[str, NDArray[Any]]) -> list[PeerModel]:
    """Every peer's model.

    Args:
        source: the model's file as published.
        normal: the packager's FP32 form of it.
        calibration: rows by input.
    """
    makers: dict[str, Callable[[Path, Path], None]] = {
        "onnxruntime dynamic": _dynamic,
        "onnxruntime static": lambda model, out: _static(model, out, calibration),
        "nncf": lambda model, out: _nncf(model, out, calibration),
    }
    return [_made(peer, make, source, normal) for peer, make in makers.items()]


def _made(peer: str, make: Callable[[Path, Path], None], source: bytes, normal: bytes) -> PeerModel:
    reasons = []
    for name, data in (("as published", source), ("FP32 form", normal)):
        with tempfile.TemporaryDirectory(prefix="sealift-bench-") as folder:
            model, out = Path(folder) / "model.onnx", Path(folder) / "out.onnx"
            model.write_bytes(data)
            try:
                with _quiet():
                    make(model, out)
                return PeerModel(peer, out.read_bytes(), name)
            except Exception as e:  # noqa: BLE001  # somebody else's quantiser: whatever it raises is its result
                reasons.append(f"{name}: {type(e).__name__}: {' '.join(str(e).split())[:160]}")
    return PeerModel(peer, None, "; ".join(dict.fromkeys(reasons)))


def _dynamic(model: Path, out: Path) -> None:
    import_runtime()
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, out)


def _static(model: Path, out: Path, calibration: Mapping[str, NDArray[Any]]) -> None:
    runtime = import_runtime()
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    ranks = {value.name: len(value.shape) for value in session.get_inputs()}

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped there
        def __init__(self) -> None:
            self._feeds = iter(_feeds(calibration, ranks))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._feeds, None)

    quantize_static(model, out, Reader())


def _nncf(model: Path, out: Path, calibration: Mapping[str, NDArray[Any]]) -> None:
    python = os.environ.get(NNCF_PYTHON)
    if not python:
        raise RuntimeError(f"{NNCF_PYTHON} is not set")
    rows = model.with_name("rows.npz")
    np.savez(rows, allow_pickle=False, **dict(calibration))
    command = [python, "-c", _NNCF, str(model), str(rows), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NNCF_DISABLE_TELEMETRY": "1", "NO_NNCF_TELEMETRY": "1", "CI": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split())[-160:])


def _feeds(rows: Mapping[str, NDArray[Any]], ranks: Mapping[str, int]) -> Iterator[dict[str, NDArray[Any]]]:
    for row in range(len(next(iter(rows.values())))):
        yield {
            name: np.asarray(rows[name][row]) if rank == rows[name].ndim - 1 else rows[name][row : row + 1]
            for name, rank in ranks.items()
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Quantisers advise on standard error and by warnings; the table is the place for what they did."""
    before, runtime = logging.root.manager.disable, import_runtime()
    logging.disable(logging.WARNING)
    runtime.set_default_logger_severity(_ERRORS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        runtime.set_default_logger_severity(_WARNINGS)
        logging.disable(before)
