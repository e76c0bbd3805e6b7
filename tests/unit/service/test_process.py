"""`sealift device serve` as a process: what it maps, how it ends, and the client of the document against it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from device_client.service.client import InferenceClient
from tests.unit.service.conftest import Town
from tests.unit.service.test_swap import eventually

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "inference-protocol.md"
X = np.array([[1, 2, 3]], np.float32)


@contextmanager
def serve(town: Town) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-m", "sealift", "device", "serve", "--dir", str(town.device.folder.path), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": ""}
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving digits/ocr"), line
        yield process
    finally:
        process.kill()
        process.communicate()


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def maps_runtime(pid: int) -> bool:
    return "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()


def test_the_service_itself_never_maps_the_runtime_and_sigterm_ends_everything_well(town: Town) -> None:
    town.release("1.0.0", counter=1)
    with serve(town) as process:
        assert not descendants(process.pid), "nothing starts before somebody asks"
        with InferenceClient(town.socket) as client:
            client.run("ocr", {"x": X})
            (worker,) = descendants(process.pid)
            assert maps_runtime(worker)
            assert not maps_runtime(process.pid)
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, json.loads(out)["ok"]) == (0, True)
        assert "Traceback" not in errors
        assert not Path(f"/proc/{worker}").exists()
        assert not town.socket.exists()


def test_a_request_that_was_begun_is_answered_though_the_service_ends(town: Town) -> None:
    town.release("1.0.0", counter=1)
    with serve(town) as process, InferenceClient(town.socket) as client:
        client.run("ocr", {"x": X})
        (worker,) = descendants(process.pid)
        os.kill(worker, signal.SIGSTOP)
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(client.run("ocr", {"x": X}).version))
        thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        os.kill(worker, signal.SIGCONT)
        thread.join(timeout=20)
        assert answers == ["1.0.0"]
        assert process.wait(timeout=20) == 0


def test_workers_of_a_service_that_was_killed_end_and_the_next_service_starts(town: Town) -> None:
    town.release("1.0.0", counter=1)
    with serve(town) as process:
        with InferenceClient(town.socket) as client:
            client.run("ocr", {"x": X})
        (worker,) = descendants(process.pid)
        process.kill()
        process.wait()
        eventually(lambda: not Path(f"/proc/{worker}/maps").exists() or not maps_runtime(worker))
    assert town.socket.exists(), "nobody was left to remove it"
    with serve(town), InferenceClient(town.socket) as client:
        client.ping()


def test_the_documents_client_needs_the_standard_library_alone_and_works(town: Town, tmp_path: Path) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL) if "__main__" in block]
    (tmp_path / "client.py").write_text(code)
    town.release("1.0.0", counter=1, scale=2.0)
    with town.serving():
        command = [sys.executable, "-I", "-S", str(tmp_path / "client.py"), str(town.socket), "ocr"]
        done = subprocess.run([*command, "1", "2", "3"], capture_output=True, text=True, check=True)
        assert done.stdout == "1.0.0 y [1, 3] [2.0, 4.0, 6.0]\n"
        refused = subprocess.run([*command, "1", "2"], capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stderr.split(":")[0]) == (1, "input_mismatch")


def test_the_document_names_every_key_of_the_table_and_every_request() -> None:
    from device_client.install.service_settings import _KEYS

    text = DOCUMENT.read_text()
    assert all(f"`{key}`" in text for key in _KEYS)
    assert all(f'{{"op": "{name}"' in text for name in ("ping", "models", "describe", "infer", "vote"))
