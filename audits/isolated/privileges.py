"""Gives up every capability and every way to get one back: what root is, beyond owning root's files.

Measured on Linux 6.18: with CAP_PERFMON a process reads ``/proc/PID/environ`` of any other, whatever Landlock and the other's
``dumpable`` flag say. So a child that root started reads its parent's passphrases unless this was called.
"""

from __future__ import annotations

import ctypes

_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = 0x20080522


def drop_privileges() -> str:
    """No capabilities in this process and in any that it starts, set-user-id programs included; a no-op for a plain user.

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
