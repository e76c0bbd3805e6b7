"""A byte of the model flipped on the server: the device refuses what it read, and keeps nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from demo import attacks
from demo.attacker import flip_byte
from demo.names import SECOND
from device_client.bundle.digest import Digest
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.world import World


def test_a_byte_flipped_in_the_model_is_refused_and_the_whole_model_installs(world: World) -> None:
    model = world.town.second.model
    attack = attacks.flipped_byte(world.stage, version=SECOND, blob=model)
    attack.strike()
    assert Digest.of(world.web.blob_file(model.hex).read_bytes()) != model, "the attack does what it says"
    attack.mend()
    refuse_then_install(world, attack)


PARTS: dict[str, Callable[[World], Digest]] = {
    "the manifest": lambda w: w.town.second.bundle.digest,
    "the config": lambda w: w.town.second.bundle.manifest.config.digest,
    "the contract": lambda w: w.town.second.bundle.manifest.contract.digest,
    "the golden probes": lambda w: w.town.second.bundle.manifest.golden.digest,
    "the model": lambda w: w.town.second.model,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_a_byte_flipped_in_any_part_that_the_device_reads_is_refused_and_nothing_of_it_is_kept(
    world: World, part: Callable[[World], Digest]
) -> None:
    digest, before = part(world), world.footprint()
    flip_byte(world.web.blob_file(digest.hex), offset=1)
    expect_refusal(world, "blob_digest_mismatch", before=before)
    assert not world.blob(digest).exists()


SIZES: dict[str, Callable[[bytes], bytes]] = {"one byte more": lambda data: data + b"\0", "one byte less": lambda data: data[:-1]}


@pytest.mark.parametrize("change", SIZES.values(), ids=SIZES.keys())
def test_a_model_of_another_length_is_refused_and_the_whole_model_installs(world: World, change: Callable[[bytes], bytes]) -> None:
    path: Path = world.web.blob_file(world.town.second.model.hex)
    data, before = path.read_bytes(), world.footprint()
    path.write_bytes(change(data))
    expect_refusal(world, "blob_size_mismatch", before=before)
    assert not world.blob(world.town.second.model).exists()
    path.write_bytes(data)
    expect_installed(world, SECOND, before=before)


def test_a_refused_download_bans_nothing(world: World) -> None:
    """Whoever sits on the network must not be able to make a device give up a good model."""
    before = world.footprint()
    attack = attacks.flipped_byte(world.stage, version=SECOND, blob=world.town.second.model)
    attack.strike()
    for _ in range(3):
        assert world.refusal().code == attack.code
    assert world.rows("SELECT * FROM known_bad") == ()
    attack.mend()
    expect_installed(world, SECOND, before=before)
