"""An audit entry from before its withdrawal is shown again: what was withdrawn is remembered beyond every mark and every key."""

from __future__ import annotations

import shutil

import pytest

from demo.names import AUDIT, SECOND
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World


def withdraw_second(world: World) -> int:
    """The audit team withdraws the second release; the device hears of it. Returns the audit role's version before."""
    version: int = world.web.newest(AUDIT).signed.version
    before = world.footprint()
    second = world.town.second
    world.audit(world.issue(second), second, seq=10, status="withdrawn", reason="leaks faces")
    expect_refusal(world, "withdrawn", before=before, learns=("withdrawals", "seqs"))
    return version


@pytest.mark.parametrize("is_cache_wiped", [False, True], ids=["cache kept", "cache wiped"])
def test_the_online_keys_cannot_pair_a_release_with_the_audit_from_before_its_withdrawal(
    world: World, *, is_cache_wiped: bool
) -> None:
    """R04. The version mark of the audit role stands against it."""
    version, hands = withdraw_second(world), Hands(world)
    before = world.footprint()
    hands.announce({AUDIT: version})
    if is_cache_wiped:
        shutil.rmtree(world.device.folder.metadata)
    expect_refusal(world, "metadata_rollback", before=before)


@pytest.mark.parametrize("is_cache_wiped", [False, True], ids=["cache kept", "cache wiped"])
def test_after_a_rotation_of_the_online_keys_the_old_audit_is_refused_by_its_seq(world: World, *, is_cache_wiped: bool) -> None:
    """R04. The rotation drops the version marks, so that TUF can recover; withdrawals are dropped by nothing but a higher seq."""
    version, hands = withdraw_second(world), Hands(world)
    before = world.footprint()
    hands.rotate("snapshot", "timestamp")
    hands.announce({AUDIT: version})
    if is_cache_wiped:
        shutil.rmtree(world.device.folder.metadata)
    expect_refusal(world, "seq_rollback", before=before)
    hands.announce({AUDIT: version + 1})
    expect_refusal(world, "withdrawn", before=before)
    world.audit(world.issue(world.town.second), world.town.second, seq=11)
    expect_installed(world, SECOND, before=before)


def test_new_audit_keys_do_not_restore_what_the_old_ones_withdrew(world: World) -> None:
    """R04. Only an active entry with a higher seq does, whoever signs it for the role."""
    withdraw_second(world)
    hands = Hands(world)
    before = world.footprint()
    hands.rotate_delegated(AUDIT)
    world.audit(world.issue(world.town.second), world.town.second, seq=10)
    expect_refusal(world, "withdrawn", before=before)
    world.audit(world.issue(world.town.second), world.town.second, seq=11)
    expect_installed(world, SECOND, before=before)


@pytest.mark.xfail(strict=True, reason="a withdrawal is heard through the bundles that are held or offered here, and no others")
def test_bytes_withdrawn_under_a_name_that_this_device_never_met_do_not_come_in_under_another(world: World) -> None:
    """R04. The audit role says in one file that the bytes are withdrawn (seq 10) and, elsewhere, that they once passed (seq 9)."""
    second = world.town.second
    world.audit(world.issue(second), second, seq=10, status="withdrawn", reason="leaks faces")
    again = world.stage.reissue("1.9.0")
    again.release()
    world.audit(again, seq=9)
    again.offer()
    before = world.footprint()
    expect_refusal(world, "withdrawn", before=before)
