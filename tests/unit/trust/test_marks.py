"""What the client remembers when its cache is wiped, and what a key rotation forgives."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from device_client.errors import SealiftError
from tests.simulator import AUDIT, RELEASE, RepositorySimulator


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release("1.0.0", counter=1)
    return simulator


def _refused(sim: RepositorySimulator, cache: Path, **kwargs: object) -> str:
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(cache, **kwargs).agree(sim.path("1.0.0"))  # type: ignore[arg-type]
    return refusal.value.code


def test_an_old_timestamp_replayed_is_refused_by_the_cache(sim: RepositorySimulator, tmp_path: Path) -> None:
    old = sim.role_bytes("timestamp")
    sim.publish()
    sim.refresh(tmp_path)
    sim.served["timestamp.json"] = old
    assert _refused(sim, tmp_path) == "metadata_rollback"


def test_an_old_repository_is_refused_with_the_cache_wiped(sim: RepositorySimulator, tmp_path: Path) -> None:
    old = copy.deepcopy(sim)
    sim.publish()
    marks = sim.refresh(tmp_path / "a").marks
    assert _refused(old, tmp_path / "b", marks=marks) == "metadata_rollback"


def test_an_old_delegated_role_is_refused_with_the_cache_wiped(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.publish(RELEASE)
    trusted = sim.refresh(tmp_path / "a")
    trusted.agree(sim.path("1.0.0"))
    old = copy.deepcopy(sim)
    old.delegated[RELEASE].version -= 1
    old.publish()
    old.snapshot.meta[f"{RELEASE}.json"].version -= 1
    assert _refused(old, tmp_path / "b", marks=trusted.marks) == "metadata_rollback"


def test_the_same_version_with_other_bytes_is_equivocation(sim: RepositorySimulator, tmp_path: Path) -> None:
    marks = sim.refresh(tmp_path / "a").marks
    sim.targets.unrecognized_fields["note"] = "other bytes"
    assert _refused(sim, tmp_path / "b", marks=marks) == "equivocation"


def test_rotating_the_timestamp_key_recovers_from_a_fast_forward(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.timestamp.version = 1_000_000  # a thief of the key announces a huge version
    marks = sim.refresh(tmp_path).marks
    sim.timestamp.version = 9
    assert _refused(sim, tmp_path, marks=marks) == "metadata_rollback"
    stolen = sim.signers["timestamp"][0].public_key.keyid
    sim.signers["timestamp"] = [CryptoSigner.generate_ed25519()]
    sim.root.add_key(sim.signers["timestamp"][0].public_key, "timestamp")
    sim.root.revoke_key(stolen, "timestamp")
    sim.root.version += 1
    assert sim.refresh(tmp_path, marks=marks).agree(sim.path("1.0.0"))


def test_marks_cover_every_role_that_was_read(sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path)
    trusted.agree(sim.path("1.0.0"))
    assert {mark.role for mark in trusted.marks.versions} == {"timestamp", "snapshot", "targets", RELEASE, AUDIT}


def test_metadata_with_a_duplicate_key_is_refused_before_it_is_parsed(sim: RepositorySimulator, tmp_path: Path) -> None:
    data = sim.role_bytes("timestamp")
    sim.served["timestamp.json"] = data.replace(b'"version":', b'"version":1,"version":', 1)
    assert _refused(sim, tmp_path) == "json_syntax"


def test_an_endless_timestamp_is_cut_at_its_cap(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.served["timestamp.json"] = b" " * 70_000
    assert _refused(sim, tmp_path) == "too_large"
