"""Two releases of which the second runs, and what the tests of a model's standing ask of the device."""

from __future__ import annotations

from typing import Any

import pytest

from device_client.errors import PolicyError
from device_client.install.selftest import SelfTestReport
from device_client.install.status import read_status
from tests.simulator import AUDIT
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle


def passes(*_: Any, **__: Any) -> SelfTestReport:
    return SelfTestReport(0.0, 0, "none")


def install_two(world: World) -> tuple[Bundle, Bundle]:
    """1.0.0 ran here (y = 2x), 2.0.0 runs now (y = 3x)."""
    old, new = bundle("1.0.0", counter=1, scale=2.0), bundle("2.0.0", counter=2, scale=3.0)
    for seq, made in enumerate((old, new), start=1):
        world.publish(made, seq=seq)
        assert world.poll(selftest=passes).result == "installed"
    world.server.reports.clear()
    return old, new


def withdraw(world: World, made: Bundle, *, seq: int = 9, **changes: Any) -> None:
    world.audit_entry(made, seq=seq, status="withdrawn", **changes)
    world.sim.publish(AUDIT)


def active(world: World) -> str:
    with world.state() as state:
        found = state.active(THE_MODEL)
        assert found is not None
        return found.version


def model_status(world: World) -> dict[str, Any]:
    status: Any = read_status(world.device, clock=world.clock, uptime=world.uptime)
    found: dict[str, Any] = status["models"][str(THE_MODEL)]
    return found


def refused_to_open(world: World) -> str:
    with pytest.raises(PolicyError) as caught:
        world.running()
    return caught.value.code
