"""One process at a time, and no lock outlives its holder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_client.errors import StateError
from device_client.install.lock import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from device_client.install.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_turned_away_and_may_come_later(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path):
        with pytest.raises(StateError) as caught, exclusive(path):
            raise AssertionError("not reached")
        assert caught.value.code == "busy"
    with exclusive(path):
        pass


def test_a_waiting_process_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(path):
            held.set()
            done.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    threading.Timer(0.1, done.set).start()
    with exclusive(path, timeout_s=5):
        pass
    thread.join()


def test_a_lock_held_by_a_killed_process_is_free_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "held"
    with pytest.raises(StateError), exclusive(path):
        raise AssertionError("not reached")
    child.kill()
    child.wait()
    child.stdout.close()
    begin = time.monotonic()
    with exclusive(path):
        assert time.monotonic() - begin < 1


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(StateError), exclusive(tmp_path / "lock"):
        raise AssertionError("not reached")
    assert not (tmp_path / "target").exists()
