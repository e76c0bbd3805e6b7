"""Updates, stops and files that change on the disk, while clients ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from device_client.bundle import Digest
from device_client.install.health import Health
from device_client.service.client import InferenceClient, ServiceError
from tests.unit.device.world import THE_MODEL
from tests.unit.service.conftest import Town

X = np.array([[1, 2, 3]], np.float32)
Connect = Callable[[], InferenceClient]


def eventually(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


def damage(town: Town, digest: Digest) -> None:
    path = town.device.folder.blobs / "sha256" / digest.hex
    path.chmod(0o600)
    path.write_bytes((data := path.read_bytes())[:-1] + bytes([data[-1] ^ 1]))


@contextmanager
def asking(town: Town, *, clients: int) -> Iterator[list[tuple[str, float]]]:
    """Clients that ask without a pause; yields version and result of each answer. An error in one fails the test."""
    answers: list[tuple[str, float]] = []
    errors: list[Exception] = []
    ending = threading.Event()

    def ask() -> None:
        try:
            with InferenceClient(town.socket) as client:
                while not ending.is_set():
                    result = client.run("ocr", {"x": X})
                    answers.append((result.version, float(result.outputs["y"][0, 0])))
        except Exception as error:  # noqa: BLE001  # told by the test
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_an_update_takes_over_without_refusing_a_single_request(town: Town) -> None:
    town.release("1.0.0", counter=1, scale=2.0)
    with town.serving() as server, asking(town, clients=3) as answers:
        eventually(lambda: len(answers) >= 20)
        first = server.pool.slot(THE_MODEL).pid
        town.release("2.0.0", counter=2, scale=5.0)
        eventually(lambda: answers[-1][0] == "2.0.0")
        seen = len(answers)
        eventually(lambda: len(answers) >= seen + 20)
        assert first is not None
        eventually(lambda: not Path(f"/proc/{first}").exists())
    assert set(answers) == {("1.0.0", 2.0), ("2.0.0", 5.0)}, "each version computes what it computes"


def test_an_update_that_does_not_load_leaves_the_old_one_running_and_is_counted(town: Town) -> None:
    old = town.release("1.0.0", counter=1, scale=2.0)
    with town.serving() as server:
        with asking(town, clients=1) as answers:
            eventually(lambda: len(answers) > 0)
            new = town.release("2.0.0", counter=2, scale=5.0)
            damage(town, new.model())  # before the keeper's next look
            eventually(lambda: server.pool.slot(THE_MODEL)._attempts >= 2)
        assert {version for version, _ in answers} == {"1.0.0"}
    assert town.total(new).crashes >= 1
    assert town.total(old).crashes == 0
    assert town.total(old).runs == len(answers)


def test_a_stopped_model_has_no_worker_and_runs_again_when_it_may(town: Town, connect: Connect) -> None:
    town.release("1.0.0", counter=1)
    with town.serving() as server:
        client = connect()
        client.run("ocr", {"x": X})
        pid = server.pool.slot(THE_MODEL).pid
        with town.state() as state, state.transaction():
            state.stop(THE_MODEL, code="withdrawn", now=town.now)
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        with pytest.raises(ServiceError) as caught:
            client.run("ocr", {"x": X})
        assert caught.value.code == "stopped_by_policy"
        assert "withdrawn" in str(caught.value.actual)
        assert client.models()[0]["state"] == "stopped_by_policy"
        with town.state() as state, state.transaction():
            state.unstop(THE_MODEL)

        def runs() -> bool:
            try:
                return client.run("ocr", {"x": X}).version == "1.0.0"
            except ServiceError:
                return False

        eventually(runs)


def test_a_model_that_is_not_installed_says_so_and_runs_as_soon_as_it_is(town: Town, connect: Connect) -> None:
    with town.serving():
        client = connect()
        for _ in range(2):
            with pytest.raises(ServiceError) as caught:
                client.run("ocr", {"x": X})
            assert caught.value.code == "not_installed"
        town.release("1.0.0", counter=1)
        time.sleep(1.5)  # the keeper's next look
        assert client.run("ocr", {"x": X}).version == "1.0.0"


def test_a_model_swapped_on_the_disk_before_it_is_loaded_does_not_run(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1)
    damage(town, made.model())
    with town.serving():
        client = connect()
        with pytest.raises(ServiceError) as caught:
            client.run("ocr", {"x": X})
        assert caught.value.code == "blob_damaged"
        assert str(made.model()) in str(caught.value)
    assert town.total(made) == Health(crashes=1)


def test_a_model_swapped_on_the_disk_while_it_runs_changes_nothing(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1, scale=2.0)
    with town.serving():
        client = connect()
        before = client.run("ocr", {"x": X}).outputs["y"]
        damage(town, made.model())
        np.testing.assert_array_equal(client.run("ocr", {"x": X}).outputs["y"], before)
        (town.device.folder.blobs / "sha256" / made.model().hex).unlink()
        np.testing.assert_array_equal(client.run("ocr", {"x": X}).outputs["y"], before)


def test_a_database_that_is_gone_for_a_moment_stops_nothing(town: Town, connect: Connect) -> None:
    town.release("1.0.0", counter=1)
    with town.serving() as server:
        client = connect()
        client.run("ocr", {"x": X})
        state = town.device.folder.state
        aside = state.with_name("aside")
        state.rename(aside)
        server.pool.look()
        assert client.run("ocr", {"x": X}).version == "1.0.0"
        aside.rename(state)
        server.pool.look()
        assert client.run("ocr", {"x": X}).version == "1.0.0"
