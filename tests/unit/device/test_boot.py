"""At boot only what both roles signed for, whole, runs; else the device goes back by itself, and says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from device_client.errors import PolicyError, SealiftError, TrustError
from device_client.install.boot import Recovered, recover
from device_client.install.by_hand import reset, roll_back_by_hand
from device_client.install.installed import verify_installed
from device_client.install.machine import State
from device_client.trust.trusted_time import BootTime
from tests.simulator import AUDIT, RELEASE
from tests.unit.device.standing import active, install_two, passes
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "device")


def boot(world: World) -> Recovered:
    world.boot = BootTime(f"{world.boot.boot}+", 5.0)
    (found,) = recover(world.device, clock=world.clock, uptime=world.uptime)
    return found


def sql(world: World, statement: str, *values: object) -> None:
    with world.state() as state, state.transaction():
        state._db.change(statement, *values)


def test_a_sound_device_boots_offline_whatever_has_expired(world: World) -> None:
    install_two(world)
    world.now += timedelta(days=3000)
    found = boot(world)
    assert (found.result, found.code, world.running()) == ("sound", None, 3.0)


def test_a_device_without_any_model_says_so_and_is_not_safe_mode(world: World) -> None:
    assert boot(world).result == "none"
    with world.state() as state:
        assert state.progress(THE_MODEL).state is State.IDLE


def damage_model(world: World, _: Bundle, new: Bundle) -> None:
    path = world.device.folder.blobs / "sha256" / new.model().hex
    path.chmod(0o600)
    path.write_bytes((data := path.read_bytes())[:-1] + bytes([data[-1] ^ 1]))


def lose_contract(world: World, _: Bundle, new: Bundle) -> None:
    (world.device.folder.blobs / "sha256" / new.digest.hex).unlink()


def name_the_old_manifest(world: World, old: Bundle, _: Bundle) -> None:
    sql(world, "UPDATE deployments SET manifest = ? WHERE version = '2.0.0'", str(old.digest))


def name_other_bytes(world: World, old: Bundle, _: Bundle) -> None:
    sql(world, "UPDATE deployments SET variant_digest = ? WHERE version = '2.0.0'", str(old.model()))


def raise_the_counter(world: World, _: Bundle, new: Bundle) -> None:
    sql(world, "UPDATE deployments SET n = 77 WHERE version = '2.0.0'")


def rename(world: World, _: Bundle, new: Bundle) -> None:
    sql(world, "UPDATE deployments SET version = '2.0.9' WHERE version = '2.0.0'")


def lose_a_role(world: World, _: Bundle, new: Bundle) -> None:
    sql(world, "DELETE FROM evidence WHERE name = ? AND deployment = 2", f"{AUDIT}.json")


def swap_the_role_files(world: World, _: Bundle, new: Bundle) -> None:
    sql(world, "UPDATE evidence SET data = (SELECT data FROM evidence WHERE name = 'targets.json' AND deployment = 2)"
               " WHERE name = ? AND deployment = 2", f"{RELEASE}.json")  # fmt: skip


def take_a_signature(world: World, _: Bundle, new: Bundle) -> None:
    with world.state() as state:
        found = state.active(THE_MODEL)
        assert found is not None
        data = state.evidence(found)[f"{RELEASE}.json"]
    import json

    role = json.loads(data)
    role["signatures"][0]["sig"] = role["signatures"][1]["sig"] if len(role["signatures"]) > 1 else "00" * 64
    sql(world, "UPDATE evidence SET data = ? WHERE name = ? AND deployment = 2", json.dumps(role).encode(), f"{RELEASE}.json")


FAULTS: dict[str, tuple[Callable[[World, Bundle, Bundle], None], str]] = {
    "a byte of the model is another": (damage_model, "blob_damaged"),
    "the manifest is gone": (lose_contract, "blob_missing"),
    "the state names another manifest": (name_the_old_manifest, "evidence_mismatch"),
    "the state names other bytes for the runtime": (name_other_bytes, "evidence_mismatch"),
    "the state names another counter": (raise_the_counter, "evidence_mismatch"),
    "the state names another version": (rename, "release_entry_missing"),
    "the audit role is gone from the evidence": (lose_a_role, "evidence_missing"),
    "a role file stands in for another": (swap_the_role_files, "signature_threshold"),
    "a signature is missing": (take_a_signature, "signature_threshold"),
}


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_a_device_goes_back_by_itself_and_says_why_when(
    world: World, fault: Callable[[World, Bundle, Bundle], None], code: str
) -> None:
    old, new = install_two(world)
    fault(world, old, new)
    found = boot(world)
    assert (found.result, found.code) == ("rolled_back", code)
    assert (active(world), world.running()) == ("1.0.0", 2.0)
    with world.state() as state:
        assert state.memory(THE_MODEL).counter == new.contract.counter, "nothing remembered came down"
    assert boot(world).result == "sound", "and stays"
    world.poll(selftest=passes)
    assert ("rolled_back", code) in world.events()


@pytest.mark.parametrize(("fault", "code"), list(FAULTS.values())[2:], ids=list(FAULTS.keys())[2:])
def test_at_the_first_open_too_the_state_alone_cannot_choose_a_model_when(
    world: World, fault: Callable[[World, Bundle, Bundle], None], code: str
) -> None:
    old, new = install_two(world)
    fault(world, old, new)
    with pytest.raises(SealiftError) as caught:
        world.running()
    assert caught.value.code == code


def test_with_nothing_left_the_device_is_safe_polls_on_and_recovers_by_the_next_release(world: World) -> None:
    made = world.install()
    damage_model(world, made, made)
    found = boot(world)
    assert (found.result, found.code) == ("safe", "blob_damaged")
    with pytest.raises(SealiftError):
        world.running()
    assert boot(world).result == "safe"
    assert world.poll(selftest=passes).result == "installed", "the same bytes, fetched again: the disk was at fault, not the model"
    assert world.running() == 2.0
    assert ("alarm", "safe") in world.events()


def test_evidence_of_rotated_roots_is_followed_from_the_root_given_at_init(world: World) -> None:
    from tests.unit.device.test_root_memory import rotate_root_keys

    world.install("1.0.0", counter=1)
    for _ in range(3):
        rotate_root_keys(world.sim)
    made = bundle("2.0.0", counter=2, scale=3.0)
    world.publish(made, seq=2)
    world.poll(selftest=passes)
    assert boot(world).result == "sound"
    sql(world, "DELETE FROM evidence WHERE name = '3.root.json'")
    found = boot(world)
    assert (found.result, found.code) == ("rolled_back", "evidence_broken"), "1.0.0 rested on the first root"


def test_evidence_from_another_root_proves_nothing(world: World, tmp_path: Path) -> None:
    world.install()
    other = World(tmp_path / "other")
    with world.state() as state:
        found = state.active(THE_MODEL)
        assert found is not None
        with pytest.raises(TrustError) as caught:
            verify_installed(state, found, root=other.device.root)
    assert caught.value.code == "signature_threshold"


# By hand.


def by_hand(world: World) -> str:
    return roll_back_by_hand(world.device, THE_MODEL, clock=world.clock, uptime=world.uptime).version


def test_a_rollback_by_hand_goes_back_stays_back_and_lets_a_newer_release_in(world: World) -> None:
    install_two(world)
    assert by_hand(world) == "1.0.0"
    assert world.running() == 2.0
    assert world.refusal().code == "known_bad"
    assert ("rolled_back", "rolled_back_by_hand") in world.events()
    world.publish(bundle("2.0.1", counter=3, scale=4.0), seq=3)
    assert world.poll(selftest=passes).result == "installed"


def test_a_rollback_by_hand_never_goes_below_the_floor(world: World) -> None:
    _, new = install_two(world)
    world.channel(new, floor=2)
    world.sim.publish(RELEASE)
    world.poll()
    with pytest.raises(PolicyError) as caught:
        by_hand(world)
    assert caught.value.code == "no_rollback_target"
    assert (active(world), world.running()) == ("2.0.0", 3.0)


def test_a_reset_forgets_what_was_installed_and_nothing_that_must_be_remembered(world: World) -> None:
    _, new = install_two(world)
    with world.state() as state:
        before = state.remembered()
    running = reset(world.device, clock=world.clock, uptime=world.uptime)
    assert running == {THE_MODEL: None}
    with world.state() as state:
        assert state.remembered() == before
        assert state.active(THE_MODEL) is None
        assert state.held(THE_MODEL) == []
    assert list((world.device.folder.blobs / "sha256").iterdir()) == []
    assert world.poll(selftest=passes).result == "installed"
    assert world.running() == 3.0
    assert new.contract.counter == before.models[THE_MODEL].counter


# The factory bundle.


def make_factory(world: World) -> Bundle:
    made = world.install("1.0.0", counter=1, scale=2.0)
    with world.state() as state, state.transaction():
        found = state.active(THE_MODEL)
        assert found is not None
        state.mark_factory(found)
    return made


def test_the_factory_bundle_is_never_collected_and_the_last_to_go_back_to(world: World) -> None:
    make_factory(world)
    for number in range(2, 7):
        world.publish(bundle(f"{number}.0.0", counter=number, scale=float(number)), seq=number)
        world.poll(selftest=passes)
    for version in ("5.0.0", "4.0.0", "1.0.0"):
        assert by_hand(world) == version
    assert world.running() == 2.0


def test_a_reset_runs_the_factory_bundle_unless_it_is_withdrawn(world: World) -> None:
    made = make_factory(world)
    world.publish(bundle("2.0.0", counter=2, scale=3.0), seq=2)
    world.poll(selftest=passes)
    running = reset(world.device, clock=world.clock, uptime=world.uptime)
    assert running[THE_MODEL] is not None
    assert world.running() == 2.0
    with world.state() as state, state.transaction():
        state.remember_withdrawal(THE_MODEL, made.digest, [made.model()], 9)
    assert reset(world.device, clock=world.clock, uptime=world.uptime) == {THE_MODEL: None}


# Collection.


def test_what_nothing_may_need_again_goes_and_what_may_run_again_stays(world: World) -> None:
    made = []
    for number in range(1, 7):
        made.append(bundle(f"{number}.0.0", counter=number, scale=float(number)))
        world.publish(made[-1], seq=number)
        world.poll(selftest=passes)
    stored = {path.name for path in (world.device.folder.blobs / "sha256").iterdir()}
    kept = {digest.hex for each in made[-3:] for digest in each.blobs}
    assert stored == kept
    with world.state() as state:
        assert [len(state.evidence(held)) > 0 for held in state.held(THE_MODEL)] == [True] * 3 + [False] * 3


def test_nothing_is_collected_on_a_guess(world: World) -> None:
    old, new = install_two(world)
    (world.device.folder.blobs / "sha256" / old.digest.hex).unlink()
    before = {path.name for path in (world.device.folder.blobs / "sha256").iterdir()}
    boot(world)
    assert {path.name for path in (world.device.folder.blobs / "sha256").iterdir()} == before
    assert new.digest.hex in before


def test_the_machine_does_not_try_for_ever_a_model_whose_self_test_takes_it_down(world: World) -> None:
    world.install()
    world.publish(bundle("2.0.0", counter=2, scale=3.0), seq=2)

    def power_cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            world.poll(selftest=power_cut)
        boot(world)
    assert world.refusal(selftest=power_cut).code == "selftest_loop"
    assert world.refusal(selftest=power_cut).code == "known_bad"
    assert active(world) == "1.0.0"
    world.pass_days(2)
    assert world.poll(selftest=passes).result == "installed", "forgiven: it may have been something else"


def test_a_self_test_over_the_signed_memory_or_time_is_refused_and_the_old_model_stays(world: World) -> None:
    world.install()
    world.publish(bundle("2.0.0", counter=2, scale=3.0), seq=2)
    calls = []

    def measured(peak_bytes: int, *latencies: float) -> Callable[..., Any]:
        left = list(latencies)
        calls.clear()

        def selftest(*args: Any, **_: Any) -> Any:
            calls.append(args)
            return replace(passes(), peak_bytes=peak_bytes, latency_ms=left.pop(0) if len(left) > 1 else left[0])

        return selftest

    assert world.refusal(selftest=measured(2 << 30, 1.0)).code == "selftest_over_memory"
    world.pass_days(2)
    assert world.refusal(selftest=measured(1, 1.0, 10.2, 11.0, 12.0)).code == "selftest_slow", "ten times the old one is signed for"
    assert len(calls) == 4, "the running model once, the new one three times"
    assert active(world) == "1.0.0"
    world.pass_days(2)
    assert world.poll(selftest=measured(1, 1.0, 30.0, 9.9)).result == "installed", "one slow run is no slow model"
    assert world.last_report()["event"] == "installed"


def test_a_lost_store_is_made_good_by_the_next_poll(world: World) -> None:
    world.install()
    shutil.rmtree(world.device.folder.blobs)
    world.device.folder.blobs.mkdir(0o700)
    assert boot(world).result == "safe"
    assert world.poll(selftest=passes).result == "installed"
    assert world.running() == 2.0
