"""Answers without end, with a false length, compressed, or a byte at a time: a bounded amount is read, for a bounded time."""

from __future__ import annotations

import gzip
import shutil
import time
import tracemalloc
from collections.abc import Callable

import pytest

from demo.names import AUDIT, RELEASE, SECOND
from device_client.install.http import HttpClient
from device_client.limits import DEFAULT_LIMITS, MIB
from device_client.trust.fetcher import SealiftFetcher
from tests.threats.front import Flood, Front, Script, trickle, whole
from tests.threats.judge import expect_current, expect_installed, expect_refusal
from tests.threats.test_mixed import served
from tests.threats.world import World

SOCKET_BUFFERS = 8 * MIB  # what the kernel takes before anybody reads it
CAPS = {
    "root": DEFAULT_LIMITS.max_root_bytes,
    "timestamp": DEFAULT_LIMITS.max_timestamp_bytes,
    "snapshot": DEFAULT_LIMITS.max_snapshot_bytes,
    "targets": DEFAULT_LIMITS.max_targets_bytes,
    RELEASE: DEFAULT_LIMITS.max_targets_bytes,
    AUDIT: DEFAULT_LIMITS.max_targets_bytes,
}


def path_of(world: World, role: str) -> str:
    return "/tuf/2.root.json" if role == "root" else f"/tuf/{served(world, role).name}"


def cache_bytes(world: World) -> int:
    return sum(path.stat().st_size for path in world.device.folder.metadata.rglob("*") if path.is_file())


def peak_bytes(action: Callable[[], object]) -> int:
    """The most memory that Python held during ``action``."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def usual_peak_bytes(world: World) -> int:
    """The same of a poll that finds nothing new; what a test asks of the world is counted too."""
    world.web.offer(world.town.first.bundle.path)
    before = world.footprint()
    peak = peak_bytes(lambda: expect_current(world, before=before))
    world.web.offer(world.town.second.bundle.path)
    return peak


@pytest.mark.parametrize("is_chunked", [False, True], ids=["plain", "chunked"])
@pytest.mark.parametrize("role", [role for role in CAPS if "-" not in role])
def test_endless_metadata_is_cut_at_the_cap_of_its_role(world: World, role: str, *, is_chunked: bool) -> None:
    """A15. Memory, disk and what is taken from the wire stay bounded."""
    usual, kept = usual_peak_bytes(world), cache_bytes(world)
    shutil.rmtree(world.device.folder.metadata)  # every role is asked for
    flood = Flood(b" " * 65_536, is_chunked=is_chunked)
    with Front(world.server.url) as front:
        world.ask(front.url)
        front.spoil[path_of(world, role)] = flood
        before = world.footprint()
        peak = peak_bytes(lambda: expect_refusal(world, "too_large", before=before))
        assert flood.sent <= CAPS[role] + SOCKET_BUFFERS
        assert peak <= usual + 3 * CAPS[role] + MIB
        assert cache_bytes(world) <= kept + 64 * 1024, "nothing of it is on the disk"
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)


def blob_path(world: World) -> str:
    return f"/blobs/sha256/{world.town.second.model.hex}"


def model(world: World) -> bytes:
    return world.web.blob_file(world.town.second.model.hex).read_bytes()


ARTIFACTS: dict[str, tuple[Callable[[World], Script], str]] = {
    "without end": (lambda w: Flood(b"x" * 65_536), "blob_size_mismatch"),
    "without end, in chunks": (lambda w: Flood(b"x" * 65_536, is_chunked=True), "blob_size_mismatch"),
    "without end, after the right bytes": (lambda w: Flood(model(w)), "blob_size_mismatch"),
    "with a length of an exabyte": (lambda w: Flood(b"x" * 65_536, length=2**60), "blob_size_mismatch"),
    "shorter than signed": (lambda w: whole(model(w)[:-1]), "blob_size_mismatch"),
    "a byte longer than signed": (lambda w: whole(model(w) + b"\0"), "blob_size_mismatch"),
}


@pytest.mark.parametrize(("make", "code"), ARTIFACTS.values(), ids=ARTIFACTS.keys())
def test_an_artifact_stops_at_its_signed_length_whatever_the_answer_says(
    world: World, make: Callable[[World], Script], code: str
) -> None:
    """A16."""
    with Front(world.server.url) as front:
        world.ask(front.url)
        script = make(world)
        front.spoil[blob_path(world)] = script
        before = world.footprint()
        expect_refusal(world, code, before=before)
        assert not world.blob(world.town.second.model).exists()
        assert not isinstance(script, Flood) or script.sent <= SOCKET_BUFFERS
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)


BOMB = gzip.compress(bytes(200 * MIB), compresslevel=1)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_an_encoded_answer_is_refused_unread(world: World, coding: str) -> None:
    """A17. For metadata, blobs and the device API; 200 MiB of zeros in a megabyte are never unpacked."""
    usual = usual_peak_bytes(world)
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        bomb = whole(BOMB[:65_000], f"Content-Encoding: {coding}")
        places = {
            path_of(world, "timestamp"): "transport",
            blob_path(world): "encoding_refused",
            "/v1/devices/me/next?model=digits/mlp": "encoding_refused",
        }
        for place, code in places.items():
            front.spoil = {place: bomb}
            peak = peak_bytes(lambda code=code: expect_refusal(world, code, before=before))
            assert peak < usual + 2 * MIB, place
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)


def test_bytes_that_trickle_end_at_the_deadline_and_are_told_as_slow(world: World) -> None:
    """A18. For a role, for a blob and for the server's own answers."""
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        for place in (path_of(world, "timestamp"), blob_path(world), "/v1/devices/me/next?model=digits/mlp"):
            front.spoil = {place: trickle}
            begin = time.monotonic()
            expect_refusal(
                world,
                "transport_slow",
                before=before,
                fetcher=SealiftFetcher(deadline_s=0.4),
                http=HttpClient(front.url, deadline_s=0.4, min_rate_bytes_s=10**9, retries=0),
            )
            assert time.monotonic() - begin < 8, "not the twenty seconds that the answer would take"
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)
