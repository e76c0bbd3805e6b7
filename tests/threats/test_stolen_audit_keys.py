"""Drills: all audit keys are stolen. Nothing new installs; false withdrawals are seen, told, and stop nothing by default."""

from __future__ import annotations

import pytest

from demo.names import AUDIT, SECOND
from device_client.errors import PolicyError
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.sealed import seal
from tests.threats.world import World


def test_all_audit_keys_alone_install_nothing(world: World) -> None:
    """K05. Neither a bundle of their own nor other bytes under a released name."""
    before = world.footprint()
    own = seal(world.folder / "bundles", version="6.6.6", counter=66, seed=66)
    issue = world.issue(own)
    world.audit(issue, own)
    issue.offer()
    expect_refusal(world, "release_entry_missing", before=before)
    twin = seal(world.folder / "other", version=SECOND, counter=6, seed=66)
    world.audit(world.issue(twin), twin)
    world.web.offer(world.town.second.bundle.path)
    expect_refusal(world, "entries_differ", before=before)
    world.audit(world.issue(world.town.second), world.town.second)
    expect_installed(world, SECOND, before=before)


def test_a_false_withdrawal_is_told_keeps_the_only_model_running_and_is_taken_back_with_a_higher_seq(world: World) -> None:
    """K05. The thieves withdraw what runs; with new keys the audit team restores it."""
    first, hands = world.town.first, Hands(world)
    world.web.offer(first.bundle.path)
    outputs = world.outputs()
    world.audit(world.issue(first), first, seq=40, status="withdrawn", reason="a thief says so")
    assert world.refusal().code == "withdrawn"
    assert world.alarms() == ["withdrawn"]
    assert ("alarm", "withdrawn") in world.told()
    assert "a thief says so" in str([report["detail"] for report in world.reports()])
    assert world.outputs() == outputs, "by default it keeps running: nothing else may"

    hands.rotate_delegated(AUDIT)
    world.audit(world.issue(first), first, seq=41)
    assert world.poll().result == "current"
    assert world.alarms() == []
    assert world.outputs() == outputs
    before = world.footprint()
    world.audit(world.issue(world.town.second), world.town.second, seq=42)
    world.web.offer(world.town.second.bundle.path)
    expect_installed(world, SECOND, before=before)


def test_a_false_withdrawal_of_the_newest_model_falls_back_to_the_one_before(world: World) -> None:
    """K05. Both were signed by both roles and ran here: the thieves choose between them, and nothing else."""
    outputs = world.outputs()
    before = world.footprint()
    expect_installed(world, SECOND, before=before)
    world.audit(world.issue(world.town.second), world.town.second, seq=40, status="withdrawn", reason="a thief says so")
    assert world.refusal().code == "withdrawn"
    assert (world.active_version(), world.outputs()) == ("1.0.0", outputs)
    assert world.counter() == (0, 6), "no counter comes down"


def test_an_owner_who_chose_stop_has_given_the_audit_team_a_switch(world: World) -> None:
    """K05. Said in the threat model: under `stop` the audit keys stop the model, and a higher seq lets it run again."""
    policy = world.device.folder.policy
    policy.write_text(policy.read_text().replace('withdrawn = "fall_back"', 'withdrawn = "stop"'))
    world.reopen()
    first = world.town.first
    world.web.offer(first.bundle.path)
    outputs = world.outputs()
    world.audit(world.issue(first), first, seq=40, status="withdrawn", reason="a thief says so")
    assert world.refusal().code == "withdrawn"
    with pytest.raises(PolicyError) as caught:
        world.outputs()
    assert caught.value.code == "stopped_by_policy"
    world.audit(world.issue(first), first, seq=41)
    world.poll()
    assert world.outputs() == outputs


def test_a_withdrawal_with_the_last_seq_is_for_ever_and_other_bytes_install(world: World) -> None:
    """K05. What cannot be undone: bytes withdrawn with the highest number there is. The way on is a release of other bytes."""
    last = 2**31 - 1
    before = world.footprint()
    second = world.town.second
    world.audit(world.issue(second), second, seq=last, status="withdrawn", reason="for ever")
    expect_refusal(world, "withdrawn", before=before, learns=("withdrawals", "seqs"))
    Hands(world).rotate_delegated(AUDIT)
    before = world.footprint()
    world.audit(world.issue(second), second, seq=last)
    expect_refusal(world, "withdrawn", before=before)
    made = seal(world.folder / "bundles", version="1.2.0", counter=7, seed=7)
    other = world.issue(made)
    other.release()
    world.audit(other, made, seq=3)
    other.offer()
    expect_installed(world, "1.2.0", before=before)
