"""Small files that must be whole or absent: written beside, synced, renamed into place, folder synced."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from device_client.errors import UsageError


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``data``; after a power cut the old or the new content is there, complete.

    Raises:
        OSError: the disk refused; ``path`` is unchanged and the temporary file is gone.
    """
    _write(path, data, mode=mode, replace=True)


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Like ``write_atomic``, for a file that must not exist yet.

    Raises:
        UsageError: ``path`` exists.
    """
    try:
        _write(path, data, mode=mode, replace=False)
    except FileExistsError as e:
        raise UsageError("the file exists already", code="file_exists", where=str(path), hint="choose another name") from e


def sync_folder(path: Path) -> None:
    """Makes renames inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            Path(temporary).replace(path)
        else:
            os.link(temporary, path)  # fails if the name exists, unlike a rename
    finally:
        Path(temporary).unlink(missing_ok=True)
    sync_folder(path.parent)
