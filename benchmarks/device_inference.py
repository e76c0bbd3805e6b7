"""D10 and D11: what the checks of the load path and of every call cost, beside the bare runtime; and the way over the socket.

    python -m benchmarks.device_inference

D10 opens an installed model with ``open_model`` and, in the same round, does by hand what cannot be saved: a bare session over the
bytes with the same options, one hash, one decryption from memory into a new buffer, and one walk over the structure. That
``open_model`` reads a file first, and finds out which, counts against it; a row of its own says how it looks if the reading
is no fault of it. The check of the evidence is left out of both; it and a session that is given a path are rows of their own.
D11 runs ``Model.run`` and a bare
``InferenceSession.run`` in turn, in blocks, on the same inputs. Both are ratios of CPU time, each of two measurements next to
each other; the median of all rounds counts, and the spread is shown (the middle half).

The check of a call costs some microseconds, whatever the model: a model that needs 50 us for a call shows it, one that needs a
millisecond does not. D11 is judged on the models that other people made (``docs/data.md``), all of them, by the worst.
The socket's rows are elapsed time, since two processes share the work: client to service to worker and back.
"""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import Goal, Results
from device_client.bundle.contract import TensorSpec
from device_client.inference import model as model_module
from device_client.inference.model import open_model
from device_client.inference.runtime import clean_runtime
from device_client.inference.session import _options
from device_client.inference.walker import _Rules, check_model
from device_client.install.at_rest_key import StoreKey
from device_client.install.sealed import CHUNK_BYTES, HEADER_BYTES, RECORD_BYTES, Header, Seal
from device_client.install.selftest import SelfTestReport
from device_client.limits import DEFAULT_LIMITS, MIB
from device_client.service.client import InferenceClient
from tests.unit.device.world import THE_MODEL, World, bundle

LOAD_ROUNDS = 20
RUN_ROUNDS = 60
SOCKET_CALLS = 100
_BLOCK_S = 0.02
_LARGE = 10 * MIB
_REAL = "real: "
_WITH_FILE = "load, beside reading too"
_PARTS = ("session", "hash", "decryption", "walk")
_FEATURES = ("control-flow:If", "control-flow:Loop")
_SIZES = {"sequence": 512}  # of dynamic dimensions; 1 otherwise


@dataclass(frozen=True)
class Case:
    """A model, installed on a device of its own, and inputs for it."""

    name: str
    data: bytes
    world: World
    inputs: dict[str, Any]

    @property
    def mib(self) -> float:
        return round(len(self.data) / MIB, 1)


