"""The service's end of one worker: start it with a model, ask it, and be rid of it whatever it does.

A worker that does not answer in time, dies, or answers what is no answer is killed at once; every such end is a
``WorkerDiedError``, so that the caller can tell it from a refusal. The worker's memory is its own: a file that changes on
the disk, or is gone, changes nothing for a running model.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.errors import FormatError, LimitError, SealiftError, StateError, TransportError
from device_client.inference.model import Installed
from device_client.install.state import Deployment
from device_client.limits import MIB
from device_client.service.protocol import Message, Tensor, read_tensors, receive, send

_MODULE = "device_client.service.worker"
_MEMORY_STATUS = 77  # worker.MEMORY_STATUS; that module loads the runtime's side, which this process never does
_TEXTS = ("where", "expected", "actual", "hint")
_CODE = re.compile(r"[a-z][a-z0-9_]*\Z")
_GRACE_MS = 2_000
_ERRORS_BYTES = 4096


class WorkerDiedError(SealiftError):
    """A worker crashed, hung, ran out of memory or talked nonsense; it is dead now. Another one may be started."""


@dataclass(frozen=True)
class WorkerLimits:
    """Bounds of one worker; ``memory_bytes`` is address space beyond what the empty runtime needs."""

    memory_bytes: int
    load_timeout_s: float
    max_message_bytes: int

    @classmethod
    def for_model(cls, installed: Installed, *, load_timeout_s: float, max_message_bytes: int) -> WorkerLimits:
        """Room for the model several times over, its signed need and two messages, within the machine."""
        variant = installed.variant
        wanted = 256 * MIB + 6 * variant.model.size + 2 * variant.requires.ram_bytes + 4 * max_message_bytes
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(min(wanted, max(machine, 256 * MIB)), load_timeout_s, max_message_bytes)


@dataclass(frozen=True)
class Answer:
    """Outputs of an inference, in the protocol's byte order; ``finite`` if they hold no NaN and no infinity."""

    tensors: tuple[Tensor, ...]
    finite: bool


class RefusedError(SealiftError):
    """The worker is well and refuses this request; ``fault`` says whose fault it is: client, model or none."""

    def __init__(self, fields: Fields) -> None:
        self.fault = fields.text("fault", choices=("client", "model", "none")) if "fault" in fields else "model"
        texts = {name: str(fields.raw(name))[:1000] for name in _TEXTS if fields.raw(name) is not None}
        what, code = fields.text("error", max_chars=2000), fields.text("code", max_chars=64)
        if not _CODE.match(code):
            raise FormatError("not a code", code="field_value", where=fields.where, actual=ascii(code))
        super().__init__(what, code=code, **texts)


