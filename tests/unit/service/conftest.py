"""A device with a bundle installed, and the real service in front of it: real socket, real workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import Digest, ModelPath
from device_client.install.folder import open_device
from device_client.install.health import Health
from device_client.install.selftest import SelfTestReport
from device_client.service.client import InferenceClient
from device_client.service.pool import Pool
from device_client.service.server import InferenceServer
from tests.unit.device.world import Bundle, World, bundle


def passed(*_: object, **__: object) -> SelfTestReport:
    """The self-test has tests of its own; here it only takes time."""
    return SelfTestReport(0.0, 0, "none")


class Town(World):
    """A device with its service."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.health: list[tuple[Digest, Health]] = []
        self.seq = 0

    def release(self, version: str, *, counter: int, **kwargs: Any) -> Bundle:
        """Publishes and installs a bundle, without a self-test."""
        made = bundle(version, counter=counter, **kwargs)
        self.seq += 1
        self.publish(made, seq=self.seq)
        assert self.poll(selftest=passed).result == "installed"
        return made

    def configure(self, text: str) -> None:
        """Adds a ``[service]`` table."""
        path = self.device.folder.config
        path.write_text(path.read_text() + f"\n[service]\n{text}\n")
        self.device = open_device(self.device.folder.path)

    def record(self, model: ModelPath, manifest: Digest, health: Health) -> None:
        self.health.append((manifest, health))

    def total(self, made: Bundle) -> Health:
        """All that was handed over about a bundle."""
        found = [health for manifest, health in self.health if manifest == made.digest]
        return (
            Health(*(sum(values) for values in zip(*(vars(health).values() for health in found), strict=True)))
            if found
            else Health()
        )

    @contextmanager
    def serving(self) -> Iterator[InferenceServer]:
        """The service, in threads of this process."""
        server = InferenceServer(self.device, pool=Pool(self.device, record=self.record))
        with server:
            thread = threading.Thread(target=server.run, name="server")
            thread.start()
            try:
                yield server
            finally:
                server.stop()
                thread.join()

    @property
    def socket(self) -> Path:
        return self.device.folder.path / "run" / "inference.sock"


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path / "device")


@pytest.fixture
def connect(town: Town) -> Iterator[Callable[[], InferenceClient]]:
    """Makes clients; they are closed afterwards."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(InferenceClient(town.socket, timeout_s=60))
