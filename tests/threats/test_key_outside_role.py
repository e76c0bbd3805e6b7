"""A bundle listed by the release role, signed by keys that the role does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from securesystemslib.signer import CryptoSigner, Signer

from demo import attacks
from demo.names import AUDIT, RELEASE
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.world import World


def test_keys_outside_the_role_are_refused_and_with_the_roles_own_keys_the_version_installs(world: World) -> None:
    refuse_then_install(world, attacks.key_outside_role(world.stage))


WRONG: dict[str, Callable[[World], Sequence[Signer]]] = {
    "one of two release keys": lambda w: w.stage.keys.of(RELEASE)[:1],
    "a release key and a stranger": lambda w: [w.stage.keys.of(RELEASE)[0], CryptoSigner.generate_ed25519()],
    "a release key and an audit key": lambda w: [w.stage.keys.of(RELEASE)[0], w.stage.keys.of(AUDIT)[0]],
    "both audit keys": lambda w: w.stage.keys.of(AUDIT),
    "both online keys": lambda w: [*w.stage.keys.of("snapshot"), *w.stage.keys.of("timestamp")],
    "the targets keys": lambda w: w.stage.keys.of("targets"),
    "the root keys": lambda w: w.stage.keys.of("root"),
    "nobody": lambda w: [],
}


@pytest.mark.parametrize("signers", WRONG.values(), ids=WRONG.keys())
def test_fewer_or_other_keys_than_the_roles_threshold_are_refused(
    world: World, signers: Callable[[World], Sequence[Signer]]
) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.5.0")
    issue.audit()
    world.web.forge_delegated(RELEASE, issue.release_entries(), signers=signers(world))
    issue.offer()
    expect_refusal(world, "signature_threshold", before=before)


def test_one_release_key_that_signs_twice_counts_once(world: World) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.5.0")
    issue.audit()
    one = world.stage.keys.of(RELEASE)[0]
    world.web.forge_delegated(RELEASE, issue.release_entries(), signers=[one, one])
    issue.offer()
    expect_refusal(world, "signature_threshold", before=before)
    world.web.resign_delegated(RELEASE, issue.release_entries(), signers=world.stage.keys.of(RELEASE))
    expect_installed(world, "1.5.0", before=before)
