"""What keeps a device sound, through the command line: recover, rollback, reset, explain; and the owner's own conditions."""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta
from typing import Any

import pytest

from device_client.commands import device
from device_client.console import run_main
from device_client.install import boot, by_hand, conditions
from device_client.install.conditions import ask_owner
from device_client.trust.trusted_time import BootTime
from tests.unit.device.standing import active, install_two, passes
from tests.unit.device.world import THE_MODEL, World, bundle


@pytest.fixture
def folder(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The world's clock, for commands that have none as an option."""
    for module, name in ((boot, "recover"), (by_hand, "roll_back_by_hand"), (by_hand, "reset")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real: real(*args, clock=world.clock, uptime=world.uptime))
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    return str(world.device.folder.path)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    status = run_main(device, prog_name="sealift device", args=[*args, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


def test_recover_says_what_it_found_and_fails_only_if_nothing_may_run(
    world: World, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, new = install_two(world)
    assert run(capsys, "recover", "--dir", folder)[1]["results"][0]["result"] == "sound"
    (world.device.folder.blobs / "sha256" / new.model().hex).unlink()
    status, found = run(capsys, "recover", "--dir", folder)
    (result,) = found["results"]
    assert (status, result["result"], result["version"], result["code"]) == (0, "rolled_back", "1.0.0", "blob_missing")
    for path in (world.device.folder.blobs / "sha256").iterdir():
        path.unlink()
    status, found = run(capsys, "recover", "--dir", folder)
    assert (status, found["ok"], found["results"][0]["result"]) == (1, False, "safe")


def test_rollback_asks_and_goes_back(world: World, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    install_two(world)
    assert run_main(device, prog_name="device", args=["rollback", "--dir", folder]) == 130, "nobody said yes"
    assert active(world) == "2.0.0"
    capsys.readouterr()
    assert run(capsys, "rollback", "--dir", folder, "--yes")[1]["version"] == "1.0.0"
    assert active(world) == "1.0.0"


def test_reset_asks_and_forgets(world: World, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    install_two(world)
    assert run_main(device, prog_name="device", args=["reset", "--dir", folder]) == 130
    capsys.readouterr()
    assert run(capsys, "reset", "--dir", folder, "--yes")[1]["running"] == {str(THE_MODEL): None}


def test_explain_tells_each_question_and_the_value_that_decided(
    world: World, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = run(capsys, "explain", "--dir", folder)
    assert (status, found["code"]) == (1, "no_decision")
    world.install()
    _, found = run(capsys, "explain", "--dir", folder)
    assert found["result"] == "installed"
    rules = [step["rule"] for step in found["steps"]]
    assert rules == ["metadata", "offer", "agreement", "memory", "policy", "variant", "selftest", "activated"]
    world.publish(bundle("0.9.0", counter=0))
    world.refusal()
    _, found = run(capsys, "explain", "--dir", folder)
    last = found["steps"][-1]
    assert (found["result"], last["rule"], last["passed"]) == ("refused", "counter_rollback", False)
    assert (last["measured"], last["expected"]) == ("0.0", "at least 0.1")
    assert last["hint"]
    assert run_main(device, prog_name="device", args=["explain", "--dir", folder]) == 0
    text = capsys.readouterr().out
    assert "NO counter_rollback" in text
    assert "running: 1.0.0 (int8)" in text
    assert "measured 0.0; asked for at least 0.1" in text


# The owner's conditions.


def wants(world: World, text: str) -> None:
    world.install()
    world.set_policy(text)
    world.publish(bundle("2.0.0", counter=2, scale=3.0), seq=2)


def test_outside_its_window_a_release_waits_and_inside_it_is_taken(world: World, folder: str) -> None:
    wants(world, '[install]\nwindows = ["02:00-03:00"]')
    assert world.refusal().code == "deferred_window"
    assert world.events()[-1] == ("deferred", "deferred_window")
    told = len(world.server.reports)
    world.refusal()
    assert len(world.server.reports) == told, "told once"
    assert active(world) == "1.0.0"
    world.now = world.now.replace(hour=2, minute=30) + timedelta(days=1)
    world.sim.now = world.now
    world.pass_days(0)
    assert world.poll(selftest=passes).result == "installed"


def test_a_device_whose_window_never_comes_takes_the_release_after_its_days_of_uptime(world: World) -> None:
    wants(world, '[install]\nwindows = ["02:00-03:00"]\nwindow_days = 1')
    for _ in range(3):
        assert world.refusal().code == "deferred_window"
        world.pass_days()
        world.boot = BootTime(f"{world.boot.boot}+", 8 * 3600.0)  # eight hours, off over night
    assert world.poll(selftest=passes).result == "installed"


def test_the_owners_program_is_asked_and_a_no_defers(world: World, tmp_path: Any) -> None:
    mains = tmp_path / "mains"
    asks = f'import sys, pathlib; sys.exit(0 if pathlib.Path("{mains}").exists() else 7)'
    wants(world, f"[install]\nready_command = {json.dumps([sys.executable, '-c', asks])}")
    found = world.refusal()
    assert (found.code, found.actual) == ("deferred_not_ready", "exit status 7")
    mains.touch()
    assert world.poll(selftest=passes).result == "installed"


def test_a_program_that_does_not_start_or_end_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_owner(("/nowhere/ready",)) != 0
    monkeypatch.setattr(conditions, "READY_TIMEOUT_S", 0.2)
    assert ask_owner((sys.executable, "-c", "import time; time.sleep(30)")) != 0
    assert ask_owner((sys.executable, "-c", "")) == 0
