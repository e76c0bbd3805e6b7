"""Records every call of this process that changes the disk below one folder, in order; or makes one of them fail.

Python's own functions are replaced for the length of a ``with`` block, and an audit hook watches those that are not: a change
below the folder that came by another way ends the block with ``EscapedError``, and so does a log that does not lead to the disk
that is there. SQLite's own calls cannot be seen from here: a commit is one event with the content after it.

    with Recorder(folder) as recorder:
        ...
    cuts(recorder.base, recorder.events, end=0)
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.faults.disk_log import DiskLog, EscapedError, Fault
from tests.faults.recorder_calls import WRITING, replacements

# Audit events whose first argument (or second, too) is a path that the call changes.
_AUDITED = {
    "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1, "os.chmod": 1,
    "os.chown": 1, "os.utime": 1, "os.setxattr": 1, "os.removexattr": 1, "sqlite3.connect": 1,
}  # fmt: skip
_active: list[Recorder] = []
_hooked: list[bool] = []


class Recorder(DiskLog):
    """A log that is being written while the ``with`` block runs; one at a time."""

    def __enter__(self) -> Recorder:
        if not _hooked:
            _hooked.append(True)
            sys.addaudithook(_audit)
        if _active:
            raise RuntimeError("one recorder at a time")
        _active.append(self)
        self._stack = ExitStack()
        for owner, name, function in list(replacements(self)):
            self._stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, function)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        _active.remove(self)
        if self.escaped and not isinstance(error, EscapedError):
            raise EscapedError("; ".join(self.escaped))
        if kind is None and self._fault is None:
            self.check()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Sees every call of Python's own functions, also those that nobody replaced."""
    if not _active or (event not in _AUDITED and event != "open"):
        return
    recorder = _active[0]
    if getattr(recorder.inside, "depth", 0):
        return
    if event == "open":
        path, _, flags = args
        paths = [path] if isinstance(flags, int) and flags & WRITING else []
    else:
        paths = list(args[: _AUDITED[event]])
    if event == "os.symlink":
        paths = paths[1:]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.path.normpath(Path.cwd() / os.fsdecode(path))
            if text == str(recorder.folder) or text.startswith(f"{recorder.folder}/"):
                raise recorder.escape(f"{event} {text}")


__all__ = ["EscapedError", "Fault", "Recorder"]
