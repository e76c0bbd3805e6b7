"""What a process gives up before it reads the first byte of a model: network, privileges, files, processes, core dumps, memory.

Used by the worker of the inference service, the self-test's child and children of audits. The order is the caller's: leave
the network, load the runtime from our own files, drop privileges, limit, leave the files, and only then read the model. There
is no way back from any of it. Landlock is what keeps a runtime that a model has taken over from the files of the user it runs
as; its numbers are those of the kernel's headers, the same on every architecture that we know of.
"""

from __future__ import annotations

import ctypes
import os
import resource

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION = 0x20080522
_MAX_FILE_BYTES = 64 * 1024
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Landlock's version to the number of rights over files that it knows; all are given up."""
_NET_SINCE, _SCOPE_SINCE = 4, 6


def leave_network() -> str:
    """Moves into a network namespace without interfaces; says so where the kernel or the system forbids it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET):
        if hasattr(libc, "unshare") and libc.unshare(flags) == 0:
            return "none"
    return "shared: this system allows no network namespace"


def drop_privileges() -> str:
    """No capabilities in this process and in any that it starts, set-user-id programs included; a no-op for a plain user.

    Root is then no more than the owner of root's files. Measured on Linux 6.18: with CAP_PERFMON a process reads
    ``/proc/PID/environ`` of any other, whatever Landlock and the other's ``dumpable`` flag say.

    Returns:
        What holds from now on, in plain words.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl") or not hasattr(libc, "capset"):
        return "those of its user: this system has no capabilities to give up"
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        return f"those of its user: the system refuses with error {ctypes.get_errno()}"
    return "none"


def leave_files() -> str:
    """Opens and makes no file any more, reaches no TCP port, no abstract socket and no process outside; what is open stays.

    Everything that is to be imported must be. Says so where the kernel has no Landlock, which came with Linux 5.13 and may be
    switched off. Needs ``limit_process`` before it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1) if hasattr(libc, "syscall") else -1
    if version < 1:
        return "the user's: this system has no Landlock"
    rights = max(count for since, count in _FILE_RIGHTS.items() if since <= version)
    net, scope = (0b11 if version >= since else 0 for since in (_NET_SINCE, _SCOPE_SINCE))
    length = 24 if version >= _SCOPE_SINCE else 16 if version >= _NET_SINCE else 8
    rules = libc.syscall(_LANDLOCK_CREATE, (ctypes.c_uint64 * 3)((1 << rights) - 1, net, scope), length, 0)
    if rules < 0 or libc.syscall(_LANDLOCK_RESTRICT, rules, 0) != 0:
        return f"the user's: this system refuses Landlock with error {ctypes.get_errno()}"
    os.close(rules)
    return "none"


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
