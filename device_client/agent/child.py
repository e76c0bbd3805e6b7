"""A child process of the agent that cannot outlive it, whose end is noticed, and whose output is bounded.

The child's standard input is a pipe whose other end only the agent holds. The kernel is asked to send the child's whole process
group a signal when that end closes (``F_SETOWN``, ``O_ASYNC``): so it ends when the agent dies, however it dies, without a
thread or library in either. ``prctl(PR_SET_PDEATHSIG)`` would have to be asked for by every program that is started, or by code
between fork and exec, and spares grandchildren.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


class Child:
    """A running child; ``collect`` often, or its output stops it.

    Args:
        name: for the log.
        command: what to run.
        environment: of the child.
        max_output_bytes: of its standard output that is kept; 0 leaves its output to the agent's stderr.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], max_output_bytes: int = 0) -> None:
        self.name = name
        self._room = max_output_bytes
        self._output = bytearray()
        reading, self._leash = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=reading,
                stdout=subprocess.PIPE if max_output_bytes else 2,
                env=environment,
                process_group=0,
                bufsize=0,
            )
        except BaseException:
            os.close(self._leash)
            raise
        else:
            with contextlib.suppress(OSError):  # already gone
                fcntl.fcntl(reading, fcntl.F_SETOWN, -self._process.pid)
                fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
        finally:
            os.close(reading)
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        """Of the child, and of its process group."""
        return self._process.pid

    @property
    def output_descriptor(self) -> int | None:
        """What to wait for besides the end of the child; None once its output is closed."""
        out = self._process.stdout
        return None if out is None or out.closed else out.fileno()

    def collect(self) -> None:
        """Takes the output that is there; beyond the bound it is read and dropped, but for one byte that tells of it."""
        out = self._process.stdout
        while out is not None and not out.closed:
            try:
                chunk = out.read(65536)
            except OSError:
                chunk = b""
            if chunk is None:  # nothing there now
                return
            if not chunk:
                out.close()
                return
            self._output += chunk[: max(0, self._room + 1 - len(self._output))]

    def ended(self) -> int | None:
        """Its exit status (negative: the signal), with all its output collected; None while it runs."""
        status = self._process.poll()
        if status is not None:
            self.collect()
            self._close()
        return status

    def output(self) -> bytes:
        """What it has printed so far."""
        return bytes(self._output)

    def send(self, number: signal.Signals) -> None:
        """Signals the child and all its own children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1


def python_command(path: Sequence[str], statement: str, *arguments: str) -> list[str]:
    """This interpreter, isolated from the environment and user files, finding modules along ``path``.

    Args:
        path: the module search path, absolute.
        statement: what to run; sees ``arguments`` as ``sys.argv[1:]``.
        arguments: of the program.
    """
    import sys

    return [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path[:] = {list(path)!r}; {statement}", *arguments]
