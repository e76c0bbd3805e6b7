"""Nothing new is shown, or nothing that is still valid: works until it expires, is told after the grace, and stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from demo.names import AUDIT, RELEASE, SECOND
from device_client.errors import PolicyError
from tests.threats.front import Front, whole
from tests.threats.hands import Hands
from tests.threats.judge import expect_current, expect_installed, expect_refusal
from tests.threats.world import World


def test_one_timestamp_for_ever_works_until_it_expires_and_alarms_after_the_grace(world: World) -> None:
    """A07. No alarm while it is valid, none in the first day after, one from the second day on, and never a stopped model."""
    world.web.offer(world.town.first.bundle.path)
    hands = Hands(world)
    with Front(world.server.url) as front:
        world.ask(front.url)
        front.spoil["/tuf/timestamp.json"] = whole((world.data / "tuf" / "timestamp.json").read_bytes())
        before = world.footprint()
        for _ in range(3):
            expect_current(world, before=before)
            world.pass_time(days=0.3)
            hands.renew()  # the honest server goes on; the device does not get to see it
        world.pass_time(days=0.2)
        expect_refusal(world, "metadata_expired", before=before)
        assert world.alarms() == [], "a day of grace"
        world.pass_time(days=1)
        expect_refusal(world, "metadata_expired", before=before, alarms=("metadata_frozen",))
        assert world.alarms() == ["metadata_frozen"]
        world.pass_time(days=9)
        expect_refusal(world, "metadata_expired", before=before)
        assert world.told().count(("alarm", "metadata_frozen")) == 1, "told once"

        hands.announce()
        front.spoil.clear()
        expect_current(world, before=before)
        world.web.offer(world.town.second.bundle.path)
        expect_installed(world, SECOND, before=before)


def expire(role: str) -> Callable[[Hands], Any]:
    """Makes ``role`` expire in two hours; the others live on."""
    if role == "root":
        return lambda hands: hands.next_root(days=2 / 24)
    if role == "timestamp":
        return lambda hands: hands.renew(days=2 / 24)
    if role == "snapshot":
        return lambda hands: hands.announce(
            change_snapshot=lambda s: setattr(s, "expires", s.expires - timedelta(days=7, hours=-2))
        )
    return lambda hands: hands.edit(role, days=2 / 24)


def renew(role: str) -> Callable[[Hands], Any]:
    if role == "root":
        return lambda hands: hands.next_root()
    return (lambda hands: hands.announce()) if role in {"snapshot", "timestamp"} else (lambda hands: hands.edit(role))


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", RELEASE, AUDIT])
def test_an_expired_role_installs_nothing_alarms_after_the_grace_and_renewed_the_version_installs(world: World, role: str) -> None:
    """A06."""
    hands = Hands(world)
    expire(role)(hands)
    before = world.footprint()
    world.pass_time(days=0.1)
    if role not in {"snapshot", "timestamp"}:
        hands.renew()
    error = expect_refusal(world, "metadata_expired", before=before)
    assert role in str(error) or "timestamp.json" in str(error) or "expired" in error.what
    assert world.alarms() == []
    world.pass_time(days=1)
    if role not in {"snapshot", "timestamp"}:
        hands.renew()
    expect_refusal(world, "metadata_expired", before=before, alarms=("metadata_frozen",))

    renew(role)(hands)
    hands.announce()
    expect_installed(world, SECOND, before=before)
    assert world.alarms() == []


def test_an_owner_who_says_stop_gets_it_and_only_then(world: World) -> None:
    """A06. Whoever holds the server can then stop the model by freezing it: that is the price of the setting."""
    policy = world.device.folder.policy
    policy.write_text(policy.read_text().replace('expired = "keep"', 'expired = "stop"'))
    world.reopen()
    assert world.poll().standing == "run"
    outputs = world.outputs()
    for days in (2, 1):
        world.pass_time(days=days)
        assert world.refusal().code == "metadata_expired"
    with pytest.raises(PolicyError) as caught:
        world.outputs()
    assert caught.value.code == "stopped_by_policy"
    Hands(world).announce()
    assert world.poll().standing == "run"
    assert world.outputs() == outputs
