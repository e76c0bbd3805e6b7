"""Drills: release keys are stolen. One does nothing; all of them propose, unlist and fast-forward, and install nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from demo.names import RELEASE, SECOND
from device_client.bundle.counter import Counter
from device_client.trust.channel import Channel
from device_client.trust.times import format_time
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.sealed import seal
from tests.threats.town import THE_MODEL
from tests.threats.world import World

HUGE = 2**31 - 100  # near the highest version that a report can tell


def own_bundle(world: World, hands: Hands) -> Any:
    """A bundle of their own, well signed by the release role."""
    issue = world.issue(seal(world.folder / "bundles", version="6.6.6", counter=66, seed=66))
    issue.release()
    issue.offer()


def own_bytes_under_an_audited_name(world: World, hands: Hands) -> Any:
    made = seal(world.folder / "bundles", version=SECOND, counter=6, seed=66)
    issue = world.issue(made)
    issue.release()
    issue.offer()


def another_counter_for_audited_bytes(world: World, hands: Hands) -> Any:
    issue = replace(world.issue(world.town.second), counter=Counter(0, 600))
    issue.release()


def nothing_at_all(world: World, hands: Hands) -> Any:
    """Whatever the release role listed is gone; what runs goes on."""
    hands.edit(RELEASE, lambda role: role.targets.clear())


def a_date_in_ten_years(world: World, hands: Hands) -> Any:
    def future(role: Any) -> None:
        role.unrecognized_fields["issued"] = format_time(world.true_time() + timedelta(days=3650))
        role.expires = world.true_time() + timedelta(days=3651)

    hands.edit(RELEASE, future)


WORST: dict[str, tuple[Callable[[World, Hands], Any], str]] = {
    "a bundle of their own": (own_bundle, "audit_entry_missing"),
    "their bytes under an audited name": (own_bytes_under_an_audited_name, "entries_differ"),
    "a higher counter for audited bytes": (another_counter_for_audited_bytes, "custom_mismatch"),
    "nothing at all": (nothing_at_all, "release_entry_missing"),
    "a date in ten years": (a_date_in_ten_years, "metadata_expired"),
}


@pytest.mark.parametrize(("strike", "code"), WORST.values(), ids=WORST.keys())
def test_all_release_keys_install_nothing_and_new_keys_by_targets_end_it(
    world: World, strike: Callable[[World, Hands], Any], code: str
) -> None:
    """K04. Also after a fast-forward of the role's version.

    The new keys alone end what the thieves sign. To come back below the versions that they jumped to, root replaces the online keys
    too: snapshot may never list a lower version under the same keys (TUF 5.5.5, 5.3.11).
    """
    hands = Hands(world)
    honest = dict(world.web.newest(RELEASE).signed.targets)
    before = world.footprint()
    strike(world, hands)
    hands.edit(RELEASE, lambda role: keep_dates_and_jump(role, world, is_future=code == "metadata_expired"))
    alarms = world.alarms()
    assert world.refusal().code == code
    assert world.footprint() == before
    assert "withdrawn" not in alarms

    hands.rotate_delegated(RELEASE)
    world.web.offer(world.town.second.bundle.path)

    def mend(role: Any) -> None:
        role.targets, role.version = dict(honest), 50

    hands.edit(RELEASE, mend)
    assert world.refusal().code == "metadata_rollback"
    hands.rotate("snapshot", "timestamp")
    hands.announce()
    expect_installed(world, SECOND, before=before)


def keep_dates_and_jump(role: Any, world: World, *, is_future: bool) -> None:
    role.version = HUGE
    if is_future:
        role.unrecognized_fields["issued"] = format_time(world.true_time() + timedelta(days=3650))
        role.expires = world.true_time() + timedelta(days=3651)


CHANNELS = {
    "a floor beyond everything": (Channel("6.6.6", Counter(0, 2**30), Counter(0, 2**30)), []),
    "a newest release that nobody audited": (Channel("6.6.6", Counter(0, 66), Counter(0, 0)), []),
    "another counter for an audited release": (Channel(SECOND, Counter(0, 77), Counter(0, 77)), ["channel_mismatch"]),
}


@pytest.mark.parametrize(("channel", "alarms"), CHANNELS.values(), ids=CHANNELS.keys())
def test_a_lying_channel_strands_no_device(world: World, channel: Channel, alarms: list[str]) -> None:
    """K04. A floor counts once the audit role has signed for a release at or above it."""
    before = world.footprint()
    ref = world.web.add_blob(channel.to_bytes())
    world.web.forge_delegated(RELEASE, {THE_MODEL.channel_target: (ref, None)}, signers=world.keys[RELEASE])
    expect_installed(world, SECOND, before=before)
    assert [code for code in world.alarms() if code != "awaiting_audit"] in (
        alarms,
        ["audit_entry_missing", *alarms],
        ["release_entry_missing"],
    )
    assert world.rows("SELECT n FROM floors") in ((), ((0,),))


def test_one_of_two_release_keys_cannot_even_unlist(world: World) -> None:
    """K03."""
    hands = Hands(world)
    before = world.footprint()
    honest = world.web.newest(RELEASE)
    hands.edit(RELEASE, lambda role: role.targets.clear(), signers=world.keys[RELEASE][:1])
    expect_refusal(world, "signature_threshold", before=before)
    hands.edit(RELEASE, lambda role: setattr(role, "targets", honest.signed.targets))
    expect_installed(world, SECOND, before=before)
