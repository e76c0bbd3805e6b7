"""Any one file of a device is damaged in any way: it is found, set aside and made anew, and nothing remembered is lowered (F06)."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from device_client.errors import IntegrityError, PolicyError, StateError
from device_client.install.mirror import Remembered
from tests.faults.aftermath import check_memory, mirrored, reboot
from tests.faults.damage import DAMAGES, Damage, a_folder, victims
from tests.faults.scenarios import install, passes
from tests.unit.device.world import World

KINDS = ("state.db", "marks.json", "metadata cache", "blob")
SEEDS = {"state.db": range(12), "marks.json": range(4), "metadata cache": range(1), "blob": range(1)}


@pytest.fixture
def installed(place: Path) -> tuple[World, Remembered]:
    world = World(place / "device")
    install(world, "1.0.0", counter=1, scale=2.0)
    install(world, "2.0.0", counter=2, scale=3.0)
    found = mirrored(world.device.folder.marks)
    assert found is not None
    return world, found


CASES = [(kind, damage) for kind in KINDS for damage in DAMAGES if damage is not a_folder or kind == "metadata cache"]


@pytest.mark.parametrize(("kind", "damage"), CASES, ids=lambda value: value if isinstance(value, str) else str(value.__name__))
def test_a_damaged_file_is_found_and_healed_and_no_memory_is_lowered(
    kind: str, damage: Damage, installed: tuple[World, Remembered], place: Path
) -> None:
    world, memory = installed
    names = [path.relative_to(place) for each, path in victims(world.device.folder) if each == kind]
    assert names
    for name in names:
        for seed in SEEDS[kind]:
            copy = place / "copy"
            shutil.copytree(place / "device", copy / "device", symlinks=True)
            damage(copy / name, random.Random(seed))
            damaged = reboot(world, copy / "device", reports=world.server.reports)
            check_healed(damaged, memory, kind)
            shutil.rmtree(copy)


def check_healed(world: World, memory: Remembered, kind: str) -> None:
    try:
        assert world.running() == 3.0, "damaged bytes ran"
    except (IntegrityError, StateError, PolicyError):
        assert kind in {"state.db", "blob"}, "only what the model rests on keeps it from running"
    heal(world)
    assert world.running() == 3.0
    check_memory(world, memory)


def heal(world: World) -> None:
    """One cycle. A database that was made anew must enrol, which an operator's agent does when it is told so."""
    try:
        world.poll(selftest=passes)
    except StateError as error:
        if error.code != "not_enrolled":
            raise
        world.enroll()
        world.poll(selftest=passes)


@pytest.mark.parametrize("kind", ["state.db", "marks.json"])
def test_a_folder_in_a_files_place_is_refused_with_a_code_and_touches_nothing(
    kind: str, installed: tuple[World, Remembered], place: Path
) -> None:
    world, memory = installed
    path = [path for each, path in victims(world.device.folder) if each == kind][-1]
    kept = place / "kept"
    path.rename(kept)
    path.mkdir()
    with pytest.raises(StateError) as caught:
        world.poll(selftest=passes)
    assert caught.value.code in {"state_owner", "state_unwritable"}
    path.rmdir()
    kept.rename(path)
    heal(world)
    assert world.running() == 3.0
    check_memory(world, memory)


def test_both_copies_of_the_memory_damaged_is_an_error_that_says_so_and_the_blobs_stay(
    installed: tuple[World, Remembered],
) -> None:
    world, _ = installed
    folder = world.device.folder
    before = sorted(path.name for path in folder.blobs.rglob("*"))
    folder.marks.unlink()
    a_folder(folder.state, random.Random(0))
    with pytest.raises(StateError) as caught:
        world.poll(selftest=passes)
    assert caught.value.code in {"state_missing", "state_damaged", "state_owner"}
    assert sorted(path.name for path in folder.blobs.rglob("*")) == before
