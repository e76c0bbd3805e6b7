"""Which files a child may touch: writes in its own folder, reads of the system, the interpreter and what was named (Landlock).

Called by the child before it imports the first line of other people's code; there is no way back, and
``drop_privileges`` must have been called. Without Landlock the child can read whatever its user can read, and the text that
comes back says so. ``device_client/inference/confine.py`` has the stricter form for code
that needs no file at all; its numbers are the kernel's.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 5: 16}
_NET_SINCE, _SCOPE_SINCE = 4, 6
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/proc", "/sys", "/opt", "/nix/store")
_SETTINGS = (  # of /etc by name: host keys and password hashes lie there too, and an auditor may be root
    *("alternatives", "ssl/certs", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "os-release", "fonts"),
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "mime.types", "OpenCL", "vulkan", "matplotlibrc"),
)
_DEVICES = ("/dev",)
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the kernel's name for it; data loaders of several processes need it


def interpreter_folders() -> tuple[str, ...]:
    """Where this interpreter and everything that it can import lie."""
    found = [sys.prefix, sys.base_prefix, str(Path(os.path.realpath(sys.executable)).parent), *sysconfig.get_paths().values()]
    return tuple(dict.fromkeys([*found, *(entry for entry in sys.path if entry)]))


def limit_files(*, readable: Iterable[str], writable: Iterable[str]) -> str:
    """Gives up all files but those below the named folders and the system's own.

    Returns:
        What holds from now on, in plain words.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, 0, 1) if hasattr(libc, "syscall") else -1
    if version < 1:
        return "whatever its user may read and write: this system has no Landlock"
    handled = (1 << max(count for since, count in _RIGHTS_OF_VERSION.items() if since <= version)) - 1
    # also no TCP, and no signal or abstract socket to a process outside, where this kernel's Landlock knows them
    net, scope = (0b11 if version >= since else 0 for since in (_NET_SINCE, _SCOPE_SINCE))
    length = 24 if version >= _SCOPE_SINCE else 16 if version >= _NET_SINCE else 8
    rules = libc.syscall(_CREATE, struct.pack("=QQQ", handled, net, scope), length, 0)
    if rules < 0:
        return f"whatever its user may read and write: Landlock failed with error {ctypes.get_errno()}"
    try:
        for path in (*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *readable):
            _allow(libc, rules, path, _READ & handled)
        for path in _DEVICES:
            _allow(libc, rules, path, (_READ | _WRITE_FILE | _IOCTL) & handled)
        for path in (*writable, _SHARED_MEMORY):
            _allow(libc, rules, path, handled)
        if libc.syscall(_RESTRICT, rules, 0) != 0:
            return f"whatever its user may read and write: Landlock failed with error {ctypes.get_errno()}"
    finally:
        os.close(rules)
    return "reads the system, the interpreter and the named folders; writes only in a folder of its own"


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    """One rule; a path that is not there allows nothing."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
