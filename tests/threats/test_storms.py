"""A server that is overloaded, or says so for ever: tries are few, pauses are short, random and ours."""

from __future__ import annotations

import random
import time

import pytest

from demo.names import SECOND
from device_client.install.http import HttpClient
from tests.threats.front import Flood, Front, whole
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.test_endless import blob_path, path_of
from tests.threats.world import World

NEXT = "/v1/devices/me/next?model=digits/mlp"


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_a_storm_costs_a_few_short_tries_whatever_retry_after_says(world: World, status: str) -> None:
    """A22."""
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        storm = whole(b"", "Retry-After: 864000", status=status)
        for place, code, tries in (
            (path_of(world, "timestamp"), "metadata_unavailable", 1),
            (blob_path(world), "http_status", 3),
            (NEXT, "http_status", 3),
        ):
            front.spoil, front.requests[:] = {place: storm}, []
            pauses: list[float] = []
            begin = time.monotonic()
            expect_refusal(world, code, before=before, http=HttpClient(front.url, sleep=pauses.append))
            assert front.requests.count(place) == tries
            assert len(pauses) == tries - 1
            assert all(0 <= pause <= 10 for pause in pauses)
            assert time.monotonic() - begin < 20
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)


def test_the_body_of_a_storm_is_not_read_to_its_end(world: World) -> None:
    """A22."""
    flood = Flood(b"x" * 65_536)
    flood._head = flood._head.replace(b"200 OK", b"503 Service Unavailable\r\nRetry-After: 1")
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        front.spoil["/tuf/timestamp.json"] = flood
        expect_refusal(world, "metadata_unavailable", before=before)
        assert flood.sent < 8 * 1024 * 1024
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)


def test_devices_that_were_turned_away_together_do_not_come_back_together(world: World) -> None:
    """A22. A thousand devices after the same 503: their next tries are spread over the whole pause, not in step."""
    pauses: list[float] = []
    with Front(world.server.url) as front:
        front.spoil["*"] = whole(b"", "Retry-After: 5", status="503 Service Unavailable")
        for seed in range(20):
            random.seed(seed)
            with pytest.raises(Exception, match="refused"):
                HttpClient(front.url, sleep=pauses.append, retries=1).request("GET", NEXT)
    assert len({round(pause, 3) for pause in pauses}) >= 15
    assert max(pauses) - min(pauses) > 0.3


def test_a_busy_answer_before_the_good_one_costs_no_poll(world: World) -> None:
    """A22."""
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        busy = whole(b"", "Retry-After: 864000", status="503 Service Unavailable")

        def calm_down(_: float) -> None:
            front.spoil.clear()

        front.spoil[NEXT] = busy
        expect_installed(world, SECOND, before=before, http=HttpClient(front.url, sleep=calm_down))
