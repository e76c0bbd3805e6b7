"""What the audit role says about a variant decides: FAILED, INCONCLUSIVE, waived, expired and withdrawn install nothing.

The server's admission would take these entries: the audit role may say all of it. It is the device that must not install.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from demo.attacks import Issue
from device_client.trust.times import utc_now
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.sealed import seal
from tests.threats.world import World


def released(world: World) -> Issue:
    """A version that the release role lists and the server offers; what the audit role says of it is the test's."""
    issue = world.stage.reissue("1.8.0")
    issue.release()
    issue.offer()
    return issue


VERDICTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "FAILED": ({"verdict": "FAILED"}, "verdict_failed", "FAILED"),
    "INCONCLUSIVE": ({"verdict": "INCONCLUSIVE"}, "verdict_inconclusive", "INCONCLUSIVE"),
    "WAIVED": ({"verdict": "WAIVED"}, "verdict_waived", "WAIVED"),
    "expired a second ago": ({"expires": utc_now() - timedelta(seconds=1)}, "verdict_expired", "2"),
    "expired a year ago": ({"expires": utc_now() - timedelta(days=365)}, "verdict_expired", "2"),
}


@pytest.mark.parametrize(("changes", "code", "said"), VERDICTS.values(), ids=VERDICTS.keys())
def test_a_verdict_that_is_no_pass_is_refused_before_the_model_is_fetched_and_with_a_pass_it_installs(
    world: World, changes: dict[str, Any], code: str, said: str
) -> None:
    before = world.footprint()
    issue = released(world)
    world.audit(issue, **changes)
    error = expect_refusal(world, code, before=before)
    assert said in str(error.actual)
    assert str(error.actual) in world.reports()[-1]["detail"], "the server is told which verdict it was"
    assert not world.blob(world.town.second.model).exists()
    world.audit(issue)
    expect_installed(world, "1.8.0", before=before)


def test_a_tier_below_the_devices_own_policy_is_refused_and_a_deeper_audit_installs(world: World) -> None:
    policy = world.device.folder.policy
    policy.write_text(policy.read_text().replace('minimum_tier = "quick"', 'minimum_tier = "standard"'))
    world.reopen()
    before = world.footprint()
    issue = released(world)
    world.audit(issue, tier="quick")
    expect_refusal(world, "tier_not_accepted", before=before)
    world.audit(issue, tier="deep")
    expect_installed(world, "1.8.0", before=before)


def test_a_withdrawn_version_is_refused_for_ever_until_the_audit_team_restores_it_with_a_higher_seq(world: World) -> None:
    before = world.footprint()
    issue = released(world)
    world.audit(issue, seq=10, status="withdrawn", reason="leaks faces")
    expect_refusal(world, "withdrawn", before=before, learns=("withdrawals", "seqs"))
    assert (world.reports()[-2]["event"], world.reports()[-2]["detail"]) == ("alarm", "leaks faces")
    before = world.footprint()
    world.audit(issue, seq=9)  # an older entry, from before the withdrawal, signed by the role all the same
    expect_refusal(world, "seq_rollback", before=before)
    world.audit(issue, seq=10)  # the same number with another content
    expect_refusal(world, "withdrawn", before=before)
    world.audit(issue, seq=11)
    expect_installed(world, "1.8.0", before=before)


def test_withdrawn_bytes_are_refused_in_another_bundle_too(world: World) -> None:
    before = world.footprint()
    issue = released(world)
    world.audit(issue, seq=10, status="withdrawn", reason="leaks")
    expect_refusal(world, "withdrawn", before=before, learns=("withdrawals", "seqs"))
    before = world.footprint()
    again = world.stage.reissue("1.9.0")
    again.release()
    world.audit(again, seq=9)
    again.offer()
    expect_refusal(world, "withdrawn", before=before)
    assert not world.blob(world.town.second.model).exists()


def test_the_running_model_goes_on_when_its_audit_is_withdrawn_and_the_server_is_told(world: World) -> None:
    """An alarm and no kill switch: who holds the audit keys must not be able to stop a fleet."""
    outputs = world.outputs()
    first = world.town.first
    world.audit(world.issue(first), first, seq=10, status="withdrawn", reason="leaks")
    made = seal(world.folder / "bundles", version="2.0.0", counter=30, seed=8)
    fixed = world.issue(made)
    fixed.release()
    world.web.offer(first.bundle.path)
    error = world.refusal()
    assert error.code == "withdrawn"
    assert [(report["event"], report["code"]) for report in world.reports()[-3:]] == [
        ("refused", "withdrawn"),
        ("alarm", "withdrawn"),
        ("awaiting_audit", "audit_entry_missing"),  # the corrected version, which the channel names already
    ]
    assert world.active_version() == "1.0.0"
    assert world.outputs() == outputs
    before = world.footprint()
    world.audit(fixed, made, seq=11)
    fixed.offer()
    expect_installed(world, "2.0.0", before=before)
