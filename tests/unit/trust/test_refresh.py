"""The refresh as a whole: what is remembered when it breaks off, long root chains, and keys that are counted once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from device_client.errors import SealiftError
from device_client.limits import Limits
from device_client.trust.marks import Marks
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp

V = "1.0.0"


class Memory:
    """What a device would keep."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.roots: dict[int, bytes] = {}
        self.calls = 0

    def __call__(self, marks: Marks, roots: Mapping[int, bytes]) -> None:
        self.marks, self.roots, self.calls = marks, dict(roots), self.calls + 1


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _refused(sim: RepositorySimulator, cache: Path, **kwargs: object) -> str:
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(cache, **kwargs).agree(sim.path(V))  # type: ignore[arg-type]
    return refusal.value.code


def test_memory_is_told_once_of_a_refresh_that_succeeds(sim: RepositorySimulator, tmp_path: Path) -> None:
    memory = Memory()
    trusted = sim.refresh(tmp_path, remember=memory)
    assert (memory.calls, memory.marks, memory.roots) == (1, trusted.marks, {1: sim.bootstrap})


def test_a_refresh_that_breaks_off_remembers_what_it_had_verified(sim: RepositorySimulator, tmp_path: Path) -> None:
    memory = Memory()
    sim.next_root()
    sim.served[f"{sim.targets.version}.targets.json"] = b"{}"
    assert _refused(sim, tmp_path, remember=memory) == "metadata_invalid"
    assert memory.calls == 1
    assert set(memory.roots) == {1, 2}
    assert {mark.role for mark in memory.marks.versions} == {"timestamp", "snapshot"}


def test_a_refused_version_is_not_remembered(sim: RepositorySimulator, tmp_path: Path) -> None:
    memory = Memory()
    marks = sim.refresh(tmp_path / "a").marks
    sim.timestamp.version -= 1
    assert _refused(sim, tmp_path / "b", marks=marks, remember=memory) == "metadata_rollback"
    assert memory.marks.versions == marks.versions


def test_forty_roots_are_walked_in_one_refresh_however_long_they_have_expired(sim: RepositorySimulator, tmp_path: Path) -> None:
    """K09."""
    for _ in range(39):
        stamp(sim.root, 10, now=NOW.replace(year=2025))
        if sim.root.version == 39:
            stamp(sim.root, 300)
        sim.rotate("root")
    trusted = sim.refresh(tmp_path)
    assert trusted.root.version == 40
    assert list(trusted.roots) == list(range(1, 41))
    assert trusted.agree(sim.path(V))


def test_a_root_chain_beyond_the_cap_is_a_clear_error_and_the_next_refresh_goes_on(
    sim: RepositorySimulator, tmp_path: Path
) -> None:
    """K10."""
    for _ in range(7):
        sim.next_root()
    limits = Limits(max_root_rotations=5)
    memory = Memory()
    assert _refused(sim, tmp_path, limits=limits, remember=memory) == "root_chain_too_long"
    assert max(memory.roots) == 6
    assert [name for name in sim.requests if not name.endswith("root.json")] == []
    trusted = sim.refresh(tmp_path / "b", limits=limits, bootstrap=memory.roots[6])
    assert trusted.root.version == 8


def test_a_hole_in_the_root_chain_ends_it_cleanly(sim: RepositorySimulator, tmp_path: Path) -> None:
    """K10."""
    sim.next_root()
    second = sim.served.pop("2.root.json")
    sim.rotate("timestamp")
    memory = Memory()
    assert _refused(sim, tmp_path, remember=memory) == "signature_threshold"  # the new timestamp, by the only root there is
    assert set(memory.roots) == {1}
    sim.served["2.root.json"] = second
    assert sim.refresh(tmp_path).agree(sim.path(V))


def test_one_key_under_two_ids_in_root_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    """K11: 64 zeros and the real id name one key; python-tuf counts it twice."""
    signer = sim.signers["root"][0]
    twin = SSlibKey("0" * 64, "ed25519", "ed25519", {"public": signer.public_key.keyval["public"].upper()})
    sim.rotate("root", [signer, CryptoSigner(signer._private_key, twin)])
    assert _refused(sim, tmp_path / "a") == "roles_share_keys"
    sim.bootstrap = sim.served["2.root.json"]
    assert _refused(sim, tmp_path / "b") == "roles_share_keys"


@pytest.mark.parametrize("role", [RELEASE, AUDIT])
def test_a_role_that_vanishes_from_snapshot_is_a_rollback_with_the_cache_wiped_too(
    role: str, sim: RepositorySimulator, tmp_path: Path
) -> None:
    """A03."""
    trusted = sim.refresh(tmp_path / "a")
    trusted.agree(sim.path(V))
    del sim.snapshot.meta[f"{role}.json"]
    sim.publish()
    assert _refused(sim, tmp_path / "a", marks=trusted.marks) == "metadata_invalid"  # python-tuf's own, by its cache
    assert _refused(sim, tmp_path / "b", marks=trusted.marks) == "metadata_rollback"
    code = "release_entry_missing" if role == RELEASE else "audit_entry_missing"
    assert _refused(sim, tmp_path / "c") == code  # a device that never saw it cannot know


def test_a_rotation_is_noticed_also_when_the_root_chain_breaks_off_behind_it(sim: RepositorySimulator, tmp_path: Path) -> None:
    """TUF 5.3.11: the keys of one online role rotate, and what both had announced is forgotten."""
    honest = (sim.snapshot.version, sim.timestamp.version)
    sim.snapshot.version = sim.timestamp.snapshot_meta.version = 10**6
    sim.refresh(tmp_path)
    sim.snapshot.version = sim.timestamp.snapshot_meta.version = honest[0]
    sim.timestamp.version += 1
    sim.rotate("snapshot")
    sim.served["3.root.json"] = b"{"
    memory = Memory()
    assert _refused(sim, tmp_path, remember=memory) == "json_syntax"
    del sim.served["3.root.json"]
    assert sim.refresh(tmp_path, bootstrap=memory.roots[2]).agree(sim.path(V))


def test_huge_versions_announced_with_stolen_online_keys_are_forgotten_when_those_rotate(
    sim: RepositorySimulator, tmp_path: Path
) -> None:
    """R06: snapshot can name any version of targets and of the roles below."""
    memory = Memory()
    honest = copy.deepcopy(sim)
    sim.timestamp.version = sim.snapshot.version = 10**9
    sim.timestamp.snapshot_meta.version = 10**9
    sim.snapshot.meta["targets.json"].version = sim.snapshot.meta[f"{RELEASE}.json"].version = 10**9
    assert _refused(sim, tmp_path / "a", remember=memory) == "metadata_unavailable"
    honest.signers["timestamp"], honest.signers["snapshot"] = sim.signers["timestamp"], sim.signers["snapshot"]
    assert _refused(honest, tmp_path / "a", marks=memory.marks) == "metadata_rollback"
    honest.rotate("timestamp")
    honest.rotate("snapshot")
    assert honest.refresh(tmp_path / "a", marks=memory.marks).agree(sim.path(V))
    assert honest.refresh(tmp_path / "b", marks=memory.marks).agree(sim.path(V))
