"""The server looks alive and keeps the new release back: the channel, signed by the release team, gives it away."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from demo.names import SECOND
from device_client.errors import TransportError
from tests.threats.front import Front, whole
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed
from tests.threats.world import World


def offer_what_runs(world: World, front: Front) -> None:
    world.web.offer(world.town.first.bundle.path)


def offer_nothing(world: World, front: Front) -> None:
    front.spoil["/v1/devices/me/next?model=digits/mlp"] = lambda connection: connection.sendall(
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    )


def offer_an_error(world: World, front: Front) -> None:
    front.spoil["/v1/devices/me/next?model=digits/mlp"] = whole(b"", status="404 Not Found")


WAYS: dict[str, Callable[[World, Front], Any]] = {
    "it offers what runs already": offer_what_runs,
    "it offers nothing": offer_nothing,
    "it answers with an error": offer_an_error,
}


@pytest.mark.parametrize("hold", WAYS.values(), ids=WAYS.keys())
def test_a_release_that_is_never_offered_raises_an_alarm_after_its_days(world: World, hold: Callable[[World, Front], Any]) -> None:
    """A24. Fresh timestamps every day; seven days of patience, then one alarm; the model runs on; offered at last, it installs."""
    hands = Hands(world)
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        hold(world, front)
        for day in range(1, 10):
            poll_whatever_comes(world)
            assert world.alarms() == ([] if day <= 7 else ["withheld"]), day
            assert world.footprint() == before, "the running model goes on"
            world.pass_time(days=1)
            hands.announce()
        assert world.told().count(("alarm", "withheld")) == 1
        front.spoil.clear()
        world.web.offer(world.town.second.bundle.path)
        expect_installed(world, SECOND, before=before)
        assert world.alarms() == []


def test_a_release_that_is_offered_and_never_delivered_is_told_as_behind(world: World) -> None:
    """A24. The offer alone must not quiet the device: fourteen days, then the alarm."""
    hands = Hands(world)
    before = world.footprint()
    blob = world.web.blob_file(world.town.second.model.hex)
    data = blob.read_bytes()
    blob.unlink()
    for day in range(1, 16):
        assert world.refusal().code == "not_found"
        assert world.alarms() == ([] if day <= 14 else ["behind"]), day
        world.pass_time(days=1)
        hands.announce()
    blob.write_bytes(data)
    expect_installed(world, SECOND, before=before)
    assert world.alarms() == []


def poll_whatever_comes(world: World) -> None:
    """An error may be the server's way to hold something back."""
    with contextlib.suppress(TransportError):
        world.poll()
