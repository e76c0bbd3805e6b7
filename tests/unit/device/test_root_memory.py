"""A device that lost its cache still starts from the newest root it has verified (R05)."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from tests.simulator import RepositorySimulator
from tests.unit.device.world import THE_MODEL, World, bundle


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A device whose root keys were rotated once, and which has seen it."""
    made = World(tmp_path / "device")
    made.install()
    rotate_root_keys(made.sim)
    assert made.poll().result == "current"
    return made


def rotate_root_keys(sim: RepositorySimulator) -> list[CryptoSigner]:
    """Replaces both root keys, signed by the old and the new ones; returns the old ones."""
    old, new = sim.signers["root"], [CryptoSigner.generate_ed25519() for _ in range(2)]
    for signer in old:
        sim.root.revoke_key(signer.public_key.keyid, "root")
    for signer in new:
        sim.root.add_key(signer.public_key, "root")
    sim.root.version += 1
    metadata = Metadata(copy.deepcopy(sim.root))
    for signer in (*old, *new):
        metadata.sign(signer, append=True)
    sim.served[f"{sim.root.version}.root.json"] = metadata.to_bytes(JSONSerializer(compact=True))
    sim.signers["root"] = new
    return old


def test_a_root_chain_forged_with_rotated_out_keys_is_refused_after_the_cache_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    world.install()
    stolen = rotate_root_keys(world.sim)
    world.poll()
    evil = RepositorySimulator()
    evil.root.version = 2
    evil.signers["root"] += stolen
    evil.served["2.root.json"] = evil.role_bytes("root")
    evil.root.version = 3
    forged = bundle("6.6.6", counter=99)
    world.sim, honest = evil, world.sim
    world.publish(forged)
    for name in ("timestamp", "snapshot"):  # above every mark that the device could hold against it
        getattr(evil, name).version += 100
    evil.publish()
    shutil.rmtree(world.device.folder.metadata)
    assert world.refusal().code == "signature_threshold"
    with world.state() as state:
        active = state.active(THE_MODEL)
        assert active is not None
        assert active.version == "1.0.0"
    world.sim = honest
    world.server.offered = "1.0.0"
    assert world.poll().result == "current"


def test_a_root_changed_in_spaces_only_does_not_lock_the_device_out(world: World) -> None:
    name = f"{world.sim.root.version}.root.json"
    world.sim.served[name] += b"\n"
    shutil.rmtree(world.device.folder.metadata)
    assert world.poll().result == "current"


def test_evidence_goes_back_to_the_root_that_was_given(world: World) -> None:
    shutil.rmtree(world.device.folder.metadata)
    world.install("1.1.0", counter=2, scale=3.0)
    with world.state() as state:
        assert set(state.roots()) == {1, 2}
        assert {"1.root.json", "2.root.json"} <= set(state.evidence(state.active(THE_MODEL)))
