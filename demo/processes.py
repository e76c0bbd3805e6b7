"""Runs the demo's parts as separate processes: one `sealift` command each, and the server in the background.

Whatever way the demo ends, `Workshop.close` ends every process that it started, by its id.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_client.errors import SealiftError

_COMMAND_TIMEOUT_S = 300
_SERVER_START_S = 30
_STOP_S = 10


@dataclass(frozen=True)
class Outcome:
    """What a command gave: its exit status, its JSON answer, and its wall time in seconds."""

    status: int
    answer: dict[str, Any]
    wall_s: float


@dataclass
class Workshop:
    """A folder with everything of one demo: keys, bundles, server data, device state.

    Attributes:
        folder: where all of it lies.
        url: where the server answers, once it was started.
    """

    folder: Path
    url: str = ""
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, command: str, *, holder: str | None = None, refusal_allowed: bool = False) -> Outcome:
        """Runs ``sealift COMMAND --json`` in the folder and waits.

        Args:
            command: the command line as a person would type it there, without ``sealift``.
            holder: whose passphrase file in ``secrets/`` the command gets.
            refusal_allowed: exit status 1 is an answer and not a failure of the demo.

        Raises:
            SealiftError: ``demo_step``, with the command's own error.
        """
        return self._finish("sealift", command, holder=holder, refusal_allowed=refusal_allowed)

    def run_module(self, module: str, command: str) -> Outcome:
        """Runs ``python -m MODULE COMMAND --json`` in the folder and waits.

        Raises:
            SealiftError: ``demo_step``.
        """
        return self._finish(module, command, holder=None, refusal_allowed=False)

    def serve(self, *, data: Path, holder: str) -> None:
        """Starts the server in the background and sets ``url`` once it answers.

        Raises:
            SealiftError: ``demo_step`` if it does not come up.
        """
        port_file = data / "port"
        port_file.unlink(missing_ok=True)
        log = (self.folder / "server.log").open("ab")
        arguments = ["server", "serve", "--data", str(data), "--port", "0", "--port-file", str(port_file)]
        child = self._start("sealift", arguments, holder=holder, stdout=log, stderr=log)
        log.close()
        end = time.monotonic() + _SERVER_START_S
        while time.monotonic() < end and child.poll() is None:
            if port_file.exists() and (text := port_file.read_text().strip()):
                self.url = f"http://127.0.0.1:{int(text)}"
                return
            time.sleep(0.05)
        raise SealiftError("the server did not start", code="demo_step", where=str(self.folder / "server.log"))

    def close(self) -> None:
        """Ends every process that is still running; safe to call twice."""
        for child in list(self._children):
            self._end(child)
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)

    def _finish(self, module: str, command: str, *, holder: str | None, refusal_allowed: bool) -> Outcome:
        begun = time.monotonic()
        arguments = [*shlex.split(command), "--json"]
        child = self._start(module, arguments, holder=holder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(timeout=_COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired as e:
            limit = f"within {_COMMAND_TIMEOUT_S} s"
            raise SealiftError("a step did not end", code="demo_step", where=command, expected=limit) from e
        finally:
            self._end(child)
        answer = _last_json(out)
        if child.returncode != 0 and not (refusal_allowed and child.returncode == 1 and answer):
            message = err.decode(errors="replace").strip()[-800:]
            raise SealiftError(f"a step failed with status {child.returncode}: {message}", code="demo_step", where=command)
        return Outcome(child.returncode, answer, time.monotonic() - begun)

    def _start(self, module: str, arguments: list[str], *, holder: str | None, stdout: Any, stderr: Any) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEALIFT_PASSPHRASE")}
        scratch = self.folder / "tmp"  # libraries leave caches in the temporary folder; nothing outside ours
        scratch.mkdir(exist_ok=True)
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch)}
        if holder is not None:
            environment["SEALIFT_PASSPHRASE_FILE"] = str(self.folder / "secrets" / holder)
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends its children in order
        )
        self._children.append(child)
        return child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child in self._children:
            self._children.remove(child)


def _last_json(out: bytes) -> dict[str, Any]:
    """The last line of stdout that is a JSON object; empty if there is none."""
    for line in reversed(out.decode(errors="replace").splitlines()):
        if line.startswith("{"):
            parsed: dict[str, Any] = json.loads(line)
            return parsed
    return {}
