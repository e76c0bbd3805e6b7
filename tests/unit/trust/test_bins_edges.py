"""Bins at their bounds, on role objects."""

from __future__ import annotations

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Delegations, SuccinctRoles, Targets

from device_client.trust.bins import MAX_BIT_LENGTH, bin_of, check_bin, check_bins
from device_client.trust.rules import delegation_for, keys_of
from tests.simulator import RELEASE, RepositorySimulator
from tests.unit.trust.edited import code_of

V = "1.0.0"


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _check(sim: RepositorySimulator, signed: Targets) -> str | None:
    delegation = delegation_for(sim.targets, RELEASE)
    return code_of(lambda: check_bins(signed, delegation, keys=keys_of(sim.targets, RELEASE)))


def _bins(sim: RepositorySimulator, *, bits: int = 2, threshold: int = 2, twice: bool = False) -> Targets:
    """The release role in bins signed by its own keys, the first of them counted twice if asked for."""
    keys = [signer.public_key for signer in sim.signers[RELEASE]]
    if twice:
        keys.append(SSlibKey("f" * 64, "ed25519", "ed25519", {"public": keys[0].keyval["public"].upper()}))
    bins = SuccinctRoles([key.keyid for key in keys], threshold, bits, RELEASE)
    return Targets(delegations=Delegations({key.keyid: key for key in keys}, succinct_roles=bins))


def test_a_role_without_bins_has_none(sim: RepositorySimulator) -> None:
    target = sim.path(V).release_target
    assert bin_of(sim.delegated[RELEASE], target) is None
    assert bin_of(sim.targets, target) is None
    assert _check(sim, sim.delegated[RELEASE]) is None


def test_bins_of_the_roles_own_keys_are_the_role(sim: RepositorySimulator) -> None:
    assert _check(sim, _bins(sim)) is None
    assert _check(sim, _bins(sim, bits=1)) is None
    assert _check(sim, _bins(sim, bits=MAX_BIT_LENGTH)) is None
    assert _check(sim, _bins(sim, bits=MAX_BIT_LENGTH + 1)) == "delegation_nested"


@pytest.mark.parametrize("threshold", [1, 3])
def test_another_threshold_is_refused_higher_or_lower(threshold: int, sim: RepositorySimulator) -> None:
    sim.signers[RELEASE].append(CryptoSigner.generate_ed25519())
    added = sim.signers[RELEASE][2].public_key
    assert sim.targets.delegations is not None
    sim.targets.delegations.keys[added.keyid] = added
    delegation_for(sim.targets, RELEASE).keyids.append(added.keyid)
    assert _check(sim, _bins(sim)) is None
    assert _check(sim, _bins(sim, threshold=threshold)) == "bins_keys"


def test_one_key_under_two_ids_beside_the_whole_set_is_refused(sim: RepositorySimulator) -> None:
    assert _check(sim, _bins(sim, twice=True)) == "bins_keys"


def test_a_bin_lists_what_hashes_into_it_and_every_path_is_asked(sim: RepositorySimulator) -> None:
    sim.release("1.1.0", counter=2)
    sim.split_into_bins(RELEASE, bits=8)
    parent = sim.delegated[RELEASE]
    one, two = (bin_of(parent, sim.path(version).release_target) for version in (V, "1.1.0"))
    assert one is not None
    assert two is not None
    assert one != two
    check_bin(sim.delegated[one], parent, one)
    sim.delegated[one].targets |= sim.delegated[two].targets
    assert code_of(lambda: check_bin(sim.delegated[one], parent, one)) == "path_outside_role"
    assert code_of(lambda: check_bin(sim.delegated[two], parent, one)) == "path_outside_role"
