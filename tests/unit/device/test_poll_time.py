"""A poll goes by trusted time: a clock set back opens nothing that has expired, a clock set forward is not believed for long."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

from device_client.install.status import read_status, status_text
from device_client.trust.custom import Rollout
from device_client.trust.times import format_time, parse_time
from device_client.trust.trusted_time import BootTime
from tests.simulator import AUDIT, NOW, RELEASE
from tests.unit.device.standing import passes
from tests.unit.device.world import THE_MODEL, World, bundle, verdict

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def test_a_clock_set_back_years_revives_no_expired_verdict(world: World) -> None:
    """A08."""
    assert world.poll().result == "none"
    made = bundle("1.0.0", counter=1)
    world.publish(made, variants={made.model(): verdict(days=0)})
    world.now = NOW - timedelta(days=3000)
    assert world.refusal(selftest=passes).code == "verdict_expired"


def test_a_clock_set_back_revives_no_expired_metadata_also_after_the_cache_is_gone(world: World) -> None:
    world.pass_days(3)
    assert world.poll().result == "none"
    world.sim.timestamp.expires = world.now - timedelta(days=1)
    world.sim.timestamp.unrecognized_fields["issued"] = format_time(world.now - timedelta(days=2))
    world.sim.publish()
    world.now = NOW
    shutil.rmtree(world.device.folder.metadata)
    assert world.refusal().code == "metadata_expired"


def test_a_device_without_a_clock_takes_the_signed_time(world: World) -> None:
    """A10: its reports and its journal do not say 1970 either."""
    world.now = LONG_AGO
    world.publish(bundle("1.0.0", counter=1))
    assert world.poll(selftest=passes).result == "installed"
    assert parse_time(world.last_report()["created"], "report") >= NOW
    with world.state() as state:
        active = state.active(THE_MODEL)
        assert active is not None
        assert active.installed >= NOW
    world.boot = BootTime("boot-2", 3.0)
    world.server.is_down = True
    world.refusal()
    assert parse_time(world.device_journal(), "journal") >= NOW, "remembered, before any refresh"


def test_time_goes_on_across_boots_without_any_clock(world: World) -> None:
    world.now = LONG_AGO
    assert world.poll().result == "none"
    for boot in range(2, 6):
        world.boot = BootTime(f"boot-{boot}", 7 * 3600.0)
        world.sim.timestamp.expires = NOW + timedelta(days=boot)
        world.sim.publish()
        assert world.poll().result == "none"
    status: Any = read_status(world.device, clock=world.clock, uptime=world.uptime)
    assert parse_time(status["time"]["now"], "status") >= NOW + timedelta(hours=28)
    assert "the clock says 1970" in status_text(status)


def test_a_clock_set_forward_is_refused_and_forgotten(world: World) -> None:
    """A09."""
    world.publish(bundle("1.0.0", counter=1))
    world.now += timedelta(days=4000)
    assert world.refusal().code == "metadata_expired"
    world.now -= timedelta(days=4000)
    assert world.poll(selftest=passes).result == "installed"
    with world.state() as state:
        assert all(floor.reading(world.boot) <= world.now for floor in state.marks().times)


def test_stolen_online_keys_that_claim_a_later_time_open_no_release_early(world: World) -> None:
    made = bundle("1.0.0", counter=1)
    world.publish(made)
    world.release_entry(made, rollout=Rollout(NOW + timedelta(hours=12)))
    world.sim.publish(RELEASE)
    for role in (world.sim.snapshot, world.sim.timestamp):
        role.unrecognized_fields["issued"] = format_time(NOW + timedelta(hours=20))
    world.sim.publish()
    assert world.refusal(selftest=passes).code == "rollout_not_yet"
    world.now += timedelta(hours=13)
    assert world.poll(selftest=passes).result == "installed"


def test_a_later_time_that_stolen_keys_claimed_is_forgotten_when_root_rotates_them(world: World) -> None:
    world.sim.timestamp.unrecognized_fields["issued"] = format_time(NOW + timedelta(hours=20))
    world.sim.publish()
    world.poll()
    world.server.is_down = True
    world.refusal()
    assert parse_time(world.device_journal(), "journal") >= NOW + timedelta(hours=20)
    world.server.is_down = False
    world.sim.timestamp.unrecognized_fields["issued"] = format_time(NOW)
    world.sim.rotate("timestamp")
    world.sim.publish()
    assert world.poll().result == "none"
    world.server.is_down = True
    world.refusal()
    assert parse_time(world.device_journal(), "journal") == world.now, "before a refresh as well"


def test_an_audit_role_that_is_too_old_for_the_owner_installs_nothing_and_keeps_what_runs(world: World) -> None:
    world.install("1.0.0", counter=1)
    world.set_policy("[audit]\nmax_age_days = 2")
    audit = world.sim.delegated_role(AUDIT)
    issued = audit.unrecognized_fields["issued"]
    world.pass_days(3)
    audit.unrecognized_fields["issued"] = issued
    audit.expires = NOW + timedelta(days=30)
    assert world.poll().result == "current"
    made = bundle("2.0.0", counter=2, scale=3.0)
    world.publish(made, seq=2)
    assert world.refusal(selftest=passes).code == "audit_stale"
    assert made.digest.hex not in world.server.downloads, "refused before anything is fetched"
    assert world.running() == 2.0


def test_what_was_verified_before_a_refresh_broke_off_is_remembered(world: World) -> None:
    assert world.poll().result == "none"
    with world.state() as state:
        before = {mark.role: mark.version for mark in state.marks().versions}
    world.sim.publish("targets")
    world.sim.served[f"{world.sim.targets.version}.targets.json"] = b"broken off"
    world.refusal()
    with world.state() as state:
        after = {mark.role: mark.version for mark in state.marks().versions}
    assert after["timestamp"] == before["timestamp"] + 1
    assert after["targets"] == before["targets"]
