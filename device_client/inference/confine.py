"""What a process gives up before it reads the first byte of a model: network, files, processes, core dumps, memory.

Used by the worker of the inference service; the same in kind as the self-test's child. The order is the caller's: leave the
network, load the runtime from our own files, limit, and only then read the model. Hard limits: there is no way back.
"""

from __future__ import annotations

import ctypes
import resource

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_MAX_FILE_BYTES = 64 * 1024


def leave_network() -> str:
    """Moves into a network namespace without interfaces; says so where the kernel or the system forbids it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET):
        if hasattr(libc, "unshare") and libc.unshare(flags) == 0:
            return "none"
    return "shared: this system allows no network namespace"


def forbid_dumps() -> None:
    """No core file and no debugger of the same user: this process holds weights or inputs in the clear."""
    set_limit(resource.RLIMIT_CORE, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def limit_process(*, memory_bytes: int, open_files: int) -> None:
    """Hard limits from here on.

    Args:
        memory_bytes: address space beyond what is in use now.
        open_files: the highest file descriptor plus 1.
    """
    forbid_dumps()
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    set_limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    set_limit(resource.RLIMIT_NOFILE, open_files)
    set_limit(resource.RLIMIT_NPROC, 0)  # no further process or thread (of a user other than root)
    set_limit(resource.RLIMIT_AS, _address_space_bytes() + memory_bytes)


def set_limit(kind: int, value: int) -> None:
    """Sets soft and hard limit to ``value``, or to the hard limit there is where that is lower."""
    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _address_space_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # before any path library is needed
        pages = int(file.read(200).split()[0])
    return pages * resource.getpagesize()
