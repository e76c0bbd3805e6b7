"""Processes that a test waits for, and an agent whose children are scripts."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0  # for what must come; nothing here depends on how long it takes

DRIVER = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from device_client.agent.clock import Moment, read_boot_clock
from device_client.agent.log import EventLog
from device_client.agent.notify import Notifier
from device_client.agent.supervisor import Settings, Supervisor
spec = json.loads(sys.argv[1])
def clock():
    now = read_boot_clock()
    return Moment(now.boot, now.seconds * spec["speed"])
def command(task, folder):
    return [sys.executable, "-I", "-S", "-c", spec["tasks"][task], folder]
supervisor = Supervisor(
    Settings(spec["folder"], **spec["settings"]), log=EventLog(as_json=True), notifier=Notifier(os.environ, pid=os.getpid()),
    clock=clock, share=lambda: spec["share"], command=command, slice_s=0.05)
sys.exit(supervisor.run())
"""

ANSWER = (
    '{"schema": 1, "kind": "answered", "words": ["fine"], "poll_s": 3000, "retry_after_s": null, "reports_waiting": 0, '
    '"is_watching": false}'
)
GOOD = f"print('{ANSWER}')"
ENDLESS = "import time\nwhile True: time.sleep(60)"


def is_alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Agent:
    """A supervisor in a process of its own; its log is read event by event."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._rest = b""

    def expect(self, event: str) -> dict[str, Any]:
        """The next event of that name; those before it are kept in ``events``."""
        end = time.monotonic() + PATIENCE_S
        while True:
            found = self._next(end)
            assert found is not None, f"the agent ended without {event!r}; it said {self.events}"
            self.events.append(found)
            if found["event"] == event:
                return found

    def ended(self) -> int:
        """Its exit status, with all events read."""
        end = time.monotonic() + PATIENCE_S
        while (found := self._next(end)) is not None:
            self.events.append(found)
        return self.process.wait(PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _next(self, end: float) -> dict[str, Any] | None:
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        while b"\n" not in self._rest:
            assert select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0], f"silent after {self.events}"
            chunk = os.read(descriptor, 65536)
            if not chunk:
                assert not self._rest, self._rest
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            raise AssertionError(line + self._rest) from None
        return found


@contextmanager
def agent(
    folder: Path,
    tasks: Mapping[str, str],
    *,
    share: float = 0.99,
    speed: float = 1.0,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Agent]:
    """An agent whose children run the given scripts. ``share`` is all its randomness, ``speed`` that of its clock."""
    spec = {"folder": str(folder), "tasks": dict(tasks), "settings": settings, "share": share, "speed": speed}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(spec)], stderr=subprocess.PIPE, env=dict(os.environ) | dict(environment or {})
    )
    try:
        yield Agent(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def killed_at_end(pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
