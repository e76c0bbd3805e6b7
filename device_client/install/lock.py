"""One process at a time changes a device's folder: an advisory lock that the kernel drops when its holder dies.

``flock`` rather than a file that exists or not: after ``kill -9`` or a power cut nothing is left to clean up. Held by
poll, enroll and init; ``status`` and ``infer`` only read, under the database's own isolation.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_client.errors import StateError

_RETRY_S = 0.05


@contextmanager
def exclusive(path: Path, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Holds the lock for the length of the ``with`` block.

    Args:
        path: the lock file; made when missing, never removed (a removed lock file can be locked twice).
        timeout_s: how long to wait for another holder.

    Raises:
        StateError: ``busy`` when another process holds it, ``state_unwritable`` when the file cannot be made.
    """
    try:
        # Not inheritable, so that a self-test's child cannot keep the lock beyond its parent's death.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise StateError("cannot open the lock", code="state_unwritable", where=str(path), actual=e.strerror) from e
    try:
        _acquire(descriptor, path, timeout_s=timeout_s)
        yield
    finally:
        with contextlib.suppress(OSError):  # closed all the same; what the block ended with counts
            os.close(descriptor)


def _acquire(descriptor: int, path: Path, *, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            if time.monotonic() >= end:
                raise StateError(
                    "another process is at work in this folder", code="busy", where=str(path), hint="wait until it is done"
                ) from e
            time.sleep(_RETRY_S)
        else:
            return
