"""All release and audit keys sign for a version that calls itself new and carries a counter from the past."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from demo import attacks
from demo.names import AUDIT, FIRST_COUNTER, RELEASE
from device_client.bundle.counter import Counter
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.sealed import seal
from tests.threats.world import World


def test_a_counter_below_the_installed_one_is_refused_and_a_higher_one_installs(world: World) -> None:
    refuse_then_install(world, attacks.lower_counter(world.stage))


def test_the_refused_counter_does_not_move_the_devices_own(world: World) -> None:
    attacks.lower_counter(world.stage).strike()
    assert world.refusal().code == "counter_rollback"
    assert world.counter() == (0, FIRST_COUNTER)
    assert world.reports()[-1]["target"]["version"] == "1.6.0"


def test_the_same_counter_on_another_bundle_is_equivocation_and_the_next_counter_installs(world: World) -> None:
    before = world.footprint()
    twin = world.stage.reissue("1.6.0", counter=Counter(0, FIRST_COUNTER))
    twin.release()
    twin.audit()
    twin.offer()
    expect_refusal(world, "equivocation", before=before)
    honest = world.stage.reissue("1.6.0")
    honest.release()
    honest.audit()
    expect_installed(world, "1.6.0", before=before)


def test_the_running_version_under_other_bytes_is_equivocation(world: World) -> None:
    """1.0.0 runs here; a bundle of the same name with a higher counter is another bundle for all that."""
    before = world.footprint()
    made = seal(world.folder / "bundles", version="1.0.0", counter=20, seed=6)
    issue = world.issue(made)
    issue.release()
    world.audit(issue, made)
    issue.offer()
    expect_refusal(world, "equivocation", before=before)


LIES: dict[str, dict[str, Any]] = {"both roles sign a higher counter": {"audit": 30}, "the release role alone does": {"audit": 4}}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_an_old_bundle_under_a_higher_signed_counter_is_refused(world: World, lie: dict[str, Any]) -> None:
    """The counter stands in the contract too: signing a higher one does not make an old bundle new."""
    before = world.footprint()
    old = world.stage.reissue("1.6.0", counter=Counter(0, FIRST_COUNTER - 1))
    lifted = replace(old, counter=Counter(0, 30))
    world.web.forge_delegated(RELEASE, lifted.release_entries(), signers=world.stage.keys.of(RELEASE))
    audited = replace(old, counter=Counter(0, lie["audit"]))
    world.web.forge_delegated(AUDIT, audited.audit_entries(), signers=world.stage.keys.of(AUDIT))
    old.offer()
    expect_refusal(world, "counter_mismatch" if lie["audit"] == 30 else "custom_mismatch", before=before)
