"""How fast the load path checks a model before any runtime sees it, and how much memory that takes beside the model.

    python -m benchmarks.trust_walker

``check_model`` is two things: the walk over the structure, and the SHA-256 of the bytes unless the caller has just hashed
them, as the load path has. Both are measured, together and apart; goal T5 (at least 500 MB/s, under 4 MiB) is judged on the
walk. SHA-256 alone bounds the two together: a CPU with instructions for it gives 1000 to 2000 MB/s, one without 200 to 400.

The walk's time goes by fields, not by bytes: some 0.5 us each. A shape is therefore named with its bytes per node. One more
row shows where 500 MB/s ends: a file that is nothing but nodes.

Packed integers are the only content that has to be read byte by byte, at some 300 MB/s. A file with more than 2 MiB of them
is refused; the rows about them are the worst that is let in: as many as that in a file of 10 MiB.

Figures are CPU time of the best of several rounds: the walk waits for nothing, so that is what a quiet machine's clock shows.
Memory is measured in a fresh process for each shape: what Python allocated (tracemalloc), and by how much the process grew.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results_file import Goal, Results
from device_client.inference.walker import _Rules, check_model
from device_client.limits import DEFAULT_LIMITS, MIB

ROUNDS = 15
SMALLEST = 10 * MIB  # goal T5 is about models of this size and more
FEATURES = ("control-flow:If",)

_MEMORY = """
import sys, tracemalloc
from device_client.inference.walker import check_model
def peak():
    # Not ru_maxrss: that one begins with the peak of the process which started this one.
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
with open(sys.argv[1], "rb") as file:
    data = file.read()
traced = len(sys.argv) > 2
if traced:
    tracemalloc.start()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins again, here
before = peak()
check_model(data, features=("control-flow:If",))
print(tracemalloc.get_traced_memory()[1] if traced else peak() - before)
"""


def rows() -> list[dict[str, Any]]:
    """One row for each shape: size, rates in MB/s (10^6), memory in MiB."""
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        return [_measured(shape, path) for shape, path in _files(Path(name))]


def goals(measured: Sequence[dict[str, Any]]) -> Iterator[Goal]:
    """Goal T5, on the slowest and on the hungriest of the shapes that count."""
    counted = [row for row in measured if row["counts"]]
    slowest = min(counted, key=lambda row: float(row["walk_mb_s"]))
    hungriest = max(counted, key=lambda row: float(row["traced_mib"]))
    largest = max(counted, key=lambda row: float(row["rss_mib"]))
    yield Goal("T5.rate", f"walker, slowest shape ({slowest['shape']})", slowest["walk_mb_s"], ">=", 500, "MB/s")
    yield Goal("T5.memory", f"allocated beside the model ({hungriest['shape']})", hungriest["traced_mib"], "<", 4, "MiB")
    yield Goal("T5.rss", f"growth of the process ({largest['shape']})", largest["rss_mib"], "<", 4, "MiB")


def main() -> None:
    """Measures, prints the table, writes ``results/trust_walker.json``."""
    results = Results("trust_walker")
    results.rows += rows()
    results.goals += goals(results.rows)
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


def _measured(shape: str, path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    megabytes = len(data) / 1e6

    def rate(work: Callable[[], object]) -> float:
        seconds = min(_seconds(work) for _ in range(ROUNDS))
        return round(megabytes / seconds, 1)

    return {
        "shape": shape,
        "mib": round(len(data) / MIB, 1),
        "walk_mb_s": rate(lambda: _Rules(data, features=FEATURES, where=shape, limits=DEFAULT_LIMITS).read()),
        "sha256_mb_s": rate(lambda: hashlib.sha256(data).digest()),
        "check_mb_s": rate(lambda: check_model(data, features=FEATURES, where=shape)),
        "traced_mib": _extra_mib(path, traced=True),
        "rss_mib": _extra_mib(path, traced=False),
        "counts": len(data) >= SMALLEST and not shape.startswith("limit:"),
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def _extra_mib(path: Path, *, traced: bool) -> float:
    command = [sys.executable, "-c", _MEMORY, str(path), *(["traced"] if traced else [])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    return round(json.loads(done.stdout) / MIB, 2)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Shapes made here one after the other, so that one file is on disk at a time, and the real models that are large enough."""
    for shape, make in SHAPES.items():
        path = folder / "model.onnx"
        path.write_bytes(make())
        yield shape, path
    real = os.environ.get("SEALIFT_DATA")
    for path in sorted(Path(real).rglob("*.onnx")) if real else []:
        if path.stat().st_size >= SMALLEST:
            yield f"real: {path.name}", path


