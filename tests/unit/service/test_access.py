"""Who may connect, run and vote; the socket's file; one service for one folder."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.errors import PolicyError, StateError, UsageError
from device_client.install.config import parse_config
from device_client.install.service_settings import ServiceSettings
from device_client.service import requests as requests_module
from device_client.service import server as server_module
from device_client.service.client import InferenceClient, ServiceError
from device_client.service.peers import Peer, Permissions, read_peer
from device_client.service.server import InferenceServer
from tests.unit.device.world import THE_MODEL
from tests.unit.service.conftest import Town

X = np.array([[1, 2, 3]], np.float32)
Connect = Callable[[], InferenceClient]
STRANGER = 60_001


def test_the_kernel_says_who_is_there() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read_peer(ours) == Peer(os.getpid(), os.geteuid())


def test_the_owner_alone_may_use_and_nobody_vote_unless_the_configuration_says_so() -> None:
    permissions = Permissions.of(ServiceSettings())
    permissions.check_user(Peer(1, os.geteuid()))
    for check, peer in ((permissions.check_user, Peer(1, STRANGER)), (permissions.check_voter, Peer(1, os.geteuid()))):
        with pytest.raises(PolicyError) as caught:
            check(peer)
        assert caught.value.code == "peer_refused"
    Permissions.of(ServiceSettings(users=(STRANGER,))).check_user(Peer(1, STRANGER))
    voting = Permissions.of(ServiceSettings(voters=(STRANGER,)))
    voting.check_user(Peer(1, STRANGER))
    voting.check_voter(Peer(1, STRANGER))


def test_a_user_or_group_that_the_system_does_not_know_is_an_error_at_start(town: Town) -> None:
    with pytest.raises(UsageError, match="no such user"):
        Permissions.of(ServiceSettings(users=("nobody-knows-me",)))
    town.configure('group = "nobody-knows-us"')
    with pytest.raises(UsageError, match="no such group"), town.serving():
        pass


def test_another_user_is_refused_before_anything_is_read(town: Town, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    town.release("1.0.0", counter=1)
    with town.serving():
        monkeypatch.setattr(server_module, "read_peer", lambda _: Peer(1, STRANGER))
        with pytest.raises(ServiceError) as caught:
            connect().run("ocr", {"x": X})
        assert (caught.value.code, caught.value.actual) == ("peer_refused", f"user {STRANGER}")


def test_a_vote_comes_from_a_voter_and_is_about_the_bundle_that_runs(
    town: Town, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes: list[tuple[object, ...]] = []
    monkeypatch.setattr(requests_module, "record_vote", lambda *found, good: votes.append((*found[1:], good)))
    made = town.release("1.0.0", counter=1)
    with town.serving(), pytest.raises(ServiceError) as caught:
        connect().vote("ocr", version="1.0.0", good=False)
    assert caught.value.code == "peer_refused"
    town.configure(f"voters = [{os.geteuid()}]")
    with town.serving():
        client = connect()
        result = client.run("ocr", {"x": X})
        client.vote("ocr", version=result.version, good=True)
        client.vote("ocr", version=result.version, manifest=result.manifest, good=False)
        for version, manifest in (("0.9.0", None), ("1.0.0", "sha256:" + "0" * 64)):
            with pytest.raises(ServiceError) as caught:
                client.vote("ocr", version=version, manifest=manifest, good=True)
            assert caught.value.code == "vote_version"
    assert votes == [(THE_MODEL, made.digest, True), (THE_MODEL, made.digest, False)]


def test_the_socket_is_the_owners_alone_and_gone_afterwards(town: Town) -> None:
    with town.serving():
        assert stat.S_IMODE(town.socket.lstat().st_mode) == 0o600
        assert stat.S_IMODE(town.socket.parent.stat().st_mode) == 0o700
    assert not town.socket.exists()


def test_place_and_mode_of_the_socket_can_be_chosen(town: Town, tmp_path: Path) -> None:
    town.configure(f'socket = "{tmp_path}/s.sock"\nsocket_mode = "0666"')
    with town.serving(), InferenceClient(tmp_path / "s.sock") as client:
        assert stat.S_IMODE((tmp_path / "s.sock").lstat().st_mode) == 0o666
        client.ping()


def test_a_socket_that_a_power_cut_left_is_replaced(town: Town) -> None:
    town.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(town.socket))
    with town.serving(), InferenceClient(town.socket) as client:
        client.ping()


def test_a_second_service_refuses_and_the_first_goes_on(town: Town, tmp_path: Path) -> None:
    with town.serving(), InferenceClient(town.socket) as client:
        with pytest.raises(StateError) as caught, town.serving():
            pass
        assert caught.value.code == "busy"
        client.ping()
        other = Town(tmp_path / "other")
        other.configure(f'socket = "{town.socket}"')
        with pytest.raises(StateError) as caught, other.serving():
            pass
        assert caught.value.code == "socket_in_use"
        with InferenceClient(town.socket) as another:
            another.ping()


def test_a_file_in_the_sockets_place_is_not_removed(town: Town) -> None:
    town.socket.parent.mkdir()
    town.socket.write_text("precious")
    with pytest.raises(StateError) as caught, InferenceServer(town.device):
        pass
    assert caught.value.code == "socket_path"
    assert town.socket.read_text() == "precious"


BAD_TABLES = (
    "user = []", 'users = ["a b"]', "users = [true]", "users = [-1]", 'socket = "relative"', 'socket_mode = "0777"',
    "connections = 0",    "deadline_ms = 0", "max_message_bytes = 1", 'socket_mode = 432', "idle_minutes = 1.5",
)  # fmt: skip


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_wrong_key_or_value_of_the_table_is_an_error_that_names_it(town: Town, text: str) -> None:
    data = town.device.folder.config.read_bytes() + f"\n[service]\n{text}\n".encode()
    with pytest.raises(UsageError) as caught:
        parse_config(data, where="device.toml")
    assert caught.value.code == "device_config"
    assert text.split(" ", maxsplit=1)[0] in str(caught.value)


def test_every_key_of_the_table_is_read(town: Town) -> None:
    values: dict[str, Any] = {
        "users": ["camera", 1001], "voters": ["camera"], "socket": "/run/x.sock", "socket_mode": "0660", "group": "camera",
        "connections": 3, "connections_per_user": 2, "max_message_bytes": 5000, "deadline_ms": 7, "load_timeout_s": 8,
        "silence_s": 9, "idle_minutes": 0,
    }  # fmt: skip
    import json

    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    data = town.device.folder.config.read_bytes() + f"\n[service]\n{table}\n".encode()
    found = vars(parse_config(data, where="device.toml").service)
    assert found == {**values, "users": ("camera", 1001), "voters": ("camera",), "socket_mode": 0o660}
