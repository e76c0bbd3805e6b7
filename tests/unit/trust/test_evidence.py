"""Evidence is verified again from the root alone: what was signed is found, and any change is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.signer import Key, SSlibKey

from device_client.errors import VerificationError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.evidence import verify_evidence
from tests.simulator import AUDIT, RELEASE, RepositorySimulator

V = "1.0.0"
Files = dict[str, bytes]


@pytest.fixture
def sim() -> RepositorySimulator:
    made = RepositorySimulator()
    made.release(V, counter=1)
    return made


def evidence(sim: RepositorySimulator, cache: Path) -> Files:
    trusted = sim.refresh(cache)
    trusted.agree(sim.path(V))
    return trusted.evidence(sim.path(V))


def code(sim: RepositorySimulator, files: Files, *, version: str = V, root: bytes | None = None) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_evidence(files, root=root or sim.bootstrap, path=sim.path(version))
    return caught.value.code


def test_what_both_roles_agreed_on_is_found_again(sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path)
    agreed = trusted.agree(sim.path(V))
    found = verify_evidence(trusted.evidence(sim.path(V)), root=sim.bootstrap, path=sim.path(V))
    assert (found.manifest, found.release, found.audit, found.audit_issued) == (
        agreed.manifest, agreed.release, agreed.audit, agreed.audit_issued,
    )  # fmt: skip


def test_no_clock_is_asked(sim: RepositorySimulator, tmp_path: Path) -> None:
    files = evidence(sim, tmp_path)
    assert b"2026" in files["targets.json"], "long expired in the real world, or soon"
    verify_evidence(files, root=sim.bootstrap, path=sim.path(V))


def test_a_chain_of_roots_is_followed_and_a_gap_or_a_stranger_in_it_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    for _ in range(3):
        sim.rotate("root")
    files = evidence(sim, tmp_path)
    assert {f"{n}.root.json" for n in (1, 2, 3, 4)} <= set(files)
    verify_evidence(files, root=sim.bootstrap, path=sim.path(V))
    verify_evidence(files, root=files["3.root.json"], path=sim.path(V))
    assert code(sim, {name: data for name, data in files.items() if name != "3.root.json"}) == "evidence_broken"
    assert code(sim, {**files, "3.root.json": files["2.root.json"]}) == "evidence_broken"
    other = RepositorySimulator()
    other.rotate("root")
    assert code(sim, {**files, "2.root.json": other.served["2.root.json"]}) == "signature_threshold"
    assert code(sim, files, root=other.bootstrap) == "signature_threshold"


def test_a_root_signed_by_its_own_keys_alone_does_not_follow(sim: RepositorySimulator, tmp_path: Path) -> None:
    old = list(sim.signers["root"])
    sim.rotate("root")
    files = evidence(sim, tmp_path)
    signed = json.loads(files["2.root.json"])
    stolen = {signer.public_key.keyid for signer in old}
    signed["signatures"] = [each for each in signed["signatures"] if each["keyid"] not in stolen]
    assert code(sim, {**files, "2.root.json": json.dumps(signed).encode()}) == "signature_threshold"
    signed = json.loads(files["2.root.json"])
    signed["signatures"] = [each for each in signed["signatures"] if each["keyid"] in stolen]
    assert code(sim, {**files, "2.root.json": json.dumps(signed).encode()}) == "signature_threshold"


def test_a_given_root_that_does_not_sign_itself_is_none(sim: RepositorySimulator, tmp_path: Path) -> None:
    files = evidence(sim, tmp_path)
    root = json.loads(sim.bootstrap)
    root["signatures"] = root["signatures"][:1]
    assert code(sim, files, root=json.dumps(root).encode()) == "signature_threshold"


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {key: data for key, data in files.items() if key != name}


def signatures_of(name: str, count: int) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        role = json.loads(files[name])
        return {**files, name: json.dumps({**role, "signatures": role["signatures"][:count]}).encode()}

    return change


def instead(name: str, other: str) -> Callable[[Files], Files]:
    return lambda files: {**files, name: files[other]}


CHANGES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "targets is missing": (without("targets.json"), "evidence_missing"),
    "the release role is missing": (without(f"{RELEASE}.json"), "evidence_missing"),
    "the audit role is missing": (without(f"{AUDIT}.json"), "evidence_missing"),
    "targets is not signed": (signatures_of("targets.json", 0), "signature_threshold"),
    "the release role is not signed": (signatures_of(f"{RELEASE}.json", 0), "signature_threshold"),
    "the release role lacks a signature": (signatures_of(f"{RELEASE}.json", 1), "signature_threshold"),
    "the audit role lacks a signature": (signatures_of(f"{AUDIT}.json", 1), "signature_threshold"),
    "the release role stands in for the audit role": (instead(f"{AUDIT}.json", f"{RELEASE}.json"), "signature_threshold"),
    "a root stands in for targets": (instead("targets.json", "1.root.json"), "metadata_syntax"),
    "targets is no JSON": (lambda files: {**files, "targets.json": b"{"}, "json_syntax"),
    "targets stands in for a root": (lambda files: {**files, "2.root.json": files["targets.json"]}, "metadata_syntax"),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_evidence_is_refused_when(
    sim: RepositorySimulator, tmp_path: Path, change: Callable[[Files], Files], expected: str
) -> None:
    assert code(sim, change(evidence(sim, tmp_path))) == expected


def test_evidence_is_about_one_version(sim: RepositorySimulator, tmp_path: Path) -> None:
    assert code(sim, evidence(sim, tmp_path), version="2.0.0") == "release_entry_missing"


def test_evidence_of_a_role_with_bins_has_the_bin_and_holds_it_to_the_roles_keys(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.split_into_bins(AUDIT)
    files = evidence(sim, tmp_path)
    (name,) = [name for name in files if name.startswith(f"{AUDIT}-")]
    assert verify_evidence(files, root=sim.bootstrap, path=sim.path(V)).audit.seq == 1
    assert code(sim, without(name)(files)) == "evidence_missing"
    assert code(sim, signatures_of(name, 1)(files)) == "signature_threshold"


def raw(sim: RepositorySimulator) -> Files:
    """What the roles' holders sign now, whatever a poll would say of it."""
    roles = {f"{role}.json": sim.role_bytes(role) for role in ("targets", RELEASE, AUDIT)}
    return {"1.root.json": sim.bootstrap, **sim.served, **roles}