def _tensors(count: int, shape: tuple[int, ...]) -> list[Any]:
    import numpy as np
    from onnx import numpy_helper

    random = np.random.default_rng(0)
    return [numpy_helper.from_array(random.standard_normal(shape, np.float32), f"layers.{i}.weight") for i in range(count)]


def _model(nodes: list[Any], weights: list[Any]) -> bytes:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "main_graph", values[:1], values[1:], initializer=weights)
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return made


def _node(operator: str, inputs: list[str], index: int, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(
        operator, inputs, [f"/layers.{index}/{operator}_output_0"], name=f"/layers.{index}/{operator}", **attributes
    )


def few_large() -> bytes:
    """Matrices of 16 MiB, as in a language model."""
    weights = _tensors(6, (1024, 4096))
    return _model([_node("MatMul", ["x", tensor.name], i) for i, tensor in enumerate(weights)], weights)


def many_medium() -> bytes:
    """Convolutions of 16 kB: thousands of small layers, each with all its attributes."""
    weights = _tensors(1600, (64, 7, 3, 3))
    square = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    return _model([_node("Conv", ["x", tensor.name], i, **square) for i, tensor in enumerate(weights)], weights)


def many_nodes() -> bytes:
    """100 MiB in 20 000 nodes, each with a weight of its own of 5 kB."""
    weights = _tensors(20_000, (1310,))
    return _model([_node("Add", ["x", tensor.name], i) for i, tensor in enumerate(weights)], weights)


def exported_transformer() -> bytes:
    """100 MiB in 20 000 nodes, most of them the shape arithmetic that exporters leave."""
    import numpy as np
    from onnx import numpy_helper

    kinds: list[Callable[[int], Any]] = [
        lambda i: _node("Constant", [], i, value=numpy_helper.from_array(np.array([i], np.int64))),
        lambda i: _node("Unsqueeze", [f"a{i}", "axes"], i),
        lambda i: _node("Transpose", [f"a{i}"], i, perm=[0, 2, 1, 3]),
        lambda i: _node("Concat", [f"a{i}", f"b{i}"], i, axis=0),
    ]
    return _model([kinds[i % 4](i) for i in range(20_000)], _tensors(400, (256, 256)))


def typed_floats() -> bytes:
    """Weights in ``float_data``: packed numbers of four bytes."""
    import numpy as np
    from onnx import TensorProto

    numbers = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
    return _model([], [TensorProto(name=f"w{i}", data_type=1, dims=[1 << 20], float_data=numbers) for i in range(8)])


def typed_integers(*, low: int, high: int, bytes_each: float) -> bytes:
    """As many packed ``int64_data`` or ``int32_data`` of one to ten bytes as a file may have, in a file of just over 10 MiB."""
    import numpy as np
    from onnx import TensorProto

    count = int(0.995 * DEFAULT_LIMITS.max_model_varint_bytes / bytes_each)
    numbers = np.random.default_rng(0).integers(low, high, count)
    small = abs(low) < 1 << 31 and high < 1 << 31
    data = {"data_type": 6, "int32_data": numbers} if small else {"data_type": 7, "int64_data": numbers}
    return _model([], [TensorProto(name="i", dims=[count], **data), *_tensors(1, (1024, 2060))])


def nothing_but_nodes() -> bytes:
    """Nodes of 100 bytes and no weights: the limit of the method, not a model that anybody has."""
    return _model([_node("Relu", ["x"], i) for i in range(120_000)], [])


SHAPES: dict[str, Callable[[], bytes]] = {
    "6 tensors of 16 MiB": few_large,
    "1600 convolutions of 16 kB": many_medium,
    "20 000 nodes, 5 kB each": many_nodes,
    "20 000 nodes, 400 tensors": exported_transformer,
    "packed float_data": typed_floats,
    "packed int32_data, 1 byte": lambda: typed_integers(low=0, high=100, bytes_each=1),
    "packed int32_data, 1 or 10": lambda: typed_integers(low=-128, high=128, bytes_each=5.6),
    "packed int64_data, 5 bytes": lambda: typed_integers(low=0, high=1 << 34, bytes_each=5),
    "packed int64_data, 9 bytes": lambda: typed_integers(low=0, high=1 << 62, bytes_each=9),
    "packed int64_data, 10 bytes": lambda: typed_integers(low=-(1 << 62), high=0, bytes_each=10),
    "limit: nodes of 100 bytes": nothing_but_nodes,
}

if __name__ == "__main__":
    main()
