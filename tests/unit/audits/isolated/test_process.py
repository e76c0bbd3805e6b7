"""Somebody else's code gets no key, no network and no end of anything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audits.isolated.arrays import parse_array
from audits.isolated.limits import IsolationLimits
from audits.isolated.process import Job, Made, run_tasks
from device_client.errors import SealiftError
from device_client.limits import MIB

SHORT = IsolationLimits(start_s=30, task_s=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of an auditor with some code in it, and a key beside it."""
    here = tmp_path / "project"
    here.mkdir()
    source = Path(__file__).with_name("user_code.py").read_text(encoding="utf-8")
    (here / "user_code.py").write_text(source, encoding="utf-8")
    (tmp_path / "audit.pem").write_text("the auditor's key")
    (here / "secret_path.txt").write_text(str(tmp_path / "audit.pem"))
    monkeypatch.chdir(here)
    return here


def call(function: str, *, limits: IsolationLimits = SHORT, arrays: tuple[str, ...] = ("x",)) -> Made:
    job = Job(f"user_code:{function}", "call", len(arrays), options={"arrays": list(arrays)}, in_callers_folder=True)
    return run_tasks(job, limits=limits)


@pytest.fixture(scope="module")
def isolation(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What this system allows."""
    here = tmp_path_factory.mktemp("once")
    (here / "user_code.py").write_text(Path(__file__).with_name("user_code.py").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        return call("good").isolation


def text(function: str) -> str:
    return parse_array(call(function).results[0], where="test").tobytes().decode()


def test_a_function_gives_its_arrays(folder: Path) -> None:
    made = call("good", arrays=("x", "y", "member"))
    x, y, member = (parse_array(data, where="test") for data in made.results)
    np.testing.assert_array_equal(x, np.arange(6.0).reshape(3, 2))
    assert y.tolist() == [0, 1, 1]
    assert member.dtype == np.bool_
    assert made.isolation.startswith("network: ")


def test_passphrases_and_tokens_do_not_reach_the_child(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_PASSPHRASE_FILE", "/keys/phrase")
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    found = text("environment")
    assert "PASSPHRASE" not in found
    assert "s3cret" not in found


def test_the_child_inherits_no_open_file(folder: Path) -> None:
    with (folder.parent / "audit.pem").open() as key:
        os.set_inheritable(key.fileno(), True)
        assert "audit.pem" not in text("descriptors")


def test_the_child_cannot_read_the_environment_of_the_audit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "s3cret")
    with pytest.raises(SealiftError, match="PermissionError"):
        call("environment_of_the_parent")
    with pytest.raises(SealiftError, match="PermissionError"):
        call("memory_of_the_parent")


def test_the_child_reaches_no_network(folder: Path, isolation: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        (folder / "port.txt").write_text(str(server.getsockname()[1]))
        if "network: none" not in isolation:
            pytest.skip("this system allows no network namespace")
        with pytest.raises(SealiftError, match="unreachable"):
            call("sends")
        with pytest.raises(TimeoutError):
            server.recv(10)


def test_the_child_reads_no_key_beside_its_folder_unless_the_folder_is_named(folder: Path, isolation: str) -> None:
    if not isolation.endswith("folder of its own"):
        pytest.skip("this system has no Landlock")
    with pytest.raises(SealiftError, match="PermissionError"):
        call("reads_outside")
    allowed = call("reads_outside", limits=IsolationLimits(start_s=30, task_s=1, readable=(folder.parent,)))
    assert parse_array(allowed.results[0], where="test").tobytes() == b"the auditor's key"


def test_the_child_reads_no_password_hash_and_no_host_key(folder: Path, isolation: str) -> None:
    if not isolation.endswith("folder of its own"):
        pytest.skip("this system has no Landlock")
    passwd, shadow, private = parse_array(call("reads_settings").results[0], where="test").tolist()
    assert passwd > 0
    assert shadow < 0
    assert private < 0


def test_the_child_writes_nothing_into_the_folder_of_the_command(folder: Path, isolation: str) -> None:
    if not isolation.endswith("folder of its own"):
        pytest.skip("this system has no Landlock")
    with pytest.raises(SealiftError, match="PermissionError"):
        call("writes_outside")
    assert not (folder / "written.txt").exists()


BAD = {
    "code that raises": ("raises", SHORT, "isolated_failed", "no such column"),
    "code that takes too long": ("sleeps", IsolationLimits(start_s=1, task_s=1), "isolated_timeout", "at most|expected"),
    "code that needs too much memory": (
        "hoards", IsolationLimits(start_s=30, task_s=1, memory_bytes=512 * MIB), "isolated_memory", "memory",
    ),
    "code that prints without end": ("chatters", IsolationLimits(task_s=1, log_bytes=MIB), "isolated_output", "printed"),
    "an array of objects": ("gives_objects", SHORT, "isolated_failed", "expected numbers"),
    "no mapping": ("gives_a_list", SHORT, "isolated_failed", "no mapping"),
    "code that ends the process": ("exits", SHORT, "isolated_result", "no result"),
    "a link instead of a result": ("leaves_a_link", SHORT, "isolated_result", "no result"),
    "a function that is not there": ("nothing", SHORT, "isolated_failed", "no such function"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_code_is_an_error_by_name(folder: Path, name: str) -> None:
    function, limits, code, words = BAD[name]
    with pytest.raises(SealiftError, match=words) as refused:
        call(function, limits=limits)
    assert refused.value.code == code
    assert refused.value.where == f"user_code:{function}"


def test_nothing_that_the_code_started_lives_on(folder: Path) -> None:
    call("leaves_a_child", arrays=("x",))
    end = time.monotonic() + 10  # it sleeps for thirty seconds, and a killed process may take a moment to be gone
    while (mine := [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _command(path)]) and (
        time.monotonic() < end
    ):
        time.sleep(0.05)
    assert not mine


def test_code_of_an_audit_that_was_killed_does_not_go_on(folder: Path) -> None:
    program = (
        "from audits.isolated.limits import IsolationLimits\n"
        "from audits.isolated.process import Job, run_tasks\n"
        "job = Job('user_code:sleeps', 'call', 1, options={'arrays': ['x']}, in_callers_folder=True)\n"
        "run_tasks(job, limits=IsolationLimits())\n"
    )
    root = str(Path(__file__).parents[4])
    environment = {**os.environ, "PYTHONPATH": root, "TMPDIR": str(folder)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as audit:
        _until(lambda: bool(_children(folder)), "the child never started")
        time.sleep(0.5)  # from its start to its first line
        audit.send_signal(signal.SIGKILL)
    _until(lambda: not _children(folder), "the child goes on")


def _children(folder: Path) -> list[Path]:
    """Processes that were started by ``isolated.process`` with this folder."""
    found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _command(path)]
    return [path for path in found if b"audits.isolated.child" in _command(path)]


def _until(held: Callable[[], bool], told: str) -> None:
    end = time.monotonic() + 10
    while not held():
        assert time.monotonic() < end, told
        time.sleep(0.05)


def _command(path: Path) -> bytes:
    """Of a process; empty for one that has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
