"""The socket's file: made for exactly whom it is for, alone in its place, and gone when the service ends."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_client.errors import StateError
from device_client.install.folder import DeviceFolder
from device_client.install.lock import exclusive
from device_client.install.service_settings import ServiceSettings
from device_client.service.peers import group_number

RUN_FOLDER, SOCKET_NAME, LOCK_NAME = "run", "inference.sock", "service.lock"
_BACKLOG = 64
_MAX_PATH_BYTES = 107  # what the kernel's address holds


def socket_path(folder: DeviceFolder, settings: ServiceSettings) -> Path:
    """Where clients find the service."""
    return Path(settings.socket) if settings.socket else folder.path / RUN_FOLDER / SOCKET_NAME


@contextmanager
def listening(folder: DeviceFolder, settings: ServiceSettings) -> Iterator[socket.socket]:
    """The listening socket, for the length of the block; nobody else serves this folder meanwhile.

    Raises:
        StateError: another service is at work (``busy``, ``socket_in_use``), or the socket cannot be made (``socket_path``).
        UsageError: an unknown group.
    """
    path, run = socket_path(folder, settings), folder.path / RUN_FOLDER
    group = None if settings.group is None else group_number(settings.group)
    try:
        run.mkdir(mode=0o700, exist_ok=True)
    except OSError as e:
        raise _unusable(run, e.strerror) from e
    with exclusive(run / LOCK_NAME):
        _clear(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listener, path, mode=settings.socket_mode, group=group)
            yield listener
        finally:
            listener.close()
            with contextlib.suppress(OSError):
                path.unlink()


def _clear(path: Path) -> None:
    """Removes a socket that nobody answers: what a power cut left. Anything else in the place is not ours to remove."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise _unusable(path, f"a path of more than {_MAX_PATH_BYTES} bytes", hint="set [service] socket to a shorter one")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise _unusable(path, "something else is in its place")
    except FileNotFoundError:
        return
    except OSError as e:
        raise _unusable(path, e.strerror) from e
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as e:
            raise _unusable(path, e.strerror) from e
    raise StateError(
        "another service answers on this socket",
        code="socket_in_use",
        where=str(path),
        hint="end it, or set another [service] socket",
    )


def _bind(listener: socket.socket, path: Path, *, mode: int, group: int | None) -> None:
    try:
        before = os.umask(0o177)  # never open to more than it should be, not even for a moment
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except OSError as e:
        raise _unusable(path, e.strerror) from e


def _unusable(path: Path, why: str | None, *, hint: str = "check the folder and its permissions") -> StateError:
    return StateError("the socket cannot be made", code="socket_path", where=str(path), actual=why, hint=hint)
