"""Both roles agree on the bundle, but the verdict is about other bytes than those that would run."""

from __future__ import annotations

from demo import attacks
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.sealed import seal
from tests.threats.world import World


def test_a_verdict_about_another_variant_is_refused_and_with_the_right_one_the_version_installs(world: World) -> None:
    refuse_then_install(world, attacks.other_variant_audited(world.stage))


def test_the_model_is_not_even_fetched_when_its_bytes_were_not_audited(world: World) -> None:
    before = world.footprint()
    attack = attacks.other_variant_audited(world.stage)
    attack.strike()
    expect_refusal(world, attack.code, before=before)
    assert not world.blob(world.town.second.model).exists()
    assert not any(path.endswith(world.town.second.model.hex) for path in world.server.gate.requests)


def test_a_verdict_about_the_running_model_does_not_carry_over_to_new_bytes(world: World) -> None:
    """The audit of 1.0.0 is real and PASSED; the new bundle brings other bytes under the same variant id."""
    before = world.footprint()
    made = seal(world.folder / "bundles", version="1.4.0", counter=20, seed=4)
    issue = world.issue(made)
    issue.release()
    world.audit(issue, world.town.first)
    issue.offer()
    expect_refusal(world, "variant_not_audited", before=before)
    world.audit(issue, made)
    expect_installed(world, "1.4.0", before=before)
