"""The supervisor as a process: signals, children that misbehave, its own death, restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from device_client.agent.agenda import load_plan, save_plan
from device_client.agent.clock import read_boot_clock
from device_client.agent.schedule import Plan
from tests.unit.agent.processes import ANSWER, ENDLESS, GOOD, agent, is_alive, killed_at_end, wait_until

IGNORES_TERM = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('x', flush=True)\n{ENDLESS}"


def test_sighup_polls_now_and_the_plan_of_the_next_poll_is_on_disk(tmp_path: Path) -> None:
    with agent(tmp_path, {"poll": GOOD}) as running:
        started = running.expect("started")
        assert started["next_poll_in_s"] == round(0.99 * 300), "the first poll is a random share of the interval away"
        running.send(signal.SIGHUP)
        assert running.expect("poll")["text"] == "fine"
        assert running.expect("next")["in_s"] == pytest.approx(3000 * 1.098, abs=2)
        kept = load_plan(str(tmp_path))
        assert kept is not None
        assert kept.interval_s == 3000
        running.send(signal.SIGTERM)
        assert running.ended() == 0
        assert running.events[-1]["event"] == "stopped"


def test_polls_come_by_themselves_when_it_is_time(tmp_path: Path) -> None:
    with agent(tmp_path, {"poll": GOOD}, share=0.0, speed=5000.0) as running:
        for _ in range(3):
            running.expect("next")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.abort()", "the worker ended by signal 6"),
        ("raise SystemExit(3)", "the worker failed with status 3"),
        ("pass", "the worker's answer is refused: not JSON"),
        ("print('{')", "the worker's answer is refused: not JSON"),
        ("import sys; sys.stdout.write('x' * 3_000_000)", "the worker's answer is refused: more than 65536 bytes"),
        (f"print('{ANSWER}'); raise SystemExit(1)", "the worker failed with status 1"),
    ],
)
def test_a_worker_that_crashes_or_answers_rubbish_is_a_failed_poll_and_told(tmp_path: Path, script: str, words: str) -> None:
    with agent(tmp_path, {"poll": f"import os\nos.close(2)\n{script}"}) as running:
        running.send(signal.SIGHUP) if running.expect("started") else None
        assert running.expect("poll")["text"] == words
        told = running.expect("next")
        assert (told["kind"], told["failures"]) == ("failed", 1)
        assert told["in_s"] == round(0.99 * 120)


def test_a_worker_that_never_ends_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {IGNORES_TERM!r}])\n{IGNORES_TERM}"
    with agent(tmp_path, {"poll": script}, poll_deadline_s=60.0, speed=30.0) as running:
        running.expect("started")
        running.send(signal.SIGHUP)
        group = running.expect("begun")["pid"]
        running.expect("too long")
        assert running.expect("poll")["text"] == "the worker ended by signal 9"
        wait_until(lambda: not _group(group))


def test_sigterm_ends_the_children_also_one_that_does_not_want_to(tmp_path: Path) -> None:
    tasks = {"poll": IGNORES_TERM, "serve": ENDLESS}
    with agent(tmp_path, tasks, serve=True, speed=10.0) as running:
        service = running.expect("begun")["pid"]
        running.send(signal.SIGHUP)
        worker = running.expect("begun")["pid"]
        assert is_alive(service)
        running.send(signal.SIGTERM)
        assert running.ended() == 0
        assert not is_alive(service)
        assert not is_alive(worker)


def test_a_supervisor_that_is_killed_takes_its_children_with_it(tmp_path: Path) -> None:
    grandchild = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {IGNORES_TERM!r}])\n{ENDLESS}"
    with agent(tmp_path, {"poll": IGNORES_TERM, "serve": grandchild}, serve=True) as running:
        service = running.expect("begun")["pid"]
        running.send(signal.SIGHUP)
        worker = running.expect("begun")["pid"]
        with killed_at_end(service), killed_at_end(worker):
            wait_until(lambda: len(_group(service)) == 2)
            running.send(signal.SIGKILL)
            running.process.wait()
            wait_until(lambda: not _group(service) and not _group(worker))


def test_a_second_agent_on_the_same_folder_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    with agent(tmp_path, {"poll": GOOD}) as first:
        first.expect("started")
        with agent(tmp_path, {"poll": GOOD}) as second:
            assert second.process.wait(60) != 0
            assert second.process.stderr is not None
            assert b"another agent is at work in this folder" in second.process.stderr.read()
        first.send(signal.SIGKILL)
        first.process.wait()
    with agent(tmp_path, {"poll": GOOD}) as third:
        third.expect("started")


def test_a_service_that_ends_is_started_again_and_recovery_comes_before_everything(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    note = "import sys, pathlib\nwith open(pathlib.Path(sys.argv[1]) / 'log', 'a') as f: f.write({!r})\n"
    tasks = {"recover": note.format("r"), "serve": note.format("s"), "poll": GOOD}
    with agent(tmp_path, tasks, serve=True, recover=True, speed=20.0) as running:
        running.expect("recovered")
        for pause in (1, 2, 4):
            assert running.expect("service ended")["again_in_s"] == pause
    assert (tmp_path / "log").read_text()[:3] == "rss"


def test_a_recovery_that_fails_does_not_keep_the_device_from_polling(tmp_path: Path) -> None:
    with agent(tmp_path, {"recover": "raise SystemExit(1)", "poll": GOOD}, recover=True) as running:
        running.send(signal.SIGHUP) if running.expect("recovery failed") else None
        running.expect("next")


def test_an_agent_that_crashes_in_each_poll_does_not_poll_in_a_storm(tmp_path: Path) -> None:
    for crashes in range(1, 4):
        with agent(tmp_path, {"poll": ENDLESS}) as running:
            wait_s = running.expect("started")["next_poll_in_s"]
            if crashes > 1:
                assert wait_s > 100, "what is left of the back-off"
            running.send(signal.SIGHUP)
            running.expect("begun")
            running.send(signal.SIGKILL)
            running.process.wait()
        kept = load_plan(str(tmp_path))
        assert kept is not None
        assert kept.failures == crashes


def test_once_polls_when_it_is_time_and_not_before(tmp_path: Path) -> None:
    with agent(tmp_path, {"poll": GOOD}, once=True) as running:
        assert running.ended() == 0
        assert [event["event"] for event in running.events] == ["begun", "poll", "next"]
    with agent(tmp_path, {"poll": "raise SystemExit(9)"}, once=True) as running:
        assert running.ended() == 0
        assert running.events[0]["event"] == "not due"
    now = read_boot_clock()
    save_plan(str(tmp_path), Plan(now.boot, now.seconds))
    with agent(tmp_path, {"poll": "raise SystemExit(9)"}, once=True) as running:
        assert running.ended() == 1


def test_waiting_reports_are_sent_between_polls(tmp_path: Path) -> None:
    waiting = ANSWER.replace('"reports_waiting": 0', '"reports_waiting": 2')
    with agent(tmp_path, {"poll": f"print('{waiting}')", "tend": GOOD}, share=0.5, speed=50.0) as running:
        running.send(signal.SIGHUP) if running.expect("started") else None
        assert running.expect("next")["reports_waiting"] == 2
        running.expect("tend")
        assert running.expect("next")["reports_waiting"] == 0


def test_the_manager_hears_ready_watchdog_and_stopping_and_children_do_not_know_it(tmp_path: Path) -> None:
    script = f"import os, json\nprint('{ANSWER}'.replace('fine', str('NOTIFY_SOCKET' in os.environ)))"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with agent(tmp_path, {"poll": script}, environment=environment) as running:
            heard = [manager.recv(500) for _ in range(3)]
            assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            running.expect("started")
            running.send(signal.SIGHUP)
            assert running.expect("poll")["text"] == "False"
            running.send(signal.SIGTERM)
            assert running.ended() == 0
        heard = []
        while b"STOPPING=1" not in heard:
            heard.append(manager.recv(500))
        assert any(message.startswith(b"STATUS=False; next in") for message in heard)


def test_a_folder_that_cannot_be_written_is_told_once_and_polling_goes_on(tmp_path: Path) -> None:
    (tmp_path / "agent.json.new").mkdir()
    with agent(tmp_path, {"poll": GOOD}) as running:
        running.expect("started")
        for _ in range(2):
            running.send(signal.SIGHUP)
            running.expect("next")
        assert [event["event"] for event in running.events].count("cannot save") == 1


def test_the_resident_process_loads_nothing_but_its_own_package_errors_and_the_standard_library(tmp_path: Path) -> None:
    script = (
        "import json, sys; import device_client.agent.supervisor\n"
        "print(json.dumps(sorted(name for name in sys.modules if not name.startswith('device_client.agent'))))"
    )
    import subprocess
    import sys

    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{script}"],
        capture_output=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout))
    ours = {name for name in loaded if name.partition(".")[0] == "device_client"}
    assert ours == {"device_client", "device_client.errors"}
    assert {name.partition(".")[0] for name in loaded - ours} <= set(sys.stdlib_module_names) | {"__main__"}
    heavy = {"ssl", "asyncio", "email", "logging", "ctypes", "http", "urllib", "socket", "sqlite3", "pathlib", "typing", "hashlib"}
    assert not loaded & heavy


def _group(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found
