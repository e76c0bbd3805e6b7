"""A role in hash bins is the same role: its keys, its threshold, its paths (R02)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, SuccinctRoles, Targets

from device_client.errors import SealiftError
from device_client.trust.bins import MAX_BIT_LENGTH
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp

V = "1.0.0"


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    simulator.release("1.1.0", counter=2)
    return simulator


def _refused(sim: RepositorySimulator, cache: Path, version: str = V) -> str:
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(cache).agree(sim.path(version))
    return refusal.value.code


def _bins(sim: RepositorySimulator, role: str = RELEASE) -> SuccinctRoles:
    delegations = sim.delegated[role].delegations
    assert delegations is not None
    assert delegations.succinct_roles is not None
    return delegations.succinct_roles


def _bin(sim: RepositorySimulator, version: str = V, role: str = RELEASE) -> str:
    path = sim.path(version)
    return _bins(sim, role).get_role_for_target(path.release_target if role == RELEASE else path.audit_target)


def test_a_release_listed_in_bins_of_both_roles_is_agreed(sim: RepositorySimulator, tmp_path: Path) -> None:
    before = sim.refresh(tmp_path / "a").agree(sim.path(V))
    sim.split_into_bins(RELEASE)
    sim.split_into_bins(AUDIT)
    trusted = sim.refresh(tmp_path / "a")
    assert trusted.agree(sim.path(V)) == before
    assert {_bin(sim), _bin(sim, role=AUDIT)} <= {mark.role for mark in trusted.marks.versions}
    assert {f"{_bin(sim)}.json", f"{_bin(sim, role=AUDIT)}.json"} <= set(trusted.evidence(sim.path(V)))


def test_only_the_bins_that_may_list_it_are_asked_for(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.split_into_bins(RELEASE, bits=6)
    sim.refresh(tmp_path).agree(sim.path(V))
    asked = {name.partition(".")[2] for name in sim.requests if name.partition(".")[2].startswith(f"{RELEASE}-")}
    assert asked == {f"{_bin(sim)}.json"}


def _others_sign_the_bins(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE, signers=[CryptoSigner.generate_ed25519() for _ in range(2)])


def _one_key_is_enough_for_the_bins(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE, threshold=1)


def _one_key_less(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE, signers=sim.signers[RELEASE][:1], threshold=1)


def _one_key_twice(sim: RepositorySimulator) -> None:
    signer = sim.signers[RELEASE][0]
    twin = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": signer.public_key.keyval["public"].upper()})
    sim.split_into_bins(RELEASE, signers=[signer, CryptoSigner(signer._private_key, twin)])


def _a_key_too_many(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE, signers=[*sim.signers[RELEASE], CryptoSigner.generate_ed25519()])


def _bins_name_a_missing_key(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    _bins(sim).keyids[0] = "0" * 64


def _another_prefix(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    _bins(sim).name_prefix = AUDIT


def _too_many_bins(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    _bins(sim).bit_length = MAX_BIT_LENGTH + 1


def _an_entry_beside_the_bins(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    sim.delegated[RELEASE].targets = dict(sim.delegated[_bin(sim)].targets)


def _a_named_delegation(sim: RepositorySimulator) -> None:
    key = sim.signers[RELEASE][0].public_key
    inner = DelegatedRole("inner", [key.keyid], 1, terminating=True, paths=["release/digits/*/*"])
    sim.delegated[RELEASE].delegations = Delegations({key.keyid: key}, {"inner": inner})
    sim.publish(RELEASE)


def _a_bin_delegates_further(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    key = sim.signers[RELEASE][0].public_key
    inner = DelegatedRole("inner", [key.keyid], 1, terminating=True, paths=["release/digits/*/*"])
    sim.delegated[_bin(sim)].delegations = Delegations({key.keyid: key}, {"inner": inner})


def _a_path_of_another_bin(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE, bits=8)
    entry = sim.delegated[_bin(sim, "1.1.0")].targets
    sim.delegated[_bin(sim)].targets |= entry


def _a_bin_without_issued(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    del sim.delegated[_bin(sim)].unrecognized_fields["issued"]


def _a_bin_that_lives_too_long(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    stamp(sim.delegated[_bin(sim)], 91)


def _an_expired_bin(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    sim.delegated[_bin(sim)].expires = NOW


def _the_bin_is_not_in_snapshot(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    del sim.snapshot.meta[f"{_bin(sim)}.json"]


BROKEN: dict[str, tuple[Callable[[RepositorySimulator], None], str]] = {
    "other keys": (_others_sign_the_bins, "bins_keys"),
    "a lower threshold": (_one_key_is_enough_for_the_bins, "bins_keys"),
    "fewer keys": (_one_key_less, "bins_keys"),
    "one key twice": (_one_key_twice, "bins_keys"),
    "a key too many": (_a_key_too_many, "bins_keys"),
    "a key that is not there": (_bins_name_a_missing_key, "bins_keys"),
    "another role's name": (_another_prefix, "delegation_nested"),
    "too many bins": (_too_many_bins, "delegation_nested"),
    "an entry beside the bins": (_an_entry_beside_the_bins, "bins_and_targets"),
    "a named delegation": (_a_named_delegation, "delegation_nested"),
    "a bin that delegates": (_a_bin_delegates_further, "delegation_nested"),
    "a path of another bin": (_a_path_of_another_bin, "path_outside_role"),
    "a bin without issued": (_a_bin_without_issued, "issued_missing"),
    "a bin that lives too long": (_a_bin_that_lives_too_long, "expiry_over_cap"),
    "an expired bin": (_an_expired_bin, "metadata_expired"),
    "a bin that snapshot does not list": (_the_bin_is_not_in_snapshot, "release_entry_missing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bins_that_are_not_the_role_itself_are_refused(what: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    break_it, code = BROKEN[what]
    break_it(sim)
    sim.publish()
    assert _refused(sim, tmp_path) == code


def test_a_bin_that_vanishes_is_a_rollback_with_the_cache_wiped_too(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.split_into_bins(RELEASE)
    trusted = sim.refresh(tmp_path / "a")
    trusted.agree(sim.path(V))
    del sim.snapshot.meta[f"{_bin(sim)}.json"]
    sim.publish()
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path / "b", marks=trusted.marks).agree(sim.path(V))
    assert refusal.value.code == "metadata_rollback"


def test_a_role_that_turns_into_bins_needs_no_new_entry(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.split_into_bins(RELEASE)
    assert isinstance(sim.delegated[RELEASE], Targets)
    for version in (V, "1.1.0"):
        assert sim.refresh(tmp_path).agree(sim.path(version))
    assert _refused(sim, tmp_path, "9.9.9") == "release_entry_missing"
