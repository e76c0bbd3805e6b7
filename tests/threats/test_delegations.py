"""What even the targets keys cannot make a device take: overlapping delegations, shared keys, weaker bins, keys of other roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, SuccinctRoles, Targets

from demo.names import AUDIT, LINE, RELEASE, SECOND
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World


def delegation(targets: Targets, role: str) -> DelegatedRole:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    return targets.delegations.roles[role]


def publish(hands: Hands, change: Callable[[Targets], Any]) -> None:
    hands.edit("targets", change)


def release_also_matches_audit(hands: Hands) -> Any:
    publish(hands, lambda t: setattr(delegation(t, RELEASE), "paths", [f"release/{LINE}/*/*", f"audit/{LINE}/*/*"]))


def release_matches_everything(hands: Hands) -> Any:
    publish(hands, lambda t: setattr(delegation(t, RELEASE), "paths", ["*/*/*/*"]))


def a_third_role_matches_too(hands: Hands) -> Any:
    def change(targets: Targets) -> None:
        keyids = delegation(targets, RELEASE).keyids
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles["release-shadow"] = DelegatedRole(
            "release-shadow", keyids, 1, terminating=True, paths=[f"release/{LINE}/*/*"]
        )

    publish(hands, change)


def audit_does_not_terminate(hands: Hands) -> Any:
    publish(hands, lambda t: setattr(delegation(t, AUDIT), "terminating", False))


def by_hash_prefixes(hands: Hands) -> Any:
    def change(targets: Targets) -> None:
        delegation(targets, AUDIT).paths = None
        delegation(targets, AUDIT).path_hash_prefixes = [f"{digit:x}" for digit in range(16)]

    publish(hands, change)


def give(hands: Hands, role: str, signers: list[Signer], *, threshold: int = 2) -> None:
    """The role gets these keys, and is signed with them."""

    def change(targets: Targets) -> None:
        assert targets.delegations is not None
        delegation(targets, role).keyids = [signer.public_key.keyid for signer in signers]
        delegation(targets, role).threshold = threshold
        targets.delegations.keys |= {signer.public_key.keyid: signer.public_key for signer in signers}

    publish(hands, change)
    hands.edit(role, signers=signers)


def one_hand_in_both_roles(hands: Hands) -> Any:
    keys = hands.world.keys
    give(hands, AUDIT, [keys[AUDIT][0], keys[RELEASE][0]])


def an_online_key_in_the_audit_role(hands: Hands) -> Any:
    keys = hands.world.keys
    give(hands, AUDIT, [keys[AUDIT][0], keys["timestamp"][0]])


def one_key_in_another_spelling(hands: Hands) -> Any:
    one = hands.world.keys[RELEASE][0]
    assert isinstance(one, CryptoSigner)
    twin = SSlibKey("e" * 64, "ed25519", "ed25519", {"public": one.public_key.keyval["public"].upper()})
    give(hands, RELEASE, [one, CryptoSigner(one._private_key, twin)])


def the_release_key_in_the_audit_role_in_another_spelling(hands: Hands) -> Any:
    one = hands.world.keys[RELEASE][0]
    assert isinstance(one, CryptoSigner)
    twin = SSlibKey("e" * 64, "ed25519", "ed25519", {"public": one.public_key.keyval["public"].upper()})
    give(hands, AUDIT, [hands.world.keys[AUDIT][0], CryptoSigner(one._private_key, twin)])


def bins(hands: Hands, signers: list[Signer], *, threshold: int) -> None:
    """The release role moves its entries into bins that these keys sign."""
    succinct = SuccinctRoles([signer.public_key.keyid for signer in signers], threshold, 1, RELEASE)
    metadata = hands.world.web.newest(RELEASE)
    entries = dict(metadata.signed.targets)

    def split(role: Targets) -> None:
        role.targets = {}
        role.delegations = Delegations({signer.public_key.keyid: signer.public_key for signer in signers}, succinct_roles=succinct)

    hands.edit(RELEASE, split)
    for name in succinct.get_roles():
        part = type(metadata)(Targets(version=1))
        part.signed.targets = {path: entry for path, entry in entries.items() if succinct.get_role_for_target(path) == name}
        hands.date(RELEASE, part)
        hands.sign(RELEASE, part, f"1.{name}.json", signers=signers)
    hands.announce(dict.fromkeys(succinct.get_roles(), 1))


def bins_of_strangers(hands: Hands) -> Any:
    bins(hands, [CryptoSigner.generate_ed25519() for _ in range(2)], threshold=2)


def bins_by_one_of_the_keys(hands: Hands) -> Any:
    bins(hands, list(hands.world.keys[RELEASE]), threshold=1)


def bins_of_the_audit_team(hands: Hands) -> Any:
    bins(hands, list(hands.world.keys[AUDIT]), threshold=2)


def delegate_further(hands: Hands) -> Any:
    keys = list(hands.world.keys[RELEASE])

    def change(role: Targets) -> None:
        inner = DelegatedRole("inner", [keys[0].public_key.keyid], 1, terminating=True, paths=[f"release/{LINE}/*/*"])
        role.delegations = Delegations({key.public_key.keyid: key.public_key for key in keys}, {"inner": inner})

    hands.edit(RELEASE, change)


def signed_by_the_audit_team(hands: Hands) -> Any:
    hands.edit(RELEASE, signers=hands.world.keys[AUDIT])


def signed_by_the_targets_keys(hands: Hands) -> Any:
    hands.edit(AUDIT, signers=[*hands.world.keys["targets"], *hands.world.keys["root"]])


def signed_by_another_lines_team(hands: Hands) -> Any:
    """Keys that targets trusts, for another line."""
    team: list[Signer] = [CryptoSigner.generate_ed25519() for _ in range(2)]

    def change(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        keyids = [signer.public_key.keyid for signer in team]
        targets.delegations.keys |= {signer.public_key.keyid: signer.public_key for signer in team}
        targets.delegations.roles["release-other"] = DelegatedRole(
            "release-other", keyids, 2, terminating=True, paths=["release/other/*/*"]
        )

    publish(hands, change)
    hands.edit(RELEASE, signers=team)


DEFECTS: dict[str, tuple[Callable[[Hands], Any], str]] = {
    "R01 the release delegation matches audit paths too": (release_also_matches_audit, "delegation_ambiguous"),
    "R01 the release delegation matches everything": (release_matches_everything, "delegation_ambiguous"),
    "R01 two delegations match one path": (a_third_role_matches_too, "delegation_ambiguous"),
    "R01 the audit delegation does not terminate": (audit_does_not_terminate, "delegation_ambiguous"),
    "R01 the audit delegation matches by hashes of paths": (by_hash_prefixes, "delegation_ambiguous"),
    "R02 bins signed by strangers": (bins_of_strangers, "bins_keys"),
    "R02 bins with a lower threshold": (bins_by_one_of_the_keys, "bins_keys"),
    "R02 bins of the release role signed by the audit team": (bins_of_the_audit_team, "bins_keys"),
    "R02 a delegation below the release role": (delegate_further, "delegation_nested"),
    "R03 one hand in both roles": (one_hand_in_both_roles, "roles_share_keys"),
    "R03 an online key in the audit role": (an_online_key_in_the_audit_role, "roles_share_keys"),
    "R03 one key under two ids": (one_key_in_another_spelling, "roles_share_keys"),
    "R03 one key in both roles in another spelling": (the_release_key_in_the_audit_role_in_another_spelling, "roles_share_keys"),
    "K13 the release role signed by the audit team": (signed_by_the_audit_team, "signature_threshold"),
    "K13 the audit role signed by root and targets keys": (signed_by_the_targets_keys, "signature_threshold"),
    "K13 the release role signed by another line's team": (signed_by_another_lines_team, "signature_threshold"),
}


@pytest.mark.parametrize(("spoil", "code"), DEFECTS.values(), ids=DEFECTS.keys())
def test_agreement_is_of_roles_and_no_delegation_gets_around_it(world: World, spoil: Callable[[Hands], Any], code: str) -> None:
    """R01, R02, R03 and K13. All of it is well signed by the offline targets keys; the device refuses it all the same."""
    hands = Hands(world)
    honest = {role: world.web.newest(role) for role in ("targets", RELEASE, AUDIT)}
    before = world.footprint()
    spoil(hands)
    expect_refusal(world, code, before=before)

    for role, metadata in honest.items():

        def mend(signed: Targets, metadata: Any = metadata) -> None:
            signed.delegations, signed.targets = metadata.signed.delegations, metadata.signed.targets

        hands.edit(role, mend)
    expect_installed(world, SECOND, before=before)
