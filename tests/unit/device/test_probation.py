"""A new bundle is watched: committed when it was observed good, rolled back when not, and nothing remembered moves before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from device_client.bundle.counter import Counter
from device_client.errors import StateError
from device_client.install import boot
from device_client.install.health import Health, record_health, record_vote
from device_client.install.lock import exclusive
from device_client.install.machine import State
from device_client.policy.probation import Observation
from device_client.trust.trusted_time import BootTime
from tests.unit.device.standing import active, passes
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle

WATCHED = "[probation]\nminutes = 10\n"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """1.0.0 is committed; what comes is watched for ten minutes, by the world's clocks."""
    made = World(tmp_path / "device")
    real = boot.judge
    monkeypatch.setattr(boot, "judge", lambda folder, model: real(folder, model, clock=made.clock, uptime=made.uptime))
    made.install("1.0.0", counter=1, scale=2.0)
    made.set_policy(WATCHED)
    return made


def update(world: World, version: str = "2.0.0", *, counter: int = 2, scale: float = 3.0) -> Bundle:
    made = bundle(version, counter=counter, scale=scale)
    world.publish(made)
    assert world.poll(selftest=passes).result == "installed"
    return made


def minutes_pass(world: World, minutes: float) -> None:
    world.boot = BootTime(world.boot.boot, world.boot.seconds + 60 * minutes)


def restart(world: World) -> None:
    world.boot = BootTime(f"{world.boot.boot}+", 5.0)


def memory(world: World) -> tuple[Counter | None, Counter | None, set[str]]:
    with world.state() as state:
        found = state.memory(THE_MODEL)
        return found.counter, found.floor, set(found.versions)


def rests(world: World) -> State:
    with world.state() as state:
        return state.progress(THE_MODEL).state


def test_a_watched_bundle_runs_and_moves_neither_counter_floor_nor_name_until_it_is_committed(world: World) -> None:
    before = memory(world)
    update(world)
    assert (active(world), world.running(), rests(world)) == ("2.0.0", 3.0, State.PROBATION)
    assert memory(world) == before
    assert world.events()[-1] == ("activated", None)
    minutes_pass(world, 9.9)
    world.poll()
    assert memory(world) == before
    minutes_pass(world, 0.1)
    world.poll()
    assert memory(world) == (Counter(0, 2), Counter(0, 0), {"1.0.0", "2.0.0"})
    assert rests(world) is State.IDLE
    assert world.events()[-1] == ("installed", None)
    assert [event for event, _ in world.events()].count("installed") == 2, "one for each deployment"


def fails(world: World, made: Bundle) -> None:
    record_health(world.device.folder, THE_MODEL, made.digest, Health(runs=5, failures=1))


def gives_nan(world: World, made: Bundle) -> None:
    record_health(world.device.folder, THE_MODEL, made.digest, Health(runs=5, non_finite=1))


def crashes(world: World, made: Bundle) -> None:
    for _ in range(3):
        record_health(world.device.folder, THE_MODEL, made.digest, Health(crashes=1))


def is_voted_down(world: World, made: Bundle) -> None:
    record_vote(world.device.folder, THE_MODEL, made.digest, good=False)


def restarts_the_machine(world: World, made: Bundle) -> None:
    for _ in range(4):
        restart(world)
        world.server.is_down = True
        world.refusal()
    world.server.is_down = False


FAULTS: dict[str, tuple[Callable[[World, Bundle], None], str]] = {
    "the runtime fails on it": (fails, "probation_failures"),
    "it gives numbers that are none": (gives_nan, "probation_non_finite"),
    "its process ends again and again": (crashes, "probation_crashes"),
    "an application votes against it": (is_voted_down, "probation_vote"),
    "the machine starts again and again": (restarts_the_machine, "probation_boots"),
}


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bundle_is_rolled_back_told_once_and_not_taken_again_when(
    world: World, fault: Callable[[World, Bundle], None], code: str
) -> None:
    before = memory(world)
    made = update(world)
    fault(world, made)
    if code != "probation_boots":
        assert world.refusal().code == "known_bad", "the server still offers it"
    else:
        world.refusal()
    assert (active(world), world.running()) == ("1.0.0", 2.0)
    assert memory(world) == before, "the counter has not advanced"
    told = world.events()
    assert told.count(("rolled_back", code)) == 1
    for _ in range(3):
        assert world.refusal().code == "known_bad", "no loop"
    assert world.events().count(("rolled_back", code)) == 1
    assert ("installed", None) not in told[2:], "one outcome for each deployment"
    update(world, "2.0.1", counter=3, scale=4.0)
    assert active(world) == "2.0.1"


