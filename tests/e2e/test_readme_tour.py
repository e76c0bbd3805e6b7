"""The tour in the README, run as a reader would: every block of it, in order, in an empty folder."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PORT_IN_THE_README = "8470"


def _tour() -> list[tuple[str, str]]:
    readme = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^## A tour\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    return BLOCK.findall(section)


def _script(port: int) -> str:
    """The shell blocks in one script; the first of them makes the reader's folder, which the test does itself."""
    shell = [text for language, text in _tour() if language == "sh"]
    assert "mkdir ../sealift-tour && cd ../sealift-tour" in shell[0]  # outside the repository: it holds private keys
    return "\n".join(["set -euo pipefail", *shell[1:]]).replace(PORT_IN_THE_README, str(port))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _commands(folder: Path) -> Path:
    """A folder with `sealift` and `python` of this environment, whether or not the package is installed in it."""
    folder.mkdir()
    for name, arguments in (("sealift", "-m sealift "), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {arguments}"$@"\n')
        program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder after the tour, and what it printed."""
    folder = tmp_path_factory.mktemp("tour")
    (source,) = [text for language, text in _tour() if language == "python"]
    (folder / "digits.py").write_text(source)
    programs = _commands(folder.parent / "programs")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        ["bash", "-c", _script(_free_port())],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # the tour leaves its server running: the whole session is ended below
    )
    try:
        output, _ = child.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
    assert child.returncode == 0, output[-4000:]
    return folder, output


def test_the_tour_ends_with_an_answer_of_the_device(toured: tuple[Path, str]) -> None:
    folder, _ = toured
    assert (folder / "answers.npz").is_file()
