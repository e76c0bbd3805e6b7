"""The agent's log: one line an event on stderr, for people or as JSON. Not ``logging``, which costs the resident process 2 MiB."""

from __future__ import annotations

import contextlib
import json
import os

_MAX_CHARS = 1000
_STDERR = 2


class EventLog:
    """Writes events to a descriptor; what cannot be written is dropped, since a full journal must not end the agent."""

    def __init__(self, *, as_json: bool, descriptor: int = _STDERR) -> None:
        self._as_json = as_json
        self._descriptor = descriptor

    def write(self, event: str, text: str = "", **values: object) -> None:
        """One event.

        Args:
            event: its name, in words.
            text: what happened, for people.
            values: named values: strings, numbers, None.
        """
        if self._as_json:
            line = json.dumps({"event": event, "text": _printable(text), **values})
        else:
            named = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
            line = _printable(" ".join(part for part in (f"{event}:", text, f"[{named}]" if named else "") if part))
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line.encode("utf-8", "replace") + b"\n")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_CHARS])
