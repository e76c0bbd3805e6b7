"""The rules of swap, back-off and waiting, one by one, with workers that do what a test tells them to, and a clock of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from device_client.bundle import Counter, Digest, ModelPath
from device_client.errors import IntegrityError, PolicyError, SealiftError, StateError, TransportError
from device_client.install.folder import DeviceFolder
from device_client.install.health import Health
from device_client.install.state import Deployment
from device_client.service import pool as pool_module
from device_client.service.counts import EVERY_RUNS, EVERY_S, HealthCounts
from device_client.service.pool import StateWatch
from device_client.service.slot import FIRST_PAUSE_S, GOOD_LIFE_S, LONGEST_PAUSE_S, Slot, Target
from device_client.service.worker_process import Answer, WorkerDiedError
from device_client.trust.times import utc_now

MODEL = ModelPath("digits", "ocr")


def deployment(version: str) -> Deployment:
    return Deployment(
        MODEL, version, Digest.of(version.encode()), "int8", Digest.of(b"v" + version.encode()), Counter(0, 1), 1, utc_now()
    )


@dataclass
class FakeWorker:
    deployment: Deployment
    work: Callable[[], object] = lambda: None
    is_alive: bool = True
    pid: int = 1
    network: str = "none"
    privileges: str = "none"
    files: str = "none"

    @property
    def manifest(self) -> Digest:
        return self.deployment.manifest

    def infer(self, tensors: object, *, timeout_s: float) -> Answer:
        self.work()
        return Answer((), True)

    def kill(self) -> None:
        self.is_alive = False


@dataclass
class Bench:
    """A slot with all that is around it."""

    now: float = 1000.0
    active: Deployment = field(default_factory=lambda: deployment("1"))
    fails: SealiftError | None = None
    started: list[FakeWorker] = field(default_factory=list)
    recorded: list[Health] = field(default_factory=list)
    before_start: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.counts = HealthCounts(lambda _model, _manifest, health: self.recorded.append(health))
        self.slot = Slot(MODEL, find=self.find, start=self.start, counts=self.counts, clock=lambda: self.now)
        self.aim()

    def find(self) -> Any:
        return SimpleNamespace(deployment=self.active)

    def start(self, installed: Any) -> Any:
        self.before_start()
        if self.fails is not None:
            raise self.fails
        self.started.append(FakeWorker(installed.deployment))
        return self.started[-1]

    def aim(self) -> None:
        self.slot.aim(Target(self.active.manifest))

    def infer(self, timeout_s: float = 5.0) -> str:
        return self.slot.infer((), timeout_s=timeout_s)[0].version

    def settle(self) -> None:
        """Waits for a load that is under way."""
        loader = self.slot._loader
        if loader is not None:
            loader.join()

    def crash(self) -> None:
        def die() -> None:
            raise WorkerDiedError("died", code="worker_crashed")

        self.started[-1].work = die
        with pytest.raises(WorkerDiedError):
            self.infer()

    def health(self) -> Health:
        self.counts.hand_over(self.now)
        return (
            Health(*(sum(each) for each in zip(*(vars(h).values() for h in self.recorded), strict=True)))
            if self.recorded
            else Health()
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_starts_before_somebody_asks_and_then_once(bench: Bench) -> None:
    bench.slot.follow()
    assert not bench.started
    assert [bench.infer() for _ in range(3)] == ["1"] * 3
    assert len(bench.started) == 1
    assert bench.health() == Health(runs=3)


def test_a_new_bundle_takes_over_when_ready_and_the_old_worker_finishes_first(bench: Bench) -> None:
    bench.infer()
    old, may_end, began = bench.started[0], threading.Event(), threading.Event()
    old.work = lambda: (began.set(), may_end.wait(10))
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(bench.infer()))
    thread.start()
    assert began.wait(10)
    bench.active = deployment("2")
    bench.aim()
    bench.settle()
    assert bench.infer() == "2"
    assert old.is_alive, "it still works on a request"
    may_end.set()
    thread.join()
    assert results == ["1"]
    assert not old.is_alive


def test_requests_go_to_the_old_worker_until_the_new_one_is_ready(bench: Bench) -> None:
    bench.infer()
    is_loading, may_load = threading.Event(), threading.Event()
    bench.before_start = lambda: (is_loading.set(), may_load.wait(10))
    bench.active = deployment("2")
    bench.aim()
    assert is_loading.wait(10)
    assert bench.infer() == "1"
    may_load.set()
    bench.settle()
    assert bench.infer() == "2"


def test_a_new_bundle_that_does_not_load_is_tried_again_after_growing_pauses_while_the_old_one_runs(bench: Bench) -> None:
    bench.infer()
    bench.fails = IntegrityError("damaged", code="blob_digest_mismatch")
    bench.active = deployment("2")
    bench.aim()
    for pause in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S):
        bench.settle()
        attempts = bench.slot._attempts
        bench.now += pause * 0.9
        bench.slot.follow()
        bench.settle()
        assert bench.slot._attempts == attempts, "not before the pause is over"
        assert bench.infer() == "1"
        bench.now += pause * 0.2
        bench.slot.follow()
    bench.settle()
    assert bench.slot._attempts == 5
    assert bench.health() == Health(runs=4, crashes=4)
    bench.fails = None
    bench.active = deployment("3")  # another bundle has another chance, at once
    bench.aim()
    bench.settle()
    assert bench.infer() == "3"


@pytest.mark.parametrize("error", [StateError("full", code="store_unreadable"), PolicyError("no", code="stopped_by_policy")])
def test_a_disk_or_a_policy_that_says_no_is_not_counted_against_the_bundle(bench: Bench, error: SealiftError) -> None:
    bench.fails = error
    with pytest.raises(type(error)):
        bench.infer()
    assert bench.health() == Health()


def test_pauses_after_crashes_grow_to_a_bound_and_begin_anew_after_a_good_life(bench: Bench) -> None:
    pauses = []
    for _ in range(10):
        bench.now = max(bench.now, bench.slot._not_before)
        bench.infer()
        bench.crash()
        pauses.append(bench.slot._pause_s)
    assert pauses == [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(10)]
    bench.now = bench.slot._not_before
    bench.infer()
    bench.now += GOOD_LIFE_S
    bench.crash()
    assert bench.slot._pause_s == FIRST_PAUSE_S


def test_who_cannot_wait_for_the_end_of_the_pause_hears_so_at_once(bench: Bench) -> None:
    for _ in range(4):
        bench.now = max(bench.now, bench.slot._not_before)
        bench.infer()
        bench.crash()
    begun = time.monotonic()
    with pytest.raises(TransportError) as caught:
        bench.infer(timeout_s=1.0)
    assert caught.value.code == "worker_restarting"
    assert time.monotonic() - begun < 5


def test_who_can_wait_gets_the_next_worker() -> None:
    bench = Bench()
    bench.slot._clock = time.monotonic
    bench.infer()
    bench.crash()
    assert bench.infer() == "1"
    assert len(bench.started) == 2


def test_a_request_that_waited_for_its_turn_at_a_worker_that_died_goes_to_the_next(bench: Bench) -> None:
    bench.slot._clock = time.monotonic
    bench.infer()
    first, began, may_die = bench.started[0], threading.Event(), threading.Event()

    def die() -> None:
        began.set()
        may_die.wait(10)
        first.is_alive = False
        raise WorkerDiedError("died", code="worker_crashed")

    first.work = die
    outcomes: list[str] = []

    def ask() -> None:
        try:
            outcomes.append(bench.infer())
        except WorkerDiedError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    threads[0].start()
    assert began.wait(10)
    for thread in threads[1:]:
        thread.start()
    while first.deployment and bench.slot._current is not None and bench.slot._current.requests < 4:
        time.sleep(0.01)
    may_die.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["1", "1", "1", "worker_crashed"]
    assert bench.health() == Health(runs=4, crashes=1)


def test_when_others_come_first_for_too_long_the_request_hears_so(bench: Bench) -> None:
    bench.infer()
    began, may_end = threading.Event(), threading.Event()
    bench.started[0].work = lambda: (began.set(), may_end.wait(10))
    thread = threading.Thread(target=bench.infer)
    thread.start()
    assert began.wait(10)
    with pytest.raises(TransportError) as caught:
        bench.infer(timeout_s=0.05)
    assert caught.value.code == "worker_busy"
    may_end.set()
    thread.join()


def test_a_load_that_ends_after_the_model_was_stopped_runs_nothing(bench: Bench) -> None:
    is_loading, may_load = threading.Event(), threading.Event()
    bench.before_start = lambda: (is_loading.set(), may_load.wait(10))
    outcomes: list[str] = []

    def ask() -> None:
        try:
            bench.infer()
        except PolicyError as error:
            outcomes.append(error.code)

    thread = threading.Thread(target=ask)
    thread.start()
    assert is_loading.wait(10)
    bench.slot.aim(Target(None, PolicyError("no", code="stopped_by_policy")))
    may_load.set()
    thread.join()
    bench.settle()
    assert outcomes == ["stopped_by_policy"]
    assert not bench.started[0].is_alive
    assert bench.slot.running is None


def test_a_loader_that_falls_over_leaves_nobody_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    bench.before_start = lambda: 1 / 0
    with pytest.raises(StateError) as caught:
        bench.infer()
    assert caught.value.code == "worker_unavailable"


def test_after_close_nothing_runs_and_nothing_starts(bench: Bench) -> None:
    bench.infer()
    bench.slot.close(grace_s=1.0)
    assert not bench.started[0].is_alive
    with pytest.raises(StateError) as caught:
        bench.infer()
    assert caught.value.code == "service_ending"
    assert len(bench.started) == 1


# Health.


def test_counts_are_due_after_half_a_minute_or_a_thousand_runs_and_survive_a_busy_database() -> None:
    handed: list[Health] = []
    busy = [True]

    def record(_model: ModelPath, _manifest: Digest, health: Health) -> None:
        if busy[0]:
            raise StateError("busy", code="state_unwritable")
        handed.append(health)

    counts, manifest = HealthCounts(record), Digest.of(b"")
    counts.hand_over(100.0)
    assert not counts.is_due(1000.0), "nothing to hand over"
    counts.add(MODEL, manifest, Health(runs=2, failures=1))
    assert not counts.is_due(100.0 + EVERY_S - 1)
    assert counts.is_due(100.0 + EVERY_S)
    counts.add(MODEL, manifest, Health(runs=EVERY_RUNS - 2, non_finite=3))
    assert counts.is_due(101.0)
    counts.hand_over(101.0)
    busy[0] = False
    counts.add(MODEL, manifest, Health(crashes=1))
    counts.hand_over(102.0)
    assert handed == [Health(runs=EVERY_RUNS, failures=1, non_finite=3, crashes=1)]
    counts.hand_over(103.0)
    assert len(handed) == 1, "handed over once"


def test_impossible_health_is_a_programming_error() -> None:
    for counts in ({"runs": -1}, {"runs": 1, "failures": 2}, {"non_finite": 1}):
        with pytest.raises(ValueError, match="impossible"):
            Health(**counts)


# The look at the database.


def test_a_change_is_seen_again_until_it_has_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, now = DeviceFolder(tmp_path), [50.0]
    folder.state.write_bytes(b"1")
    wall = [folder.state.stat().st_mtime_ns]
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(time_ns=lambda: wall[0], monotonic=time.monotonic))
    watch = StateWatch(folder, clock=lambda: now[0])
    assert watch.has_changed()
    assert watch.has_changed(), "it may change again within the same tick of the file's clock"
    wall[0] += 2_000_000_000
    assert watch.has_changed()
    assert not watch.has_changed()
    Path(f"{folder.state}-wal").write_bytes(b"x")
    wall[0] = Path(f"{folder.state}-wal").stat().st_mtime_ns + 2_000_000_000
    assert watch.has_changed()
    assert not watch.has_changed()
    now[0] += 31
    assert watch.has_changed(), "in any case, now and then"
    watch.forget()
    assert watch.has_changed()
