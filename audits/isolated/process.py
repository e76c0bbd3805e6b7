"""The parent's side: starts a child for somebody else's code, watches it, and reads what it left within bounds.

    made = run_tasks(Job.training("mymodel:train", ...), limits=IsolationLimits(), report=print)
    made.results        # bytes for each task, not yet believed
    made.isolation      # what held for the child, in plain words

The child gets a fresh interpreter, an environment from an allow-list, no open file of ours but one pipe, a session of its own, a
private folder, and the limits of ``child``. While it runs, nobody of the same user may read this process's memory or
environment. Not defended: a child that fills the disk file by file, and one that reads files of its user where the system has
no Landlock; ``isolation`` says which it is.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from audits.isolated.arrays import Array, array_bytes, read_bounded
from audits.isolated.child import ISOLATION_FD, JOB
from audits.isolated.limits import IsolationLimits, child_command, child_environment
from device_client.errors import SealiftError, StateError
from device_client.text import printable

Report = Callable[[str], None]
_POLL_S = 0.05
_MEMORY_SIGNS = ("MemoryError", "bad_alloc", "not enough memory", "Cannot allocate memory")
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_MAX_ISOLATION_BYTES = 4096


@dataclass(frozen=True)
class Job:
    """What a child is to do.

    Attributes:
        entry: ``module:function``.
        kind: ``train`` or ``call``; see ``child``.
        tasks: how many results are due.
        options: further keys of the job file, JSON values.
        arrays: files that the child reads.
        in_callers_folder: whether relative file names lead where the command was started; else to the private folder.
        told: of one task, for progress lines; empty for none.
    """

    entry: str
    kind: str
    tasks: int
    options: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    in_callers_folder: bool = False
    told: str = ""


@dataclass(frozen=True)
class Made:
    """Results of a child, in the order of its tasks, and what held for it."""

    results: tuple[bytes, ...]
    isolation: str


def run_tasks(job: Job, *, limits: IsolationLimits, report: Report = lambda _: None) -> Made:
    """Runs a job in a child of its own.

    Args:
        job: what to do.
        limits: bounds of the child.
        report: called with a line for each finished task.

    Raises:
        SealiftError: the code failed (``isolated_failed``), took too long (``isolated_timeout``), needed too much memory
            (``isolated_memory``), printed too much (``isolated_output``), or left no result (``isolated_result``).
        StateError: no child could be started (``isolated_unavailable``).
    """
    with tempfile.TemporaryDirectory(prefix="sealift-isolated-") as name, tempfile.TemporaryFile() as log:
        folder = Path(name).resolve()
        for key, array in job.arrays.items():
            (folder / f"{key}.npy").write_bytes(array_bytes(array))
        wall_s = limits.start_s + limits.task_s * job.tasks
        said = _run(job, folder, log, limits=limits, wall_s=wall_s, report=report)
        results = tuple(
            read_bounded(folder / f"{index:06d}.result", max_bytes=limits.file_bytes, where=job.entry) for index in range(job.tasks)
        )
    return Made(results, said)


def _run(job: Job, folder: Path, log: IO[bytes], *, limits: IsolationLimits, wall_s: float, report: Report) -> str:
    """Starts the child, waits for its end, and says how it was isolated."""
    reading, writing = os.pipe()
    here = Path.cwd()
    written = {
        **job.options,
        "entry": job.entry,
        "kind": job.kind,
        "parent": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "wall_s": math.ceil(wall_s),
        "readable": [str(here), *_data_folder(), *(str(path) for path in limits.readable)],
        ISOLATION_FD: writing,
    }
    (folder / JOB).write_text(json.dumps(written), encoding="utf-8")
    with os.fdopen(reading, "rb") as pipe, _unreadable_to_others():
        try:
            child = subprocess.Popen(
                [*child_command(here), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(folder),
                cwd=here if job.in_callers_folder else folder,
                pass_fds=(writing,),
                start_new_session=True,
            )
        except OSError as e:
            raise StateError("cannot start a child", code="isolated_unavailable", where=job.entry, actual=e.strerror) from e
        finally:
            os.close(writing)
        try:
            reason = _watch(child.pid, job, folder, log, limits=limits, wall_s=wall_s, report=report)
        finally:
            _end(child)
        _judge(child.returncode, reason, _last_lines(log), job=job, limits=limits)
        return _isolation(pipe)


def _data_folder() -> list[str]:
    """The folder of public models and data that tests and examples read, where the auditor named one."""
    return [os.environ["SEALIFT_DATA"]] if os.environ.get("SEALIFT_DATA") else []


def _watch(
    pid: int, job: Job, folder: Path, log: IO[bytes], *, limits: IsolationLimits, wall_s: float, report: Report
) -> SealiftError | None:
    """Waits, without reaping, until the child ends or is over a bound; the bound that it is over, or None."""
    end = time.monotonic() + wall_s
    done = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > end:
            return _error("the code took too long", job, code="isolated_timeout", expected=f"{wall_s:g} s")
        if os.fstat(log.fileno()).st_size > limits.log_bytes:
            return _error("the code printed too much", job, code="isolated_output", expected=f"{limits.log_bytes} bytes")
        done = _progress(done, job, folder, report)
        time.sleep(_POLL_S)
    _progress(done, job, folder, report)
    return None


def _progress(done: int, job: Job, folder: Path, report: Report) -> int:
    while done < job.tasks and (folder / f"{done:06d}.result").exists():
        done += 1
        if job.told:
            report(f"{job.told} {done} of {job.tasks}")
    return done


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills the whole session before the leader is reaped, so that its id cannot have become somebody else's."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _judge(status: int, reason: SealiftError | None, lines: list[str], *, job: Job, limits: IsolationLimits) -> None:
    """Raises what stopped the child, if something did; what it printed is only read where it did not end well."""
    if reason is not None:
        raise reason
    if status == 0:
        return
    # nobody else here sends SIGKILL but the kernel's memory killer
    if status == -signal.SIGKILL or any(sign in line for sign in _MEMORY_SIGNS for line in lines[-3:]):
        raise _error("the code needed too much memory", job, code="isolated_memory", expected=f"{limits.memory_bytes} bytes")
    told = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    how = told or (lines[-1] if lines else f"signal {-status}" if status < 0 else f"status {status}")
    hint = "mend the function" if "ermission denied" not in how else "it may read only the folder of the command and folders named"
    raise SealiftError("the code failed in its child", code="isolated_failed", where=job.entry, actual=how[:400], hint=hint)


def _last_lines(log: IO[bytes]) -> list[str]:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 8192))
    return [printable(line.strip()) for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]


def _isolation(pipe: IO[bytes]) -> str:
    """What the child says of itself, written before the first line of other people's code was imported."""
    try:
        said = json.loads(pipe.read(_MAX_ISOLATION_BYTES))
        return "; ".join(f"{name}: {printable(str(said[name]))[:200]}" for name in ("network", "privileges", "files"))
    except (ValueError, TypeError, KeyError):
        return "unknown: the child did not say"


def _error(what: str, job: Job, *, code: str, expected: str) -> SealiftError:
    return SealiftError(what, code=code, where=job.entry, expected=f"at most {expected}")


@contextmanager
def _unreadable_to_others() -> Iterator[None]:
    """While it lasts, /proc shows no other process of this user our environment and memory: passphrases may be in there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        yield
        return
    before = libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_DUMPABLE, 1 if before == 1 else 0, 0, 0, 0)