def test_a_vote_against_it_is_acted_upon_at_once_without_a_poll(world: World) -> None:
    made = update(world)
    record_vote(world.device.folder, THE_MODEL, made.digest, good=True)
    assert active(world) == "2.0.0"
    record_vote(world.device.folder, THE_MODEL, made.digest, good=False)
    assert (active(world), world.running()) == ("1.0.0", 2.0)


def test_while_a_poll_is_at_work_the_vote_is_counted_and_judged_at_the_next(world: World) -> None:
    made = update(world)
    with exclusive(world.device.folder.lock):
        record_vote(world.device.folder, THE_MODEL, made.digest, good=False)
        assert active(world) == "2.0.0"
    world.refusal()
    assert active(world) == "1.0.0"


def test_what_is_told_of_another_bundle_changes_nothing(world: World) -> None:
    made = update(world)
    other = bundle("9.0.0", counter=9)
    record_vote(world.device.folder, THE_MODEL, other.digest, good=False)
    with world.state() as state:
        found = state.probation(THE_MODEL)
    assert found is not None
    assert (found.manifest, found.seen) == (made.digest, Observation())


def test_a_bundle_that_nobody_used_was_not_observed_good(world: World) -> None:
    world.set_policy("[probation]\nminutes = 10\nmin_runs = 100\nmax_hours = 1\n")
    made = update(world)
    minutes_pass(world, 30)
    record_health(world.device.folder, THE_MODEL, made.digest, Health(runs=99))
    world.poll()
    assert rests(world) is State.PROBATION
    minutes_pass(world, 30)
    world.refusal()
    assert active(world) == "1.0.0"
    assert ("rolled_back", "probation_unobserved") in world.events()


def test_probation_time_goes_on_over_restarts_and_no_wall_clock_counts(world: World) -> None:
    before = memory(world)
    update(world)
    minutes_pass(world, 6)
    world.poll()
    restart(world)
    world.pass_days(20)
    world.poll()
    assert memory(world) == before, "days on the wall, seconds of uptime"
    minutes_pass(world, 4)
    world.poll()
    assert memory(world)[0] == Counter(0, 2)


def test_a_newer_release_overtakes_a_watched_one_and_goes_back_past_it(world: World) -> None:
    update(world)
    newest = update(world, "3.0.0", counter=3, scale=5.0)
    assert world.events()[-2:] == [("failed", "superseded"), ("activated", None)]
    record_vote(world.device.folder, THE_MODEL, newest.digest, good=False)
    world.refusal()
    assert (active(world), world.running()) == ("1.0.0", 2.0), "2.0.0 was never observed good"


def test_nothing_below_a_watched_bundle_is_taken_and_its_name_means_one_bundle(world: World) -> None:
    update(world, counter=5)
    world.publish(bundle("1.9.0", counter=4))
    assert world.refusal().code == "counter_rollback"
    world.publish(bundle("2.0.0", counter=6, scale=9.0))
    assert world.refusal().code == "equivocation"


def test_the_first_bundle_ever_that_fails_leaves_the_device_safe_and_polling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "device")
    monkeypatch.setattr(boot, "judge", lambda *_: None)
    world.set_policy(WATCHED)
    made = update(world, "1.0.0", counter=1)
    record_vote(world.device.folder, THE_MODEL, made.digest, good=False)
    assert world.refusal().code == "known_bad"
    with world.state() as state:
        assert state.active(THE_MODEL) is None
    assert rests(world) is State.SAFE
    assert ("alarm", "safe") in world.events()
    with pytest.raises(StateError) as caught:
        world.running()
    assert caught.value.code == "safe"
    update(world, "1.0.1", counter=2, scale=4.0)
    assert (world.running(), rests(world)) == (4.0, State.PROBATION)


def test_a_watched_bundle_that_is_withdrawn_is_fallen_back_from_and_watched_no_longer(world: World) -> None:
    made = update(world)
    world.audit_entry(made, seq=9, status="withdrawn")
    world.sim.publish("audit-digits")
    world.refusal()
    assert active(world) == "1.0.0"
    with world.state() as state:
        assert state.probation(THE_MODEL) is None
    assert rests(world) is State.IDLE


def test_a_state_that_somebody_wrote_is_not_committed(world: World) -> None:
    update(world)
    before = memory(world)
    with world.state() as state, state.transaction():
        state._db.change("UPDATE deployments SET n = 2000000000 WHERE version = '2.0.0'")
    minutes_pass(world, 11)
    world.refusal()
    assert memory(world) == before, "a counter that nobody signed would have locked every release out"
    assert active(world) == "1.0.0"
    assert ("rolled_back", "evidence_mismatch") in world.events()
