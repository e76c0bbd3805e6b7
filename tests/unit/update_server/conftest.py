"""Fixtures: a server in this process and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.update_server.world import Client, World
from update_server.service import Service


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    with world.service() as service:
        yield service


@pytest.fixture
def client(world: World, service: Service) -> Client:
    return Client(world, service)
