"""A withdrawn model gives way to the newest held bundle that both roles still accept; nothing is lowered by that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from device_client.bundle import Digest
from tests.simulator import AUDIT, RELEASE
from tests.unit.device.standing import active, install_two, model_status, passes, withdraw
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle, verdict


def test_a_withdrawn_model_gives_way_to_the_newest_held_one_within_one_poll(world: World) -> None:
    old, new = install_two(world)
    with world.state() as state:
        before = state.memory(THE_MODEL)
    withdraw(world, new)
    assert world.refusal().code == "withdrawn"
    assert (active(world), world.running()) == ("1.0.0", 2.0)
    with world.state() as state:
        memory = state.memory(THE_MODEL)
        assert (memory.counter, memory.manifest, memory.floor) == (before.counter, before.manifest, before.floor)
        assert state.evidence(state.active(THE_MODEL))
        previous = state.previous(THE_MODEL)
        assert previous is not None
        assert previous.version == "2.0.0"
    assert world.events() == [("refused", "withdrawn"), ("alarm", "withdrawn"), ("rolled_back", "withdrawn")]
    report = world.reports()[1]
    assert "leaks" in report["detail"], "the audit team's own reason"
    assert report["target"] == {"version": "2.0.0", "manifest": str(new.digest)}
    assert world.last_report()["active"] == {"version": "1.0.0", "manifest": str(old.digest)}


def test_after_falling_back_the_withdrawn_bundle_is_not_taken_again_and_a_corrected_one_is(world: World) -> None:
    _, new = install_two(world)
    withdraw(world, new)
    world.refusal()
    told = len(world.server.reports)
    for _ in range(3):
        assert world.refusal().code == "withdrawn"
    assert active(world) == "1.0.0"
    assert len(world.server.reports) <= told + 1, "the same thing is told once"
    world.server.offered = "1.0.0"
    assert world.poll().result == "current", "what runs is below the highest counter, and runs on"
    world.publish(bundle("2.0.1", counter=3, scale=4.0), seq=10)
    assert world.poll(selftest=passes).result == "installed"
    assert world.running() == 4.0


def test_falling_back_does_not_wait_for_the_server_to_offer_anything(world: World) -> None:
    _, new = install_two(world)
    world.server.offered = None
    withdraw(world, new)
    result = world.poll()
    assert (result.result, result.standing) == ("none", "fall_back")
    assert result.deployment is not None
    assert result.deployment.version == active(world) == "1.0.0"


def test_of_several_held_bundles_the_newest_good_one_is_taken(world: World) -> None:
    old, middle = install_two(world)
    newest = bundle("3.0.0", counter=3, scale=4.0)
    world.publish(newest, seq=3)
    world.poll(selftest=passes)
    withdraw(world, newest)
    world.refusal()
    assert active(world) == "2.0.0"
    withdraw(world, middle, seq=10)
    world.refusal()
    assert active(world) == "1.0.0"
    withdraw(world, old, seq=11)
    world.refusal()
    assert active(world) == "1.0.0", "nothing to fall back to: it keeps running"


def raise_channel_floor(world: World, old: Bundle, new: Bundle) -> None:
    world.channel(new, floor=2)
    world.sim.publish(RELEASE)
    assert world.poll().result == "current"


def forget_blob(world: World, old: Bundle, _: Bundle) -> None:
    (world.device.folder.blobs / "sha256" / old.model().hex).unlink()


def damage_blob(world: World, old: Bundle, _: Bundle) -> None:
    path = world.device.folder.blobs / "sha256" / old.model().hex
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def remember_bad(world: World, old: Bundle, _: Bundle) -> None:
    with world.state() as state, state.transaction():
        state.remember_bad(THE_MODEL, old.digest, cause="selftest_mismatch", until=None)


def unlist_audit(world: World, old: Bundle, _: Bundle) -> None:
    del world.sim.delegated_role(AUDIT).targets[old.contract.path.audit_target]


def unlist_release(world: World, old: Bundle, _: Bundle) -> None:
    del world.sim.delegated_role(RELEASE).targets[old.contract.path.release_target]
    world.sim.publish(RELEASE)


def name_other_bytes(world: World, old: Bundle, _: Bundle) -> None:
    other = bundle("1.0.0", counter=1, scale=7.0)
    world.upload(other)
    world.release_entry(other)
    world.audit_entry(other, seq=1)
    world.sim.publish(RELEASE)


BARRED: dict[str, Callable[[World, Bundle, Bundle], Any]] = {
    "it is below the floor": raise_channel_floor,
    "it is withdrawn as well": lambda w, old, _: w.audit_entry(old, seq=8, status="withdrawn"),
    "its bytes are withdrawn by another entry": lambda w, old, new: w.audit_entry(
        new, seq=9, status="withdrawn", variants={old.model(): verdict(), new.model(): verdict()}
    ),
    "its verdict is not accepted any more": lambda w, old, _: w.audit_entry(old, variants={old.model(): verdict("FAILED")}, seq=3),
    "an older audit entry is shown": lambda w, old, _: show_older(w, old),
    "its name means other bytes now": name_other_bytes,
    "a blob of it is gone": forget_blob,
    "a blob of it is damaged": damage_blob,
    "it failed here before": remember_bad,
}


def show_older(world: World, old: Bundle) -> None:
    with world.state() as state, state.transaction():
        state.remember_seq(THE_MODEL, old.digest, 5)


@pytest.mark.parametrize("bar", BARRED.values(), ids=BARRED.keys())
def test_no_bundle_is_fallen_back_to_when(world: World, bar: Callable[[World, Bundle, Bundle], Any]) -> None:
    old, new = install_two(world)
    bar(world, old, new)
    if world.sim.delegated_role(AUDIT).targets[new.contract.path.audit_target].custom["status"] == "active":
        world.audit_entry(new, seq=9, status="withdrawn")
    world.sim.publish(AUDIT)
    assert world.refusal().code == "withdrawn"
    assert (active(world), world.running()) == ("2.0.0", 3.0), "it keeps running, and an alarm says so"
    assert ("alarm", "withdrawn") in world.events()
    assert ("rolled_back", "withdrawn") not in world.events()


UNLISTED: dict[str, Callable[[World, Bundle, Bundle], Any]] = {
    "its entry does not cover its bytes any more": lambda w, old, _: w.audit_entry(
        old, variants={Digest.of(b"other"): verdict()}, seq=3
    ),
    "the audit role lists it no longer": unlist_audit,
    "the release role lists it no longer": unlist_release,
}


@pytest.mark.parametrize("unlist", UNLISTED.values(), ids=UNLISTED.keys())
def test_a_bundle_is_fallen_back_to_on_its_own_evidence_with_an_alarm_when(
    world: World, unlist: Callable[[World, Bundle, Bundle], Any]
) -> None:
    old, new = install_two(world)
    unlist(world, old, new)
    withdraw(world, new)
    assert world.refusal().code == "withdrawn"
    assert (active(world), world.running()) == ("1.0.0", 2.0)
    assert ("alarm", "entry_unlisted") in world.events()


def test_evidence_that_was_changed_on_this_disk_bars_falling_back(world: World) -> None:
    old, new = install_two(world)
    with world.state() as state, state.transaction():
        (held,) = [each for each in state.held(THE_MODEL) if each.manifest == old.digest]
        role = state.evidence(held)[f"{AUDIT}.json"]
        changed = role.replace(b'"seq":1', b'"seq":7') if b'"seq":1' in role else role.replace(b'"seq": 1', b'"seq": 7')
        assert changed != role
        state._db.change("UPDATE evidence SET data = ? WHERE deployment = ? AND name = ?", changed, held.id, f"{AUDIT}.json")
    withdraw(world, new)
    world.refusal()
    assert active(world) == "2.0.0"


def test_an_expired_verdict_does_not_bar_falling_back_but_is_told(world: World) -> None:
    old, new = install_two(world)
    world.audit_entry(old, variants={old.model(): verdict(days=0)}, seq=3)
    withdraw(world, new)
    world.refusal()
    assert active(world) == "1.0.0"
    assert ("alarm", "verdict_expired") in world.events()


def test_a_cut_while_falling_back_leaves_the_one_or_the_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, new = install_two(world)
    withdraw(world, new)

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("device_client.install.standing._stop_or_run", cut)
        with pytest.raises(KeyboardInterrupt):
            world.poll()
    assert (active(world), world.running()) == ("2.0.0", 3.0)
    world.refusal()
    assert (active(world), world.running()) == ("1.0.0", 2.0)


def test_bytes_withdrawn_by_another_bundles_entry_are_withdrawn_here(world: World) -> None:
    old, same = bundle("1.0.0", counter=1), bundle("1.1.0", counter=2)
    assert old.model() == same.model()
    for seq, made in enumerate((old, same), start=1):
        world.publish(made, seq=seq)
        world.poll(selftest=passes)
    withdraw(world, old)
    assert world.poll().result == "current"
    assert model_status(world)["withdrawn"]
    assert world.events()[-1] == ("alarm", "withdrawn")
    world.audit_entry(same, seq=10)
    world.sim.publish(AUDIT)
    world.poll()
    assert not model_status(world)["withdrawn"], "an active entry with a higher seq restores the bytes"
    assert model_status(world)["alarms"] == []


def test_a_restoration_is_noticed_whatever_the_server_offers(world: World) -> None:
    made = world.install("1.0.0", counter=1)
    world.server.offered = None
    withdraw(world, made)
    world.poll()
    assert model_status(world)["withdrawn"]
    world.audit_entry(made, seq=10)
    world.sim.publish(AUDIT)
    world.poll()
    assert not model_status(world)["withdrawn"]


def test_an_entry_for_other_bytes_restores_nothing(world: World) -> None:
    made = world.install("1.0.0", counter=1)
    world.server.offered = None
    withdraw(world, made)
    world.poll()
    world.audit_entry(made, seq=10, variants={Digest.of(b"other"): verdict()})
    world.sim.publish(AUDIT)
    world.poll()
    assert model_status(world)["withdrawn"], "the entry says nothing about the bytes that run here"
    other = bundle("1.0.0", counter=1, task="another")
    assert (other.model(), other.digest) == (made.model(), other.digest)
    assert other.digest != made.digest
    world.upload(other)
    world.release_entry(other)
    world.audit_entry(other, seq=11)
    world.sim.publish(RELEASE, AUDIT)
    world.poll()
    assert model_status(world)["withdrawn"], "the entry is about another bundle under the same name"


def test_a_wiped_cache_and_a_lost_store_do_not_stop_the_judgement(world: World) -> None:
    _, new = install_two(world)
    withdraw(world, new)
    shutil.rmtree(world.device.folder.metadata)
    shutil.rmtree(world.device.folder.blobs)
    world.device.folder.blobs.mkdir(0o700)
    world.refusal()
    assert active(world) == "2.0.0", "no held bundle is whole"
    assert ("alarm", "withdrawn") in world.events()
