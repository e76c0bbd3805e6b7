"""What lies in the disposable cache, or was changed on the way without a key, breaks nothing for good."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.formats import encode_canonical

from device_client.errors import SealiftError
from tests.simulator import RELEASE, RepositorySimulator

V = "1.0.0"


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _folder(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_folder, _link, os.mkfifo], ids=["folder", "endless link", "pipe"])
@pytest.mark.parametrize("name", ["timestamp.json", "targets.json", f"{RELEASE}.json", "root_history/1.root.json", "root_history"])
def test_a_cache_entry_that_is_no_file_is_cleared_away(
    sim: RepositorySimulator, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    sim.refresh(tmp_path).agree(sim.path(V))
    assert (tmp_path / "timestamp.json").is_file()


def test_a_file_in_place_of_the_cache_is_cleared_away(sim: RepositorySimulator, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("x")
    assert sim.refresh(tmp_path / "cache").agree(sim.path(V))


def test_a_cache_that_vanishes_during_a_refresh_is_an_error_of_ours(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.root.version = 2
    sim.refresh(tmp_path / "cache")  # root 2 is read from the cache from now on
    trusted = sim.refresh(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert trusted.root_bytes == sim.role_bytes("root")
    with pytest.raises(SealiftError) as refusal:
        trusted.agree(sim.path(V))
    assert refusal.value.code == "cache_unwritable"


@pytest.mark.parametrize("name", ["timestamp.json", f"1.{RELEASE}.json"])
def test_a_space_added_on_the_way_is_not_remembered_as_an_equivocation(sim: RepositorySimulator, tmp_path: Path, name: str) -> None:
    honest = sim.role_bytes(name.removeprefix("1.").removesuffix(".json"))
    sim.served[name] = honest + b" "
    touched = sim.refresh(tmp_path / "a")
    touched.agree(sim.path(V))
    sim.served[name] = honest
    assert sim.refresh(tmp_path / "b", marks=touched.marks).agree(sim.path(V))


def test_a_delegation_to_a_key_that_is_not_there_is_an_error_of_ours(sim: RepositorySimulator, tmp_path: Path) -> None:
    assert sim.targets.delegations is not None
    assert sim.targets.delegations.roles is not None
    sim.targets.delegations.roles[RELEASE].keyids.append("f" * 64)
    sim.publish("targets")
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path).agree(sim.path(V))
    assert refusal.value.code == "metadata_invalid"


def test_a_root_naming_a_snapshot_key_that_is_not_there_is_an_error_of_ours(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.root.roles["snapshot"].keyids.append("f" * 64)
    sim.root.version = 2
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path)
    assert refusal.value.code == "metadata_invalid"


def test_a_root_with_an_unknown_key_type_says_that_the_client_is_too_old(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.root.version = 2
    signed = json.loads(sim.role_bytes("root"))["signed"]
    signed["keys"]["e" * 64] = {"keytype": "slh-dsa", "scheme": "slh-dsa-sha2-128s", "keyval": {"public": "ab"}}
    made = [signer.sign(encode_canonical(signed).encode()) for signer in sim.signers["root"]]
    signatures = [{"keyid": signature.keyid, "sig": signature.signature} for signature in made]
    sim.served["2.root.json"] = json.dumps({"signed": signed, "signatures": signatures}).encode()
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(tmp_path)
    assert refusal.value.code == "key_type"
    assert refusal.value.hint is not None
    assert "too old" in refusal.value.hint