def twice(key: Key) -> SSlibKey:
    """The same key under another id."""
    value = dict(key.keyval)
    return SSlibKey("0" * 64, key.keytype, key.scheme, {"public": value["public"].upper()})


def test_one_key_under_two_ids_counts_once_in_a_delegation_and_in_a_root(sim: RepositorySimulator) -> None:
    verify_evidence(raw(sim), root=sim.bootstrap, path=sim.path(V))
    delegations = sim.targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    other = twice(sim.signers[RELEASE][0].public_key)
    delegations.keys[other.keyid] = other
    delegations.roles[RELEASE].keyids = [sim.signers[RELEASE][0].public_key.keyid, other.keyid]
    sim.publish("targets")
    files = raw(sim)
    role = json.loads(files[f"{RELEASE}.json"])
    first = next(each for each in role["signatures"] if each["keyid"] == sim.signers[RELEASE][0].public_key.keyid)
    role["signatures"] = [first, {**first, "keyid": other.keyid}]
    assert code(sim, {**files, f"{RELEASE}.json": json.dumps(role).encode()}) == "roles_share_keys"
    fresh = RepositorySimulator()
    fresh.release(V, counter=1)
    fresh.root.add_key(twice(fresh.signers["root"][0].public_key), "root")
    fresh.next_root()
    assert code(fresh, raw(fresh)) == "roles_share_keys"


def test_a_role_that_nobody_delegates_to_is_none(sim: RepositorySimulator) -> None:
    assert sim.targets.delegations is not None
    assert sim.targets.delegations.roles is not None
    del sim.targets.delegations.roles[RELEASE]
    sim.publish("targets")
    assert code(sim, raw(sim)) == "role_unknown"


def test_a_truth_value_for_a_number_is_none_in_a_role_and_in_a_root(sim: RepositorySimulator) -> None:
    (entry,) = sim.delegated[RELEASE].targets.values()
    entry.length = True  # type: ignore[assignment]
    sim.publish(RELEASE)
    assert code(sim, raw(sim)) == "metadata_syntax"
    fresh = RepositorySimulator()
    fresh.release(V, counter=1)
    fresh.root.roles["timestamp"].threshold = True  # type: ignore[assignment]
    fresh.next_root()
    assert code(fresh, raw(fresh)) == "metadata_syntax"


def test_every_file_has_its_limit(sim: RepositorySimulator) -> None:
    files = raw(sim)
    path = sim.path(V)
    for limits in (
        replace(DEFAULT_LIMITS, max_targets_bytes=len(files["1.root.json"]) - 1),
        replace(DEFAULT_LIMITS, max_targets_bytes=len(files["1.root.json"])),
        replace(DEFAULT_LIMITS, max_manifest_bytes=1),
    ):
        padded = {**files, "targets.json": files["targets.json"] + b" " * 4096}
        with pytest.raises(VerificationError) as caught:
            verify_evidence(padded, root=sim.bootstrap, path=path, limits=limits)
        assert caught.value.code == "too_large"
        if limits.max_targets_bytes < len(files["1.root.json"]):
            assert "root" in str(caught.value.where), "the first file that is too long"


def test_a_chain_beyond_its_bound_is_not_walked(sim: RepositorySimulator, tmp_path: Path) -> None:
    files = evidence(sim, tmp_path)
    assert code(sim, {**files, **{f"{n}.root.json": b"" for n in range(2, 4097)}}) == "json_syntax", "as many as it may have"
    assert code(sim, {**files, **{f"{n}.root.json": b"" for n in range(2, 4098)}}) == "evidence_broken"
    assert verify_evidence({**files, "x.root.json": b"", ".root.json": b""}, root=sim.bootstrap, path=sim.path(V))
