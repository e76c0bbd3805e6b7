"""The worker: what each ending says about when to try again, against the real server; and the command that starts it all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.names import FIRST, SECOND
from device_client.agent import worker
from device_client.agent.agenda import load_plan
from device_client.agent.outcome import ANSWERED, BUSY, FAILED, UNREACHABLE, parse_outcome
from device_client.commands_agent import agent_command
from device_client.errors import IntegrityError, PolicyError, SealiftError, StateError, TransportError, UsageError
from device_client.install.config import parse_config
from device_client.install.folder import open_device
from device_client.install.health import Health, record_health
from device_client.install.http import LostConnectionError, ServerRefusalError
from device_client.install.lock import exclusive
from device_client.install.state import open_state
from tests.threats.town import THE_MODEL
from tests.threats.world import World

ROOT = Path(__file__).parents[3]


def refused(status: int) -> ServerRefusalError:
    return ServerRefusalError(code="x", where="u", actual="a", status=status, problem={})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PolicyError("no", code="verdict_failed"), ANSWERED),
        (IntegrityError("other bytes", code="blob_digest_mismatch"), UNREACHABLE),
        (LostConnectionError("gone", code="transport"), UNREACHABLE),
        (TransportError("slow", code="transport_slow"), UNREACHABLE),
        (refused(503), UNREACHABLE),
        (refused(429), UNREACHABLE),
        (refused(403), ANSWERED),
        (refused(404), ANSWERED),
        (StateError("held", code="busy"), BUSY),
        (StateError("no token", code="not_enrolled"), ANSWERED),
        (StateError("disk full", code="state_unwritable"), FAILED),
        (UsageError("typo", code="device_config"), FAILED),
    ],
)
def test_what_an_error_says_about_the_next_poll(error: SealiftError, kind: str) -> None:
    assert worker.kind_of(error) == kind


def test_a_poll_with_nothing_new_is_two_requests_for_metadata_and_one_of_the_api(real: World) -> None:
    """D2."""
    path = real.device.folder.path
    first = worker.run("poll", path)
    assert (first.kind, first.words) == (ANSWERED, (f"digits/mlp: installed, {SECOND} runs",))
    real.server.gate.requests.clear()
    second = worker.run("poll", path)
    assert second.kind == ANSWERED
    assert second.poll_s is not None
    assert 270 <= second.poll_s <= 330, "the server's wish reaches the schedule"
    assert [name.rpartition("/")[2] for name in real.server.gate.requests] == ["2.root.json", "timestamp.json", "next"]


def test_the_servers_wish_is_known_also_when_it_offers_nothing(real: World) -> None:
    real.poll()
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(real.data / "server.db")) as connection, connection:
        connection.execute("DELETE FROM offers")
    outcome = worker.run("poll", real.device.folder.path)
    assert outcome.words[0].startswith("digits/mlp: none")
    assert outcome.poll_s is not None


def test_no_server_a_held_lock_and_no_device_are_three_different_things(real: World) -> None:
    path = real.device.folder.path
    with exclusive(real.device.folder.lock):
        assert worker.run("poll", path).kind == BUSY
        assert worker.run("tend", path).kind == BUSY
    real.server.stop()
    outcome = worker.run("poll", path)
    assert outcome.kind == UNREACHABLE
    assert outcome.reports_waiting == 1, "that it failed waits to be told"
    assert worker.run("poll", path.parent / "nothing").kind == FAILED
    real.restart_server()
    sent = worker.run("tend", path)
    assert (sent.kind, sent.words, sent.reports_waiting) == (ANSWERED, ("reports: all taken",), 0)


def test_a_bundle_on_probation_is_judged_between_polls_without_a_request_for_metadata(real: World) -> None:
    """A model that fails must not run on until the next poll, which may be a day away."""
    policy = real.device.folder.policy
    policy.write_text(policy.read_text().replace("minutes = 0", "minutes = 10"))
    path = real.device.folder.path
    first = worker.run("poll", path)
    assert (first.words, first.is_watching) == ((f"digits/mlp: installed, {SECOND} runs",), True)
    real.server.gate.requests.clear()
    looked = worker.run("tend", path)
    assert looked.is_watching
    assert looked.words[0] == "digits/mlp: on probation: wait"
    assert real.active_version() == SECOND
    manifest = real.town.second.manifest.digest
    record_health(real.device.folder, THE_MODEL, manifest, Health(runs=10, non_finite=10))
    looked = worker.run("tend", path)
    assert not looked.is_watching
    assert real.active_version() == FIRST
    assert ("rolled_back", "probation_non_finite") in real.told()
    assert {name.partition("/")[2].partition("/")[0] for name in real.server.gate.requests} == {"v1"}, "reports only"


def test_a_device_that_is_not_enrolled_keeps_its_reports_and_asks_at_the_usual_interval(real: World) -> None:
    with open_state(real.device.folder.state) as state, state.transaction():
        state._db.change("UPDATE device SET token = NULL, enrolment = NULL")
    outcome = worker.run("poll", real.device.folder.path)
    assert (outcome.kind, outcome.reports_waiting) == (ANSWERED, 1)


def test_the_worker_as_a_process_prints_one_line_and_ends(real: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "device_client.agent.worker", "poll", str(real.device.folder.path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert parse_outcome(done.stdout).words == (f"digits/mlp: installed, {SECOND} runs",)
    assert done.stdout.count(b"\n") == 1


def test_the_command_becomes_the_agent_and_the_agent_polls_and_ends(real: World) -> None:
    path = real.device.folder.path
    config = real.device.folder.config
    config.write_text(config.read_text() + "[agent]\nserve = false\n")
    command = [sys.executable, "-c", "import sys; from sealift import main; main()", "device", "run", "--dir", str(path), "--json"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        assert running.stderr is not None
        started = json.loads(running.stderr.readline())
        assert (started["event"], started["pid"]) == ("started", running.pid), "exec, not a child"
        assert b"click" not in Path(f"/proc/{running.pid}/maps").read_bytes()
        running.send_signal(signal.SIGHUP)
        events = [json.loads(running.stderr.readline()) for _ in range(5)]
        assert [event["event"] for event in events] == ["begun", "recovered", "begun", "poll", "next"]
        assert events[1]["text"] == "digits/mlp: 1.0.0 is sound"
        assert events[3]["text"] == f"digits/mlp: installed, {SECOND} runs"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.communicate()
    plan = load_plan(str(path))
    assert plan is not None
    assert 270 <= plan.interval_s <= 330
    assert real.active_version() == SECOND


def test_once_ends_with_the_status_of_the_poll(real: World) -> None:
    path = real.device.folder.path
    command = agent_command(path, once=True, as_json=False)
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert f"installed, {SECOND} runs" in done.stderr
    (path / "agent.json").unlink()
    real.server.stop()
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "unreachable" in done.stderr


def test_a_folder_that_is_no_device_is_refused_before_anything_stays(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no device here"):
        agent_command(tmp_path / "nothing", once=False, as_json=False)


CONFIG = """schema = 1
server = "https://models.example"
models = ["a/b"]
root_sha256 = "{digest}"
[agent]
{line}
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("serves = true", "unknown field"),
        ("serve = 1", "wrong type"),
        ("poll_deadline_s = 59", "out of range"),
        ("poll_deadline_s = 604801", "out of range"),
        ("poll_deadline_s = true", "wrong type"),
    ],
)
def test_a_wrong_key_or_value_of_the_agent_is_refused_and_named(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_config(CONFIG.format(digest="0" * 64, line=line).encode(), where="device.toml")
    assert line.partition(" ")[0] in str(caught.value)


def test_the_agents_settings_are_read_and_may_be_left_out(real: World) -> None:
    read = parse_config(
        CONFIG.format(digest="0" * 64, line="serve = false\npoll_deadline_s = 60").encode(), where="device.toml"
    ).agent
    assert (read.serve, read.poll_deadline_s) == (False, 60)
    assert open_device(real.device.folder.path).config.agent.serve is None
