"""The server is away, or a poll is killed in the middle: the old model works, and the next poll installs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.names import SECOND
from device_client.errors import StateError, TransportError
from tests.threats.judge import expect_installed
from tests.threats.world import World

_WAIT_S = 30.0


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    end = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.002)


def test_a_poll_without_a_server_is_a_transport_error_and_the_old_model_goes_on(world: World) -> None:
    before, told = world.footprint(), len(world.reports())
    world.server.stop()
    error = world.refusal()
    assert isinstance(error, TransportError)
    assert world.footprint() == before
    assert world.last_entry()[:2] == ("failed", error.code)
    assert world.waiting() == 1, "told when the server is back"
    world.restart_server()
    expect_installed(world, SECOND, before=before)
    assert world.waiting() == 0
    assert [report["event"] for report in world.reports()[told:]] == ["failed", "installed"]


def test_a_poll_killed_in_the_middle_of_a_download_leaves_the_old_model_and_the_next_poll_installs(world: World) -> None:
    before = world.footprint()
    world.server.gate.hold(world.town.second.model.hex)
    with world.command("poll") as process:
        assert world.server.gate.held.wait(_WAIT_S), "half of the model was sent"
        wait_until(world.leftovers, what="a blob that is being written")
        process.kill()
    world.server.gate.open()
    assert process.returncode == -signal.SIGKILL
    assert state(world) == "downloading"
    assert world.footprint() == before
    assert not world.blob(world.town.second.model).exists(), "half a model never has the whole one's name"

    expect_installed(world, SECOND, before=before)
    assert world.leftovers() == []
    assert ("interrupted",) in world.rows("SELECT event FROM journal")


def test_a_poll_killed_in_the_middle_of_the_self_test_leaves_the_old_model_and_no_process(world: World) -> None:
    before = world.footprint()
    with world.command("poll") as process:
        wait_until(lambda: state(world) == "selftest" and children(process), what="the self-test")
        tested = children(process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert state(world) == "selftest"
    assert world.footprint() == before
    wait_until(lambda: not any(is_alive(pid) for pid in tested), what="the end of the self-test's process")
    assert world.rows("SELECT * FROM known_bad") == (), "a power cut says nothing about the model"

    expect_installed(world, SECOND, before=before)
    assert ("interrupted",) in world.rows("SELECT event FROM journal")


def test_of_two_polls_at_once_one_is_told_to_wait_and_the_other_installs(world: World) -> None:
    before = world.footprint()
    world.server.gate.hold(world.town.second.model.hex)
    with world.command("poll") as first:
        assert world.server.gate.held.wait(_WAIT_S)
        with world.command("poll") as second:
            answer = answer_of(second)
        assert (second.returncode, answer["code"]) == (1, "busy")
        with pytest.raises(StateError) as caught:
            world.poll()
        assert caught.value.code == "busy"
        assert world.footprint() == before
        world.server.gate.open()
        answer = answer_of(first)
    assert (first.returncode, answer["result"], answer["version"]) == (0, "installed", SECOND)
    assert world.active_version() == SECOND
    assert world.outputs() != before.outputs
    assert len(world.rows("SELECT * FROM deployments")) == 2, "installed once"


def test_the_same_refusal_through_the_command_line_exits_1_with_its_code(world: World) -> None:
    """What the demo and an operator's script see: status 1, the code, and the old model."""
    before = world.footprint()
    path: Path = world.web.blob_file(world.town.second.model.hex)
    path.write_bytes(path.read_bytes()[::-1])
    with world.command("poll") as process:
        answer = answer_of(process)
    assert (process.returncode, answer["code"]) == (1, "blob_digest_mismatch")
    assert world.footprint() == before


def answer_of(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=_WAIT_S)
    assert out, err
    found: dict[str, object] = json.loads(out)
    return found


def state(world: World) -> str:
    ((found,),) = world.rows("SELECT state FROM progress")
    return str(found)


def children(process: subprocess.Popen[str]) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
