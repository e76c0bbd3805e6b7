"""What a child with other people's code gets: bounds, environment, command line. Values only; ``process`` acts on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_client.limits import DEFAULT_LIMITS, MIB

_PASSED_ON = ("SEALIFT_DATA", "TZ", "CUDA_VISIBLE_DEVICES")
"""The only variables of the auditor that a child sees: a folder, a time zone, a number. No passphrase, no token, no agent."""


@dataclass(frozen=True)
class IsolationLimits:
    """Bounds of one child.

    Attributes:
        start_s: seconds for the interpreter, imports and reading.
        task_s: seconds for each task (one training, one call).
        memory_bytes: of private memory (``RLIMIT_DATA``).
        file_bytes: of the largest file that the child writes.
        log_bytes: of all that its code prints.
        readable: folders that the code needs beyond the system, the interpreter and the folder of the command.
    """

    start_s: float = 180.0
    task_s: float = 1800.0
    memory_bytes: int = 16 * 1024 * MIB
    file_bytes: int = DEFAULT_LIMITS.max_model_bytes
    log_bytes: int = 16 * MIB
    readable: tuple[Path, ...] = ()


def child_environment(private: Path, *, parent: Mapping[str, str] | None = None) -> dict[str, str]:
    """A new environment, made from nothing but an allow-list; one thread, so that sums have one order."""
    given = os.environ if parent is None else parent
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: given[name] for name in _PASSED_ON if name in given}
    folders = {"HOME": str(private), "TMPDIR": str(private), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    return {**kept, **folders, **threads, "PYTHONHASHSEED": "0", "ORT_DISABLE_TELEMETRY": "1"}


def child_command(folder: Path) -> list[str]:
    """A fresh interpreter that takes nothing from environment or user files and finds modules where this process does.

    The environment is ours (``child_environment``), so it may be read: with ``-I`` hash order would differ between runs.

    Args:
        folder: where the auditor started; its modules come first.
    """
    path = list(dict.fromkeys([str(folder), *(str(Path(entry).resolve()) for entry in sys.path)]))
    start = f"import sys; sys.path[:] = {path!r}; from audits.isolated.child import main; main()"
    return [sys.executable, "-s", "-P", "-B", "-c", start]
