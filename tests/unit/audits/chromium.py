"""A real browser for tests of the page: headless Chromium over its debugging pipe, without a library and without a port.

The pipe is descriptors 3 and 4 of the browser, here two named pipes; messages are JSON with a zero byte between them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_WITHIN_S = 120.0


def find_browser() -> str | None:
    """The first one that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab, and everything it said: events of network, log and console in the order they came."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self.process, self._write, self._read = process, write, read
        self._buffer, self._id, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Sends a command and waits for its answer; events that come first are kept."""
        self._id += 1
        message: dict[str, object] = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._id:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def open(self, path: Path) -> None:
        """Loads a file and waits until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def said(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of one kind."""
        return [event["params"] for event in self.events if event["method"] == method]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + ANSWER_WITHIN_S
        while b"\0" not in self._buffer:
            assert time.monotonic() < end, "the browser does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        told: dict[str, Any] = json.loads(message)
        return told


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, ended with the block.

    ``--no-sandbox``: tests run in containers, as root; the page under test is our own.
    """
    profile.mkdir()
    pipes = [profile / "commands", profile / "answers"]
    for path in pipes:
        os.mkfifo(path)
    process = subprocess.Popen(
        [
            "/bin/sh", "-c", 'commands=$1; answers=$2; shift 2; exec "$@" 3<"$commands" 4>"$answers"', "sh", *map(str, pipes),
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile / 'profile'}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    write = os.open(pipes[0], os.O_WRONLY)
    read = os.open(pipes[1], os.O_RDONLY)
    try:
        yield Browser(process, write, read)
    finally:
        os.close(write)
        process.terminate()
        process.wait(timeout=60)
        os.close(read)
