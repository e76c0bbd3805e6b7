"""A server passes on what a device signed for it: another server must not take it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from device_client.bundle.digest import Digest
from device_client.errors import TransportError
from device_client.install.enroll import enroll
from device_client.install.folder import Device, init_device
from device_client.install.http import Answer, HttpClient
from tests.threats.loopback import LoopbackServer
from tests.threats.town import PASSPHRASE, THE_MODEL
from tests.threats.world import World

PUBLIC = "https://models.example"


class Overheard(HttpClient):
    """The way to a server that keeps what it was sent."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self.bodies: list[bytes] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        self.bodies.append(body or b"")
        return super().request(method, path, body=body, token=token, headers=headers)


@pytest.fixture
def other(world: World) -> Iterator[LoopbackServer]:
    """Another server, known to its devices as ``PUBLIC``, behind a proxy that speaks TLS."""
    data = world.folder / "other"
    shutil.copytree(world.town.folder / "server", data)
    settings = data / "server.toml"
    settings.write_text(re.sub(r"public_urls = .*", f'public_urls = ["{PUBLIC}"]', settings.read_text()))
    with LoopbackServer(data, passphrase=PASSPHRASE, loopback=False) as server:
        yield server


def new_device(world: World, name: str, *, server: str) -> Device:
    root = world.device.root
    return init_device(world.folder / name, root=root, root_sha256=Digest.of(root), server=server, models=(THE_MODEL,))


def devices(data: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(data / "server.db")) as connection:
        return {device_id for (device_id,) in connection.execute("SELECT device_id FROM devices")}


def test_an_enrolment_signed_for_one_server_is_refused_by_another_and_leaves_nothing_there(
    world: World, other: LoopbackServer
) -> None:
    device = new_device(world, "new", server=world.server.url)
    overheard = Overheard(world.server.url)
    assert enroll(device, http=overheard).state == "accepted"
    known = devices(world.folder / "other")
    with pytest.raises(TransportError) as caught:
        HttpClient(other.url).request("POST", "/v1/enroll", body=overheard.bodies[0])
    assert caught.value.code == "audience"
    assert devices(world.folder / "other") == known
    assert device.identity.device_id not in known

    meant = new_device(world, "meant", server=PUBLIC)
    assert enroll(meant, http=HttpClient(other.url)).device_id == meant.identity.device_id
    assert devices(world.folder / "other") == {*known, meant.identity.device_id}


def test_an_enrolment_whose_audience_was_rewritten_is_refused(world: World, other: LoopbackServer) -> None:
    device = new_device(world, "new", server=world.server.url)
    overheard = Overheard(world.server.url)
    enroll(device, http=overheard)
    envelope = json.loads(overheard.bodies[0])
    payload = json.loads(base64.b64decode(envelope["payload"]))
    envelope["payload"] = base64.b64encode(json.dumps({**payload, "audience": PUBLIC}).encode()).decode()
    with pytest.raises(TransportError) as caught:
        HttpClient(other.url).request("POST", "/v1/enroll", body=json.dumps(envelope).encode())
    assert caught.value.code == "signature_threshold"
    assert device.identity.device_id not in devices(world.folder / "other")
