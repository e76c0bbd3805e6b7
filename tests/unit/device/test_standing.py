"""Stopping, running again, days of patience, the channel: each alarm is told once, and none stops what the owner keeps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from device_client.bundle import Counter, Digest
from device_client.install.status import read_status, status_text
from device_client.trust.custom import Rollout
from tests.simulator import AUDIT, RELEASE
from tests.unit.device.standing import active, install_two, model_status, passes, refused_to_open, withdraw
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle, verdict

# Withdrawn: stop, keep.


def test_a_model_whose_owner_says_stop_is_not_opened_until_it_is_restored(world: World) -> None:
    world.set_policy(f'[models."{THE_MODEL}"]\nwithdrawn = "stop"')
    _, new = install_two(world)
    withdraw(world, new)
    world.refusal()
    assert refused_to_open(world) == "stopped_by_policy"
    assert active(world) == "2.0.0", "stopped, not replaced"
    assert model_status(world)["stopped"]["code"] == "withdrawn"
    assert world.events()[-2:] == [("alarm", "withdrawn"), ("alarm", "stopped_by_policy")]
    told = len(world.server.reports)
    world.refusal()
    assert refused_to_open(world) == "stopped_by_policy"
    assert len(world.server.reports) <= told + 1

    world.server.is_down = True
    world.refusal()
    assert refused_to_open(world) == "stopped_by_policy", "a cut network brings nothing back"
    world.server.is_down = False

    world.audit_entry(new, seq=10)
    world.sim.publish(AUDIT)
    assert world.poll().standing == "run"
    assert world.running() == 3.0
    assert model_status(world)["stopped"] is None
    assert world.events()[-1] == ("current", None)


def test_status_says_what_is_stopped_what_holds_and_for_how_long(world: World) -> None:
    world.set_policy('[reactions]\nwithdrawn = "stop"\nbehind_days = 1')
    _, new = install_two(world)
    withdraw(world, new)
    world.refusal()
    text = status_text(read_status(world.device, clock=world.clock, uptime=world.uptime))
    assert "STOPPED by policy" in text
    assert "WITHDRAWN" in text
    assert "ALARM withdrawn since" in text
    newest = bundle("3.0.0", counter=3)
    world.publish(newest, seq=3)
    world.channel(newest)
    world.sim.publish(RELEASE)
    world.server.offered = "2.0.0"
    world.refusal()
    assert "behind on 1 day\n" in status_text(read_status(world.device, clock=world.clock, uptime=world.uptime))


def test_a_stopped_model_is_replaced_by_a_good_release(world: World) -> None:
    world.set_policy('[reactions]\nwithdrawn = "stop"')
    _, new = install_two(world)
    withdraw(world, new)
    world.refusal()
    world.publish(bundle("3.0.0", counter=3, scale=4.0), seq=10)
    assert world.poll(selftest=passes).result == "installed"
    assert world.running() == 4.0


def test_an_owner_who_keeps_a_withdrawn_model_says_so_in_every_report(world: World) -> None:
    world.set_policy("[reactions]\nunsafe_keep_withdrawn = true")
    _, new = install_two(world)
    withdraw(world, new)
    world.refusal()
    assert active(world) == "2.0.0"
    assert world.events() == [("refused", "withdrawn"), ("alarm", "withdrawn")]
    assert all(report["detail"].startswith("[unsafe_keep_withdrawn] ") for report in world.reports())


def test_a_remembered_withdrawal_is_acted_upon_without_fresh_metadata_by_the_evidence_alone(world: World) -> None:
    install_two(world)
    with world.state() as state, state.transaction():
        found = state.active(THE_MODEL)
        assert found is not None
        state.remember_withdrawal(THE_MODEL, found.manifest, [], 9)
    world.server.is_down = True
    world.refusal()
    assert active(world) == "1.0.0"


# Expired, behind, withheld: by days.


def expire(world: World) -> None:
    world.now += timedelta(days=1, hours=1)


def test_frozen_metadata_alarms_after_the_grace_and_stops_only_by_policy(world: World) -> None:
    install_two(world)
    expire(world)
    for _ in range(3):
        assert world.refusal().code == "metadata_expired"
    assert model_status(world)["days"]["expired"] == 1, "days, not polls"
    assert ("alarm", "metadata_frozen") not in world.events()
    expire(world)
    world.refusal()
    assert world.events().count(("alarm", "metadata_frozen")) == 1
    world.refusal()
    assert world.events().count(("alarm", "metadata_frozen")) == 1
    assert world.running() == 3.0, "expired metadata never stops the running model"

    world.set_policy('[reactions]\nexpired = "stop"')
    world.refusal()
    assert refused_to_open(world) == "stopped_by_policy"
    world.pass_days(1)
    assert world.poll().result == "current"
    assert world.running() == 3.0
    assert model_status(world)["days"]["expired"] == 0


def test_an_expired_verdict_of_the_running_model_counts_as_expired(world: World) -> None:
    _, new = install_two(world)
    world.audit_entry(new, variants={new.model(): verdict(days=1)}, seq=3)
    world.set_policy('[reactions]\nexpired = "stop"\nexpired_days = 0')
    world.sim.publish(AUDIT)
    assert world.poll().result == "current"
    assert world.running() == 3.0
    world.pass_days(2)
    world.poll()
    assert refused_to_open(world) == "stopped_by_policy"
    world.audit_entry(new, seq=4)
    world.sim.publish(AUDIT)
    assert world.poll().result == "current"
    assert world.running() == 3.0


def test_whoever_cuts_the_network_gains_nothing_over_whoever_freezes_it(world: World) -> None:
    world.set_policy('[reactions]\nexpired = "stop"\nexpired_days = 0')
    install_two(world)
    assert world.poll().result == "current"
    world.server.is_down = True
    world.now += timedelta(days=10)
    world.refusal()
    assert world.running() == 3.0, "no server, and all that was seen still counts"
    world.now += timedelta(days=11)
    world.refusal()
    assert refused_to_open(world) == "stopped_by_policy"


def test_a_release_that_the_server_never_offers_is_withheld_after_its_days(world: World) -> None:
    world.set_policy("[reactions]\nmax_hold_days = 1")
    install_two(world)
    hidden = bundle("3.0.0", counter=3, scale=4.0)
    world.publish(hidden, seq=3)
    world.channel(hidden)
    world.sim.publish(RELEASE)
    world.server.offered = "2.0.0"
    assert world.poll().result == "current"
    assert (model_status(world)["days"]["withheld"], model_status(world)["days"]["behind"]) == (1, 1)
    assert ("alarm", "withheld") not in world.events()
    world.pass_days(1)
    world.poll()
    assert world.events()[-1] == ("alarm", "withheld")
    world.set_policy('[reactions]\nmax_hold_days = 1\nwithheld = "stop"')
    world.poll()
    assert refused_to_open(world) == "stopped_by_policy"
    world.server.offered = "3.0.0"
    assert world.poll(selftest=passes).result == "installed"
    assert model_status(world)["days"] == {"expired": 0, "behind": 0, "withheld": 0}
    assert world.running() == 4.0


def test_a_canary_for_others_and_a_withdrawn_release_are_not_withheld(world: World) -> None:
    install_two(world)
    other = bundle("3.0.0", counter=3, scale=4.0)
    world.publish(other, seq=3)
    world.release_entry(other, rollout=Rollout(max_percent=0))
    world.channel(other)
    world.sim.publish(RELEASE)
    world.server.offered = "2.0.0"
    world.poll()
    assert model_status(world)["days"]["withheld"] == 0
    world.release_entry(other)
    world.sim.publish(RELEASE)
    withdraw(world, other)
    world.poll()
    assert model_status(world)["days"]["withheld"] == 0


def test_a_newest_release_without_an_audit_entry_is_reported_once_and_is_no_alarm(world: World) -> None:
    install_two(world)
    hasty = bundle("3.0.0", counter=3)
    world.upload(hasty)
    world.release_entry(hasty)
    world.channel(hasty, floor=3)
    world.sim.publish(RELEASE)
    for _ in range(3):
        assert world.poll().result == "current"
    assert world.events() == [("awaiting_audit", "audit_entry_missing")]
    with world.state() as state:
        assert state.memory(THE_MODEL).floor == Counter(0, 0), "a floor counts once the audit role has signed for it"


# The channel.


def other_counter(world: World, made: Bundle) -> None:
    world.channel(bundle("3.0.0", counter=7), floor=2)


def no_blob(world: World, made: Bundle) -> None:
    world.channel(made, floor=2)
    ref = world.sim.delegated_role(RELEASE).targets[THE_MODEL.channel_target]
    del world.server.blobs[Digest(ref.hashes["sha256"])]


def not_json(world: World, made: Bundle) -> None:
    world.channel(made, floor=2)
    ref = world.sim.delegated_role(RELEASE).targets[THE_MODEL.channel_target]
    data = b"?" * ref.length
    world.server.blobs[Digest.of(data)] = data
    ref.hashes["sha256"] = Digest.of(data).hex


def too_long(world: World, made: Bundle) -> None:
    world.channel(made, floor=2)
    world.sim.delegated_role(RELEASE).targets[THE_MODEL.channel_target].length = 5000


BROKEN: dict[str, tuple[Callable[[World, Bundle], Any], str]] = {
    "it names another counter": (other_counter, "channel_mismatch"),
    "the server does not give it": (no_blob, "not_found"),
    "it is no document": (not_json, "json_syntax"),
    "it is too long": (too_long, "too_large"),
}


@pytest.mark.parametrize(("spoil", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_channel_is_an_alarm_and_keeps_nothing_from_being_installed(
    world: World, spoil: Callable[[World, Bundle], Any], code: str
) -> None:
    install_two(world)
    made = bundle("3.0.0", counter=3, scale=4.0)
    world.publish(made, seq=3)
    spoil(world, made)
    world.sim.publish(RELEASE)
    assert world.poll(selftest=passes).result == "installed"
    assert world.events() == [("installed", None), ("alarm", code)]
    world.poll()
    assert len(world.server.reports) == 2, "told once"
    world.server.is_down = True
    world.refusal()
    world.server.is_down = False
    world.poll()
    assert world.events().count(("alarm", code)) == 1, "a poll that learned nothing does not make it new"
    assert [alarm["code"] for alarm in model_status(world)["alarms"]] == [code]
    with world.state() as state:
        assert state.memory(THE_MODEL).floor == Counter(0, 0)
    world.channel(made)
    world.sim.publish(RELEASE)
    world.poll()
    assert model_status(world)["alarms"] == []


def test_the_floor_of_the_channel_counts_also_when_the_server_offers_nothing(world: World) -> None:
    _, new = install_two(world)
    world.channel(new, floor=2)
    world.sim.publish(RELEASE)
    world.server.offered = None
    assert world.poll().result == "none"
    with world.state() as state:
        assert state.memory(THE_MODEL).floor == Counter(0, 2)


def test_a_floor_backed_by_a_withdrawn_release_only_does_not_count(world: World) -> None:
    install_two(world)
    gone = bundle("3.0.0", counter=3)
    world.publish(gone, seq=3)
    withdraw(world, gone)
    world.channel(gone, floor=3)
    world.sim.publish(RELEASE)
    world.server.offered = None
    world.poll()
    with world.state() as state:
        assert state.memory(THE_MODEL).floor == Counter(0, 0)
