"""A device that loses its state runs what it came with, as far as that is proved, and forgets nothing that it must remember."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from device_client.bundle import Counter
from device_client.install.boot import Recovered, recover
from device_client.install.import_factory import install_factory
from device_client.trust.trusted_time import BootTime
from tests.unit.device.offline_files import release, write_file
from tests.unit.device.test_import import passes
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle


@pytest.fixture
def factory(world: World, tmp_path: Path) -> Bundle:
    """The device came with 1.0.0; 2.0.0 was installed since and is committed."""
    made = bundle("1.0.0", counter=1, scale=2.0)
    write_file(tmp_path / "factory.tar", release(world, made))
    install_factory(world.device, tmp_path / "factory.tar", clock=world.clock, uptime=world.uptime, selftest=passes)
    newer = bundle("2.0.0", counter=2, scale=3.0)
    world.publish(newer, seq=2)
    assert world.poll(selftest=passes).result == "installed"
    return made


def lose_state(world: World) -> None:
    world.device.folder.state.write_bytes(b"garbage" * 1000)


def boot(world: World) -> Recovered:
    world.boot = BootTime(f"{world.boot.boot}+", 5.0)
    (found,) = recover(world.device, clock=world.clock, uptime=world.uptime)
    return found


def kept(world: World) -> Path:
    return world.device.folder.path / "factory" / THE_MODEL.line / f"{THE_MODEL.model}.json"


@pytest.mark.usefixtures("factory")
def test_a_lost_state_is_made_anew_around_the_factory_bundle_and_lowers_nothing(world: World) -> None:
    lose_state(world)
    found = boot(world)
    assert (found.result, found.deployment and found.deployment.version) == ("sound", "1.0.0")
    assert world.running() == 2.0
    with world.state() as state:
        memory = state.memory(THE_MODEL)
        assert (memory.counter, set(memory.versions)) == (Counter(0, 2), {"1.0.0", "2.0.0"})
        assert state.factory(THE_MODEL) is not None
    world.enroll()
    assert world.poll(selftest=passes).result == "installed"
    assert world.running() == 3.0
    assert ("alarm", "state_rebuilt") in world.events()


def change(key: str, value: object) -> Callable[[World, Bundle], None]:
    def spoil(world: World, _: Bundle) -> None:
        told = json.loads(kept(world).read_bytes())
        kept(world).write_text(json.dumps({**told, key: value}))

    return spoil


def withdraw(world: World, made: Bundle) -> None:
    with world.state() as state, state.transaction():
        state.remember_withdrawal(THE_MODEL, made.digest, [made.model()], 9)


def raise_floor(world: World, _: Bundle) -> None:
    with world.state() as state, state.transaction():
        state.raise_floor(THE_MODEL, Counter(0, 2))


def lose_model(world: World, made: Bundle) -> None:
    (world.device.folder.blobs / "sha256" / made.model().hex).unlink()


SPOILT: dict[str, Callable[[World, Bundle], None]] = {
    "it is withdrawn": withdraw,
    "it is below the floor": raise_floor,
    "its model is gone": lose_model,
    "its file names another manifest": change("manifest", f"sha256:{'0' * 64}"),
    "its file names another counter": change("counter", [0, 9]),
    "its file names another version": change("version", "9.0.0"),
    "its file has no evidence": change("evidence", {}),
    "its file has evidence that is no base64": change("evidence", {"targets.json": "*"}),
    "its file has a key too many": change("more", 1),
    "its file is no JSON": lambda world, _: (kept(world).write_bytes(b"{"), None)[1],
    "its file is gone": lambda world, _: kept(world).unlink(),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_nothing_runs_from_the_factory_when(world: World, factory: Bundle, spoil: Callable[[World, Bundle], None]) -> None:
    spoil(world, factory)
    with world.state() as state:
        before = state.memory(THE_MODEL)
    lose_state(world)
    boot(world)
    with world.state() as state:
        assert state.active(THE_MODEL) is None
        after = state.memory(THE_MODEL)
    assert (after.counter, after.manifest, after.floor, after.withdrawn) == (
        before.counter, before.manifest, before.floor, before.withdrawn,
    )  # fmt: skip
    world.enroll()
    assert world.poll(selftest=passes).result == "installed", "and the next poll makes it good"
