"""Redirects: none is followed, wherever it points. One https redirect of a blob to a pinned origin is allowed and not built."""

from __future__ import annotations

import pytest

from demo.names import SECOND
from tests.threats.front import Front, whole
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.test_endless import blob_path, path_of
from tests.threats.world import World

PLACES = {
    "another host": "https://mirror.example/x",
    "plain http": "http://mirror.example/x",
    "this machine": "http://127.0.0.1:9/x",
    "the cloud's metadata service": "http://169.254.169.254/latest/meta-data/",
    "a file": "file:///etc/passwd",
    "no scheme": "//mirror.example/x",
}


@pytest.mark.parametrize("location", PLACES.values(), ids=PLACES.keys())
def test_a_redirect_is_refused_and_nobody_else_is_asked(world: World, location: str) -> None:
    """A21. For metadata, blobs and the device API, whatever the status."""
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        for status in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
            away = whole(b"", f"Location: {location}", status=status)
            for place, code in {
                path_of(world, "timestamp"): "metadata_unavailable",
                blob_path(world): "redirect_refused",
                "/v1/devices/me/next?model=digits/mlp": "redirect_refused",
            }.items():
                front.spoil = {place: away}
                expect_refusal(world, code, before=before)
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)


def test_a_redirect_to_another_port_of_this_machine_reaches_nobody(world: World) -> None:
    """A21. The other server is there, holds exactly what was asked for, and hears nothing: no token, no path."""
    with Front(world.server.url) as front, Front(world.server.url) as other:
        world.ask(front.url)
        before = world.footprint()
        for place, code in {path_of(world, "timestamp"): "metadata_unavailable", blob_path(world): "redirect_refused"}.items():
            front.spoil = {place: whole(b"", f"Location: {other.url}{place}", status="302 Found")}
            expect_refusal(world, code, before=before)
        assert other.requests == []
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)
