"""Each rule of `check_agreement`, broken one at a time, through the production client."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import DelegatedRole, TargetFile

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.errors import SealiftError
from device_client.trust.agreement import AgreedRelease
from device_client.trust.custom import ReleaseCustom, Rollout
from device_client.trust.refs import BlobRef
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp

V = "1.0.0"


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _role_delegation(sim: RepositorySimulator, role: str) -> DelegatedRole:
    assert sim.targets.delegations is not None
    assert sim.targets.delegations.roles is not None
    return sim.targets.delegations.roles[role]


def _list_at_top(sim: RepositorySimulator) -> None:
    sim.targets.targets["x"] = TargetFile(1, {"sha256": "0" * 64}, "x")
    sim.publish("targets")


def _widen_release(sim: RepositorySimulator) -> None:
    _role_delegation(sim, RELEASE).paths = ["release/*/*/*", "audit/digits/*/*"]
    sim.publish("targets")


def _second_delegation(sim: RepositorySimulator) -> None:
    assert sim.targets.delegations is not None
    assert sim.targets.delegations.roles is not None
    key = sim.signers[RELEASE][0].public_key.keyid
    sim.targets.delegations.roles["zz"] = DelegatedRole("zz", [key], 1, terminating=False, paths=["release/digits/*/*"])
    sim.publish("targets")


def _not_terminating(sim: RepositorySimulator) -> None:
    _role_delegation(sim, AUDIT).terminating = False
    sim.publish("targets")


def _share_a_key(sim: RepositorySimulator) -> None:
    sim.signers[AUDIT][1] = sim.signers[RELEASE][0]
    _role_delegation(sim, AUDIT).keyids = [signer.public_key.keyid for signer in sim.signers[AUDIT]]
    sim.publish("targets", AUDIT)


def _share_with_online(sim: RepositorySimulator) -> None:
    sim.signers[AUDIT][1] = sim.signers["timestamp"][0]
    public = sim.signers[AUDIT][1].public_key
    assert sim.targets.delegations is not None
    sim.targets.delegations.keys[public.keyid] = public
    _role_delegation(sim, AUDIT).keyids = [signer.public_key.keyid for signer in sim.signers[AUDIT]]
    sim.publish("targets", AUDIT)


def _same_key_twice(sim: RepositorySimulator) -> None:
    signer = sim.signers[RELEASE][0]
    twin = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": signer.public_key.keyval["public"].upper()})
    assert sim.targets.delegations is not None
    sim.targets.delegations.keys[twin.keyid] = twin
    sim.signers[RELEASE] = [signer, CryptoSigner(signer._private_key, twin)]
    _role_delegation(sim, RELEASE).keyids = [signer.public_key.keyid, twin.keyid]
    sim.publish("targets", RELEASE)


def _drop_issued(sim: RepositorySimulator) -> None:
    del sim.delegated[AUDIT].unrecognized_fields["issued"]
    sim.publish(AUDIT)


def _long_life(sim: RepositorySimulator) -> None:
    stamp(sim.delegated[AUDIT], 31)
    sim.publish(AUDIT)


def _foreign_path(sim: RepositorySimulator) -> None:
    sim.delegated[RELEASE].targets["release/other/ocr/1.json"] = TargetFile(1, {"sha256": "0" * 64}, "release/other/ocr/1.json")
    sim.publish(RELEASE)


def _no_release_entry(sim: RepositorySimulator) -> None:
    sim.delegated[RELEASE].targets.clear()
    sim.publish(RELEASE)


def _no_audit_entry(sim: RepositorySimulator) -> None:
    sim.delegated[AUDIT].targets.clear()
    sim.publish(AUDIT)


def _no_audit_role(sim: RepositorySimulator) -> None:
    sim.signers["snapshot"][0] = CryptoSigner.generate_ed25519()  # a rotated key: a role may not vanish from snapshot otherwise
    public = sim.signers["snapshot"][0].public_key
    sim.root.roles["snapshot"].keyids = []
    sim.root.add_key(public, "snapshot")
    sim.root.version += 1
    del sim.snapshot.meta[f"{AUDIT}.json"]
    sim.publish(RELEASE)


def _md5_too(sim: RepositorySimulator) -> None:
    sim.delegated[AUDIT].targets[sim.path(V).audit_target].hashes["md5"] = "0" * 32
    sim.publish(AUDIT)


def _other_bytes(sim: RepositorySimulator) -> None:
    sim.add_audit_entry(V, counter=Counter(0, 1), manifest=b"something else")
    sim.publish(AUDIT)


def _unknown_custom(sim: RepositorySimulator) -> None:
    entry = sim.delegated[AUDIT].targets[sim.path(V).audit_target]
    entry.unrecognized_fields["custom"]["only_on_tuesdays"] = True
    sim.publish(AUDIT)


def _other_counter(sim: RepositorySimulator) -> None:
    sim.add_audit_entry(V, counter=Counter(0, 2), manifest=f"manifest of {V}".encode())
    sim.publish(AUDIT)


def _floor_above(sim: RepositorySimulator) -> None:
    custom = ReleaseCustom(Counter(0, 1), Counter(0, 2), BlobRef(Digest.of(b""), 1), Rollout()).to_json()
    sim.add_release_entry(V, counter=Counter(0, 1), manifest=f"manifest of {V}".encode(), custom=custom)
    sim.publish(RELEASE)


def _other_epoch(sim: RepositorySimulator) -> None:
    sim.targets.unrecognized_fields["epochs"] = {"digits/ocr": 1}
    sim.publish("targets")


BROKEN: dict[str, tuple[Callable[[RepositorySimulator], None], str]] = {
    "1 top-level targets lists a target": (_list_at_top, "targets_lists_targets"),
    "2 the release delegation also matches audit paths": (_widen_release, "delegation_ambiguous"),
    "2 a second delegation matches the path": (_second_delegation, "delegation_ambiguous"),
    "2 a delegation does not terminate": (_not_terminating, "delegation_ambiguous"),
    "3 one key in release and audit": (_share_a_key, "roles_share_keys"),
    "3 one key in audit and timestamp": (_share_with_online, "roles_share_keys"),
    "3 one key under two ids in another spelling": (_same_key_twice, "roles_share_keys"),
    "4 a role does not say when it was issued": (_drop_issued, "issued_missing"),
    "4 a role lives longer than its cap": (_long_life, "expiry_over_cap"),
    "5 a role lists a path of another line": (_foreign_path, "path_outside_role"),
    "6 the release entry is missing": (_no_release_entry, "release_entry_missing"),
    "6 the audit entry is missing": (_no_audit_entry, "audit_entry_missing"),
    "6 the audit role is not in snapshot": (_no_audit_role, "audit_entry_missing"),
    "7 an entry carries a second hash": (_md5_too, "hash_not_sha256"),
    "8 the entries name different bytes": (_other_bytes, "entries_differ"),
    "9 a custom record has an unknown field": (_unknown_custom, "field_unknown"),
    "9 the records disagree on the counter": (_other_counter, "custom_mismatch"),
    "9 a floor above the counter": (_floor_above, "floor_above_counter"),
    "10 the counter is of another epoch": (_other_epoch, "epoch_mismatch"),
}


def test_an_agreed_release_is_returned(sim: RepositorySimulator, tmp_path: Path) -> None:
    agreed = sim.refresh(tmp_path).agree(sim.path(V))
    assert agreed.manifest == BlobRef.of(f"manifest of {V}".encode())
    assert agreed.release.counter == agreed.audit.counter == Counter(0, 1)


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_refused_with_its_code(rule: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    break_it, code = BROKEN[rule]
    break_it(sim)
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path).agree(sim.path(V))
    assert refusal.value.code == code


def test_nobody_else_can_make_an_agreed_release(sim: RepositorySimulator, tmp_path: Path) -> None:
    agreed = sim.refresh(tmp_path).agree(sim.path(V))
    with pytest.raises(TypeError):
        AgreedRelease(agreed.path, agreed.manifest, agreed.release, agreed.audit, object())


def test_an_entry_signed_by_one_release_key_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.signers[RELEASE][1] = CryptoSigner.generate_ed25519()
    sim.publish(RELEASE)
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path).agree(sim.path(V))
    assert refusal.value.code == "signature_threshold"


def test_evidence_holds_the_files_that_the_agreement_rested_on(sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path)
    trusted.agree(sim.path(V))
    evidence = trusted.evidence(sim.path(V))
    assert set(evidence) == {"1.root.json", "targets.json", f"{RELEASE}.json", f"{AUDIT}.json"}
    assert evidence[f"{AUDIT}.json"] == sim.role_bytes(AUDIT)


def test_expired_metadata_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path, now=NOW + timedelta(days=2))
    assert refusal.value.code == "metadata_expired"
