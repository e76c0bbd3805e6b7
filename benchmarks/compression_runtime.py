"""Runs an ONNX file over rows in a process of its own: natively, or on an emulated CPU (C10).

The same program text everywhere, with numpy and onnxruntime only. A Haswell is this very Python under Debian's
``qemu-user``: AVX2 and no VNNI. An aarch64 is another Python, in a folder that

    python -m benchmarks.compression_runtime FOLDER

fills from Debian's and Python's package indexes, and that ``SEALIFT_ARM64`` names; emulated as a Cortex-A72, which has
no dot product instructions. An emulator shows what kernels compute, never how fast.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TIMEOUT_S = 900
_ARM64 = "SEALIFT_ARM64"
_DEBS = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 "
    "liblzma5 libbz2-1.0 libuuid1 libcrypt1"
)
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
_CPUINFO = (
    "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    "CPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
)

# One row at a time, and the row is the first axis of every output, as in packager/row_runner.py. An input whose rank is one less
# than that of its rows is given whole, such as a state or a rate.
PROGRAM = """
import sys
import numpy as np
import onnxruntime as ort
ort.disable_telemetry_events()
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [value.name for value in session.get_outputs()]
found = {name: [] for name in names}
with np.load(sys.argv[2], allow_pickle=False) as rows:
    arrays = {value.name: (rows[value.name], len(value.shape)) for value in session.get_inputs()}
    for row in range(len(next(iter(arrays.values()))[0])):
        feed = {}
        for name, (array, rank) in arrays.items():
            feed[name] = np.asarray(array[row]) if rank == array.ndim - 1 else array[row : row + 1]
        for name, value in zip(names, session.run(None, feed)):
            value = np.asarray(value)
            found[name].append(value if value.shape[:1] == (1,) else value[np.newaxis])
np.savez(sys.argv[3], **{name: np.concatenate(values) for name, values in found.items()})
"""


@dataclass(frozen=True)
class Runner:
    """A CPU to run on: the command in front of the program, and what its process needs in the environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, model: bytes, rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs for all rows, one row at a time on one thread.

        Raises:
            RuntimeError: the process failed, with the end of what it said.
        """
        with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(model)
            np.savez(folder / "rows.npz", allow_pickle=False, **dict(rows))
            files = [str(folder / file) for file in ("model.onnx", "rows.npz", "outputs.npz")]
            done = subprocess.run(
                [*self.command, "-c", PROGRAM, *files],
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{self.name}: {' '.join(done.stderr.split())[-300:]}")
            with np.load(folder / "outputs.npz", allow_pickle=False) as outputs:
                return {name: outputs[name] for name in outputs.files}


NATIVE = Runner("this CPU", (sys.executable,))


def haswell() -> Runner | str:
    """x86 with AVX2 and without VNNI, or why there is none."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        return "no qemu-x86_64; apt-get install qemu-user"
    libraries = str(Path(np.__file__).parents[1])
    return Runner("haswell", (emulator, "-cpu", "Haswell", str(Path(sys.executable).resolve())), {"PYTHONPATH": libraries})


def aarch64() -> Runner | str:
    """ARM without dot product instructions, or why there is none."""
    emulator, folder = shutil.which("qemu-aarch64"), os.environ.get(_ARM64)
    if emulator is None:
        return "no qemu-aarch64; apt-get install qemu-user"
    if not folder or not (Path(folder) / "usr/bin/python3.11").is_file():
        return f"{_ARM64} names no Python for it; see docs/case-studies.md"
    root = Path(folder).resolve()
    python = str(root / "usr/bin/python3.11")
    return Runner("aarch64", (emulator, "-cpu", "cortex-a72", "-L", str(root), python, "-B"), {"PYTHONPATH": str(root / "site")})


def make_aarch64(folder: Path) -> None:
    """Unpacks Debian's Python 3.11 for arm64, and the wheels of numpy and onnxruntime, into ``folder``; about 170 MB.

    Nothing is installed: apt keeps its lists in the folder. The emulator shows the program a processor description of the
    emulated CPU instead of this machine's, on which onnxruntime's start fails.
    """
    state, root = folder.resolve() / ".apt", folder.resolve()
    for part in ("lists/partial", "cache/archives/partial", "debs"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = {"APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": state, "Dir::Cache": state / "cache"}
    options |= {"Dir::State::status": state / "status", "Dir::State::lists": state / "lists"}
    apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *_DEBS.split()], cwd=state / "debs", check=True)
    for package in sorted((state / "debs").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    wanted = [
        f"{name}=={importlib.metadata.version(name)}" for name in ("onnxruntime", "numpy", "flatbuffers", "protobuf", "packaging")
    ]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
    pip += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*pip, "--target", str(root / "site"), *wanted], check=True)
    processors = root / "sys/devices/system/cpu"
    for path, text in {root / "proc/cpuinfo": _CPUINFO, processors / "possible": "0\n", processors / "present": "0\n"}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


if __name__ == "__main__":
    make_aarch64(Path(sys.argv[1]))