class WorkerProcess:
    """A running worker with its model. Made by ``start_worker`` only."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, errors: int, deployment: Deployment) -> None:
        self._process = process
        self._connection = connection
        self._errors = errors
        self._most = 0
        self._closing = threading.Lock()
        self.deployment = deployment
        self.network = self.privileges = self.files = ""
        """What it kept of each: ``none``, or why not."""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still is."""
        return self._process.poll() is None

    @property
    def manifest(self) -> Digest:
        """Which bundle it runs."""
        return self.deployment.manifest

    def load(self, installed: Installed, limits: WorkerLimits) -> None:
        """Gives it the model and waits until it is ready.

        Raises:
            IntegrityError: the bytes on this disk are not the model's; the worker is gone.
            RefusedError: the model does not load.
            WorkerDiedError: the worker died of it.
        """
        contract = installed.contract.to_bytes()
        header = {
            "contract_bytes": len(contract),
            "variant": installed.variant.id,
            "providers": list(installed.providers),
            "memory_bytes": limits.memory_bytes,
            "max_message_bytes": limits.max_message_bytes,
        }
        self._most = limits.max_message_bytes
        try:
            data = installed.read_model()
        except BaseException:
            self.kill()
            raise
        try:
            message = self._ask(header, chunks=(contract, data), timeout_s=limits.load_timeout_s)
            if not message.header.boolean("ok"):
                raise RefusedError(message.header)
            self.network, self.privileges, self.files = (message.header.text(kind) for kind in ("network", "privileges", "files"))
        except (FormatError, LimitError) as e:
            raise self._died("a worker gave no answer", code="worker_crashed", actual=e.what) from e
        except BaseException:
            self.kill()
            raise

    def infer(self, tensors: Sequence[Tensor], *, timeout_s: float) -> Answer:
        """One inference.

        Raises:
            RefusedError: by the worker, which lives on.
            WorkerDiedError: it did not answer in ``timeout_s`` seconds, or died; it is dead now.
        """
        header = {"op": "infer", "kill_after_ms": int(timeout_s * 1000) + _GRACE_MS}
        message = self._ask(header, tensors=tensors, timeout_s=timeout_s)
        try:
            if not message.header.boolean("ok"):
                raise RefusedError(message.header)
            return Answer(read_tensors(message), message.header.boolean("finite"))
        except (FormatError, LimitError) as e:
            raise self._died("a worker gave no answer", code="worker_crashed", actual=e.what) from e

    def kill(self) -> None:
        """Ends it, now; safe to repeat."""
        self._process.kill()
        self._process.wait()
        with self._closing:
            self._connection.close()
            if self._errors >= 0:
                os.close(self._errors)
                self._errors = -1

    def _ask(
        self, header: dict[str, object], *, tensors: Sequence[Tensor] = (), chunks: Sequence[bytes] = (), timeout_s: float
    ) -> Message:
        deadline = time.monotonic() + timeout_s
        try:
            send(self._connection, header, tensors, chunks=chunks, timeout_s=timeout_s)
            left = max(deadline - time.monotonic(), 0.001)
            message = receive(self._connection, max_body_bytes=self._most, timeout_s=left, where="worker")
        except TransportError as e:
            if e.code == "socket_timeout":
                raise self._died("a worker did not answer in time", code="worker_timeout", actual=f"{timeout_s:g} s") from e
            raise self._ended() from e
        except (FormatError, LimitError) as e:
            raise self._died("a worker gave no answer", code="worker_crashed", actual=e.what) from e
        if message is None:
            raise self._ended()
        return message

    def _ended(self) -> WorkerDiedError:
        """Why it is gone, from its exit status first."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        status, errors = self._process.returncode, self._last_words()
        if status == _MEMORY_STATUS or "bad_alloc" in errors or "MemoryError" in errors:
            return self._died("a worker ran out of memory", code="worker_memory", actual="the worker's bound")
        how = "still running" if status is None else signal.Signals(-status).name if status < 0 else f"status {status}"
        return self._died("a worker died", code="worker_crashed", actual=how)

    def _died(self, what: str, *, code: str, actual: str) -> WorkerDiedError:
        self.kill()
        return WorkerDiedError(
            what,
            code=code,
            where=f"{self.deployment.model}/{self.deployment.version}",
            actual=actual,
            hint="another worker takes its place; if it repeats, the model or its inputs are to blame",
        )

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return os.read(self._errors, _ERRORS_BYTES).decode("utf-8", "replace")
        return ""


def start_worker(installed: Installed, *, cwd: Path, limits: WorkerLimits) -> WorkerProcess:
    """A worker that is ready for inferences.

    Args:
        installed: the model to give it.
        cwd: an empty, read-only directory.
        limits: its bounds.

    Raises:
        StateError: no process could be started (``worker_unavailable``); says nothing about the model.
        SealiftError: what ``WorkerProcess.load`` says about the model.
    """
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    try:
        for descriptor in (reading, writing):
            os.set_blocking(descriptor, False)  # a worker that fills it loses its words and does not wait
        process = subprocess.Popen(_command(), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=writing, env={}, cwd=cwd)
    except OSError as e:
        ours.close()
        os.close(reading)
        raise StateError("cannot start a worker", code="worker_unavailable", actual=e.strerror) from e
    finally:
        theirs.close()
        os.close(writing)
    worker = WorkerProcess(process, ours, reading, installed.deployment)
    worker.load(installed, limits)
    return worker


def _command() -> list[str]:
    """The interpreter, isolated from the environment and user files, finding modules where this process does."""
    path = [str(Path(entry).resolve()) for entry in sys.path]
    start = f"import sys; sys.path[:] = {path!r}; from {_MODULE} import main; main()"
    return [sys.executable, "-I", "-B", "-c", start]
