"""A bare onnxruntime session in a child process with limits: what a file does when nobody stands before the runtime.

Most tests of the load path begin here. A refusal proves something only if the file has the effect that is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_client.limits import GIB, MIB

# The switch for telemetry, and no other setting: this is the runtime as it comes.
_CHILD = """
import json, os, resource, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
asked = json.loads(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + asked["memory_bytes"],) * 2)
used = resource.getrusage(resource.RUSAGE_SELF)
cpu_s = int(used.ru_utime + used.ru_stime) + 1 + asked["cpu_s"]
resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 2))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
data = sys.stdin.buffer.read()
options = onnxruntime.SessionOptions()
options.log_severity_level = asked["severity"]
options.intra_op_num_threads = 1
if not asked["optimise"]:
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
said = {"loaded": False, "output": None, "error": ""}
try:
    given = {} if asked["default_options"] else {"sess_options": options}
    session = onnxruntime.InferenceSession(data, providers=asked["providers"], **given)
    said["loaded"] = True
    found = session.get_session_options()
    said["threads"], said["profiling"] = found.intra_op_num_threads, found.enable_profiling
    said["providers"] = session.get_providers()
    print("loaded", file=sys.stderr, flush=True)
    said["output"] = session.run(None, {"x": numpy.array([[1, 2, 3]], numpy.float32)})[0].tolist()
except Exception as error:
    said["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Outcome:
    """How a bare session ended. ``status`` is negative where a signal ended the child."""

    status: int
    loaded: bool
    output: Any
    error: str
    stderr: str
    said: Mapping[str, Any]

    @property
    def row(self) -> list[float]:
        """What the model made of [[1, 2, 3]], as one row."""
        output = self.output
        assert output is not None, f"the file has no effect: {self.error or self.stderr or self.status}"
        return list(output[0]) if isinstance(output[0], list) else list(output)


def bare(
    data: bytes,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    optimise: bool = True,
    default_options: bool = False,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    severity: int = 4,
    memory_bytes: int = 2 * GIB,
    cpu_s: int = 20,
) -> Outcome:
    """Loads ``data`` and runs it on x = [[1, 2, 3]]."""
    asked = {
        "optimise": optimise,
        "default_options": default_options,
        "providers": list(providers),
        "severity": severity,
        "memory_bytes": memory_bytes,
        "cpu_s": cpu_s,
    }
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _CHILD, json.dumps(asked)],
            input=data,
            cwd=cwd or empty,
            env={"OPENBLAS_NUM_THREADS": "1", **(environment or {})},
            capture_output=True,
            timeout=120,
            check=False,
        )
    errors = done.stderr.decode(errors="replace")
    said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return Outcome(done.returncode, "loaded" in errors.split(), said.get("output"), said.get("error", ""), errors, said)


SMALL = 256 * MIB
