"""The boot clock: seconds since this machine was switched on, sleep included, and the name of that boot.

By this and nothing else the agent waits: moving the wall clock neither brings a poll forward nor puts it off. The same
two readings as ``trust/trusted_time.py``, made again here because that module loads the bundle format, which the resident
process must not carry (``docs/agent.md``, "Memory").
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MAX_BOOT_CHARS = 64


@dataclass(frozen=True)
class Moment:
    """``seconds`` into the boot that ``boot`` names."""

    boot: str
    seconds: float


def read_boot_clock() -> Moment:
    """Now. Where the kernel names no boot, each process counts as one: a restart then waits like a boot."""
    return Moment(_boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME))


def _boot_id() -> str:
    try:
        descriptor = os.open(_BOOT_ID, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _MAX_BOOT_CHARS).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)
    except OSError:
        return f"process-{os.getpid()}"
