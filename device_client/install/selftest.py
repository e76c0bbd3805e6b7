"""The first time a model's bytes reach the runtime: in a child process with limits, against the golden probes.

Called by ``poll.py`` before a bundle is activated. The child gets the bytes through a pipe, an empty environment, an empty
read-only working directory, and limits on memory, CPU time, files and processes; where the kernel allows, also a network
namespace with nothing in it. Whatever it does, the agent and the active model live on, and the reason of its end is an
error of this module. The child runs as the same user: a runtime that a model has taken over could read what that user
can read. The device's hardening (service user, systemd) is what stands against that.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_client.bundle.contract import Tolerance
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, SelfTestError, StateError
from device_client.limits import MIB

MAX_OUTPUT_BYTES = 64 * 1024
_CODES = ("selftest_mismatch", "selftest_memory", "selftest_refused")
_MODULE = "device_client.install.selftest_child"


@dataclass(frozen=True)
class SelfTestLimits:
    """Bounds of the child. ``memory_bytes`` is address space beyond what the empty runtime needs."""

    memory_bytes: int = 1024 * MIB
    cpu_s: int = 60
    wall_s: float = 120.0
    open_files: int = 64

    @classmethod
    def for_model(cls, *, model_bytes: int, ram_bytes: int, device_ram_bytes: int) -> SelfTestLimits:
        """Room for the model several times over (file, graph, packed weights) and its signed need, within the machine."""
        wanted = 256 * MIB + 6 * model_bytes + 2 * ram_bytes
        return cls(memory_bytes=min(wanted, max(device_ram_bytes, 256 * MIB)))


@dataclass(frozen=True)
class SelfTestReport:
    """What a passed self-test took.

    Attributes:
        seconds: for session and probes.
        peak_bytes: peak resident memory of the child: interpreter, runtime and model.
        network: ``none``, or why the child shared this machine's.
        latency_ms: median time of one inference, in milliseconds.
    """

    seconds: float
    peak_bytes: int
    network: str
    latency_ms: float = 0.0

    def measured_text(self) -> str:
        """For people."""
        return f"{self.latency_ms:.3f} ms for one inference, {self.peak_bytes / MIB:.0f} MiB at most"


def run_selftest(
    model: bytes,
    golden: bytes,
    *,
    variant: str,
    probes: int,
    tolerance: Tolerance,
    features: Sequence[str],
    providers: Sequence[str],
    cwd: Path,
    limits: SelfTestLimits,
) -> SelfTestReport:
    """Runs the golden probes in a child.

    Args:
        model: the variant's bytes as the runtime gets them; the child walks and hashes them again.
        golden: the golden file.
        variant: id of the variant, for its expected outputs.
        probes: how many probes the contract promises.
        tolerance: the signed tolerance.
        features: the contract's features.
        providers: execution providers to use.
        cwd: an empty, read-only directory.
        limits: bounds of the child.

    Raises:
        SelfTestError: ``selftest_mismatch`` (other outputs), ``selftest_refused`` (the runtime does not take the model),
            ``selftest_memory``, ``selftest_timeout``, ``selftest_crashed``.
        StateError: no child could be started; says nothing about the model.
    """
    header = canonical_json(
        {
            "model_bytes": len(model),
            "golden_bytes": len(golden),
            "variant": variant,
            "probes": probes,
            "tolerance": tolerance.to_json(),
            "features": list(features),
            "providers": list(providers),
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "wall_s": int(limits.wall_s) + 1,
            "open_files": limits.open_files,
        }
    )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Files, not pipes: the child's limit on file size then bounds what it can make this process read.
        try:
            child = subprocess.Popen(_command(), stdin=subprocess.PIPE, stdout=out, stderr=err, env={}, cwd=cwd)
        except OSError as e:
            raise StateError("cannot start the self-test", code="selftest_unavailable", actual=e.strerror) from e
        with child:
            try:
                child.communicate(b"".join((header, b"\n", model, golden)), timeout=limits.wall_s)
            except subprocess.TimeoutExpired as e:
                raise _failure("the self-test ran out of time", code="selftest_timeout", actual=f"{limits.wall_s:g} s") from e
            finally:
                child.kill()
        output, errors = _head(out), _head(err)
    return _judge(child.returncode, output, errors, limits=limits)


def _command() -> list[str]:
    """The interpreter, isolated from the environment and user files, finding modules where this process does."""
    path = [str(Path(entry).resolve()) for entry in sys.path]
    start = f"import sys; sys.path[:] = {path!r}; from {_MODULE} import main; main()"
    return [sys.executable, "-I", "-B", "-c", start]


def _judge(status: int, output: bytes, errors: bytes, *, limits: SelfTestLimits) -> SelfTestReport:
    """Why the child ended, from its status first: what it printed is only believed if it ended well."""
    if status in {-signal.SIGXCPU, -signal.SIGALRM}:
        raise _failure("the self-test ran out of CPU time", code="selftest_timeout", actual=f"{limits.cpu_s} s")
    # Nobody else here sends SIGKILL but the kernel's memory killer.
    if status == -signal.SIGKILL or (status != 0 and (b"bad_alloc" in errors or b"MemoryError" in errors)):
        raise _failure("the self-test ran out of memory", code="selftest_memory", actual=f"{limits.memory_bytes} bytes")
    if status != 0:
        raise _failure("the self-test died", code="selftest_crashed", actual=_ending(status, errors))
    try:
        fields = Fields(parse_strict(output, max_bytes=MAX_OUTPUT_BYTES, where="self-test"), where="self-test")
        if fields.boolean("ok"):
            return SelfTestReport(
                fields.number("seconds"), fields.integer("peak_bytes"), fields.text("network"), fields.number("latency_ms")
            )
        code = fields.text("code", choices=_CODES)
        what, where, expected, actual = (fields.text(name, max_chars=2000) for name in ("what", "where", "expected", "actual"))
    except FormatError as e:
        raise _failure("the self-test gave no result", code="selftest_crashed", actual=e.what) from e
    raise SelfTestError(what, code=code, where=where or None, expected=expected or None, actual=actual or None)


def _failure(what: str, *, code: str, actual: str) -> SelfTestError:
    return SelfTestError(what, code=code, where="golden self-test", actual=actual)


def _ending(status: int, errors: bytes) -> str:
    last = errors.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"{how} {json.dumps(last[0][:200])}" if last[0] else how


def _head(file: object) -> bytes:
    file.seek(0)  # type: ignore[attr-defined]  # a temporary file's type is private to its module
    data: bytes = file.read(MAX_OUTPUT_BYTES)  # type: ignore[attr-defined]
    return data