def rows(data: str | None) -> list[dict[str, Any]]:
    """One row for each model and question: medians, the ratio and its spread.

    Args:
        data: the folder with models that other people made, or None for synthetic ones only.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        for case in _cases(Path(name), data):
            if len(case.data) >= _LARGE:
                found += _load_rows(case)
            found.append(_run_row(case))
            found.append(_socket_row(case))
    return found


def goals(measured: list[dict[str, Any]]) -> list[Goal]:
    """D10 and D11, each on the row that does worst; only models of 10 MiB and more have rows about loading."""
    loads = [row for row in measured if row["what"] == "load"]
    with_file = [row for row in measured if row["what"] == _WITH_FILE]
    calls = [row for row in measured if row["what"] == "call" and row["model"].startswith(_REAL)]
    return [
        _worst("D10", "verified load of 10 MiB and more, to its parts", loads, 1.05),
        _worst("D10-read", "the same, if reading the file is a part, too", with_file, 1.05),
        _worst("D11", "one inference, to a bare session's", calls, 1.02),
    ]


def _worst(identity: str, what: str, found: list[dict[str, Any]], bound: float) -> Goal:
    if not found:
        reason = "no model to judge it by; SEALIFT_DATA leads to none (docs/data.md)"
        return Goal(identity, what, None, "<=", bound, "times", reason)
    worst = max(found, key=lambda row: float(row["ratio"]))
    return Goal(identity, f"{what} ({worst['model']})", worst["ratio"], "<=", bound, "times")


def main() -> None:
    """Measures, prints the table, writes ``results/device_inference.json``."""
    results = Results("device_inference")
    results.rows += rows(os.environ.get("SEALIFT_DATA"))
    results.goals += goals(results.rows)
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


# Load.


def _load_rows(case: Case) -> list[dict[str, Any]]:
    folder = case.world.device.folder
    sealed, path = _Sealed.of(case), folder.path / "plain.onnx"
    path.write_bytes(case.data)
    shares: dict[str, list[float]] = {name: [] for name in ("ours", *_PARTS, "file", "evidence", "path")}

    def parts() -> None:
        _timed(shares["file"], sealed.read)
        data = _timed(shares["decryption"], sealed.decrypt)
        _timed(shares["hash"], lambda: hashlib.sha256(data).digest())
        _timed(shares["walk"], lambda: _Rules(case.data, features=_FEATURES, where="bench", limits=DEFAULT_LIMITS).read())
        _timed(shares["session"], lambda: _bare(case.data))

    ours = _ours(shares["ours"], case)
    with _without_evidence():
        for _ in range(LOAD_ROUNDS + 1):
            for part in (ours, parts, parts, ours):  # what drifts meanwhile meets both alike
                gc.collect()
                part()
    for _ in range(7):
        _timed(shares["path"], lambda: _bare(str(path)))
        with case.world.state() as state:
            check = partial(model_module.check_evidence, folder, state, case.world.active(), limits=DEFAULT_LIMITS)
            _timed(shares["evidence"], check)
    for values in shares.values():
        del values[:2]  # the first round warms up
    sums = [sum(found) for found in zip(*(shares[name] for name in _PARTS), strict=True)]
    with_file = [sum(found) for found in zip(sums, shares["file"], strict=True)]
    return [
        _row("load", case, "ms", shares["ours"], sums, scale=1e3),
        _row(_WITH_FILE, case, "ms", shares["ours"], with_file, scale=1e3),
        *(_row(f"load: {name}", case, "ms", shares[name], None, scale=1e3) for name in shares if name != "ours"),
    ]


@dataclass(frozen=True)
class _Sealed:
    """The model's blob as the store wrote it, to be read and decrypted by hand."""

    path: Path
    size: int
    seal: Seal
    data: memoryview

    @classmethod
    def of(cls, case: Case) -> _Sealed:
        folder, digest = case.world.device.folder, case.world.active().variant_digest
        path = folder.blobs / "sha256" / digest.hex
        data = path.read_bytes()
        header = Header.parse(data[:HEADER_BYTES], where=path.name)
        seal = Seal(header, digest, key=StoreKey(folder.path).load(), where=path.name)
        return cls(path, header.size, seal, memoryview(data)[HEADER_BYTES:])

    def read(self) -> None:
        """The file, through one buffer."""
        record = bytearray(RECORD_BYTES)
        with self.path.open("rb", buffering=0) as file:
            while file.readinto(record):
                pass

    def decrypt(self) -> bytearray:
        """From memory into a new buffer."""
        found = bytearray(self.size)
        with memoryview(found) as content:
            for index in range(self.seal.header.chunks):
                record = self.data[index * RECORD_BYTES : (index + 1) * RECORD_BYTES]
                self.seal.open(index, record, content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        return found


def _ours(into: list[float], case: Case) -> Callable[[], None]:
    return lambda: _timed(into, lambda: open_model(case.world.device.folder, THE_MODEL)).close()


@contextmanager
def _without_evidence() -> Iterator[None]:
    """The check of the evidence has a row of its own."""
    kept = model_module.check_evidence
    model_module.check_evidence = lambda *_, **__: None
    try:
        yield
    finally:
        model_module.check_evidence = kept


def _bare(model: bytes | str) -> Any:
    with clean_runtime() as onnxruntime:
        options = _options(onnxruntime, threads=1)
        return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


# One call.


def _run_row(case: Case) -> dict[str, Any]:
    bare, inputs = _bare(case.data), case.inputs
    names = [output.name for output in bare.get_outputs()]
    ours, theirs = [], []
    with open_model(case.world.device.folder, THE_MODEL) as model:
        run, plain = lambda: model.run(inputs), lambda: bare.run(names, inputs)
        calls = max(1, int(_BLOCK_S / min(_block(plain, 1) for _ in range(5))))
        for _ in range(RUN_ROUNDS):
            for work, into in ((run, ours), (plain, theirs), (plain, theirs), (run, ours)):
                into.append(_block(work, calls) / calls)
    return _row("call", case, "us", ours, theirs, scale=1e6)


def _block(work: Callable[[], object], calls: int) -> float:
    begun = time.process_time()
    for _ in range(calls):
        work()
    return time.process_time() - begun


# Over the socket.


def _socket_row(case: Case) -> dict[str, Any]:
    direct, through = [], []
    folder = case.world.device.folder
    with (
        _service(folder.path),
        InferenceClient(folder.path / "run" / "inference.sock") as client,
        open_model(folder, THE_MODEL) as model,
    ):
        for _ in range(SOCKET_CALLS + 6):
            direct.append(_elapsed(lambda: model.run(case.inputs)))
            through.append(_elapsed(lambda: client.run("ocr", case.inputs)))
    return _row("socket", case, "us", through[6:], direct[6:], scale=1e6)


@contextmanager
def _service(folder: Path) -> Iterator[None]:
    """In a process of its own, as it always is."""
    command = [sys.executable, "-m", "sealift", "device", "serve", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            if process.stderr is None or not process.stderr.readline():
                raise RuntimeError("the service does not start")
            yield
        finally:
            process.terminate()
            process.communicate()


def _elapsed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# Rows.


def _timed(into: list[float], work: Callable[[], Any]) -> Any:
    begun = time.process_time()
    result = work()
    into.append(time.process_time() - begun)
    return result


def _row(what: str, case: Case, unit: str, ours: list[float], bare: list[float] | None, *, scale: float) -> dict[str, Any]:
    rounds = zip(ours[::2], ours[1::2], bare[::2], bare[1::2], strict=True) if bare else ()
    ratios = sorted((first + second) / (third + fourth) for first, second, third, fourth in rounds)
    quarter = len(ratios) // 4
    return {
        "what": what,
        "model": case.name,
        "mib": case.mib,
        "unit": unit,
        "ours": round(statistics.median(ours) * scale, 3),
        "bare": round(statistics.median(bare) * scale, 3) if bare else None,
        "ratio": round(statistics.median(ratios), 4) if ratios else None,
        "low": round(ratios[quarter], 4) if ratios else None,
        "high": round(ratios[-1 - quarter], 4) if ratios else None,
    }


# Models.


def _cases(folder: Path, data: str | None) -> Iterator[Case]:
    made: dict[str, Callable[[], bytes]] = {
        "synthetic: dense, 12 MiB": lambda: _dense(layers=3),
        "synthetic: dense, 100 MiB": lambda: _dense(layers=25),
        "synthetic: convolutions, 20 MiB": lambda: _convolutions(layers=36),
    }
    for name, make in made.items():
        yield _installed(folder / str(len(name)), name, make())
    for path in sorted(Path(data).glob("models-*/*.onnx")) if data else []:
        yield _installed(folder / path.stem, f"{_REAL}{path.name}", path.read_bytes())


class _World(World):
    def active(self) -> Any:
        with self.state() as state:
            found = state.active(THE_MODEL)
        if found is None:
            raise RuntimeError("not installed")
        return found


def _installed(folder: Path, name: str, data: bytes) -> Case:
    """A device that has installed the model; its self-test is left out."""
    checked, world = check_model(data, features=_FEATURES), _World(folder)
    inputs = {spec.name: _numbers(spec.dtype, spec.shape or ()) for spec in checked.inputs}
    first = bundle("1.0.0", counter=1, data=data, golden_scale=1.0)
    described = {
        kind: tuple(TensorSpec(v.name, v.dtype or "", _shape(v.shape or ()), "", bounds) for v in values)
        for kind, values, bounds in (("inputs", checked.inputs, (0.0, 20000.0)), ("outputs", checked.outputs, None))
    }
    variants = (replace(first.contract.variants[0], opset=checked.opset),)
    made = bundle("1.0.0", counter=1, data=data, golden_scale=1.0, variants=variants, features=_FEATURES, **described)
    world.publish(made)
    world.poll(selftest=lambda *_, **__: SelfTestReport(0.0, 0, "none"))
    return Case(name, data, world, inputs)


def _shape(declared: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(size or f"d{axis}" for axis, size in enumerate(declared))


def _numbers(dtype: str | None, shape: tuple[int | str, ...]) -> Any:
    sizes = [size if isinstance(size, int) else _SIZES.get(size, 1) for size in shape]
    if np.dtype(dtype).kind == "i":
        return np.full(sizes, 16000, dtype)  # the one real model with integers takes a sampling rate
    return np.random.default_rng(0).random(sizes).astype(dtype)


def _graph(nodes: list[Any], weights: list[Any], shape: list[int | str]) -> bytes:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "main_graph", values[:1], values[1:], initializer=weights)
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return made


def _stack(operator: str, weights: list[Any], **attributes: Any) -> list[Any]:
    from onnx import helper

    last = len(weights) - 1
    names = ["x", *(f"h{index}" for index in range(last)), "y"]
    return [helper.make_node(operator, [names[i], weights[i].name], [names[i + 1]], **attributes) for i in range(last + 1)]


def _weights(count: int, shape: tuple[int, ...]) -> list[Any]:
    from onnx import numpy_helper

    random, scale = np.random.default_rng(0), np.float32(1 / np.sqrt(np.prod(shape[1:])))
    return [numpy_helper.from_array(random.standard_normal(shape, np.float32) * scale, f"w{index}") for index in range(count)]


def _dense(*, layers: int) -> bytes:
    """Matrices of 4 MiB, a batch of one."""
    weights = _weights(layers, (1024, 1024))
    return _graph(_stack("MatMul", weights), weights, [1, 1024])


def _convolutions(*, layers: int) -> bytes:
    """Convolutions of 128 channels over an image of 16 by 16."""
    weights = _weights(layers, (128, 128, 3, 3))
    return _graph(_stack("Conv", weights, pads=[1, 1, 1, 1]), weights, [1, 128, 16, 16])


if __name__ == "__main__":
    main()
