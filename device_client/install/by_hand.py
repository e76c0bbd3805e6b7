"""What a person does to a device by hand: go back to an earlier bundle, or reset it. Neither lowers anything remembered.

A rollback by hand puts the bundle that ran on the known-bad list, so that the next poll does not bring it back; a newer counter is
taken as always. A reset leaves the device as ``init`` made it, with its root, memory, identity, reports and factory bundle.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime

from device_client.bundle.path import ModelPath
from device_client.errors import PolicyError
from device_client.install.collection import collect
from device_client.install.folder import Device
from device_client.install.ledger import Ledger
from device_client.install.lock import exclusive
from device_client.install.machine import Event, State
from device_client.install.recovery import open_memory
from device_client.install.refresh import remembered_time
from device_client.install.rollback import Holdings, find_target, go_back
from device_client.install.state_deployments import Deployment
from device_client.install.store import open_store
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.times import utc_now
from device_client.trust.trusted_time import BootTime, boot_time

BY_HAND = "rolled_back_by_hand"


def roll_back_by_hand(
    device: Device,
    model: ModelPath,
    *,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
    limits: Limits = DEFAULT_LIMITS,
) -> Deployment:
    """Makes the newest other bundle that may run the active one.

    Raises:
        PolicyError: ``no_rollback_target``: nothing held here may run instead. Nothing has changed.
        StateError: the device is in use, or its memory or disk cannot be used.
    """
    store = open_store(device.folder, limits=limits)
    with exclusive(device.folder.lock), open_memory(device, model, now=clock(), at=uptime()) as state:
        store.check_key()
        now = remembered_time(device, state, clock=clock, uptime=uptime).now()
        held, ledger = Holdings(device, state, store, model, limits), Ledger(device, state, model, clock=lambda: now)
        active = state.active(model)
        target = find_target(held, running=None if active is None else active.manifest, now=now)
        if target is None:
            raise PolicyError(
                "no bundle that is held here may run instead",
                code="no_rollback_target",
                where=str(model),
                expected="a bundle that was committed here, at or above the floor, not withdrawn, and whole",
                actual="the running one stays" if active is not None else "nothing runs",
                hint="a release that goes back for the whole fleet is a new release of the old layers",
            )
        with state.transaction(), ledger.resting_at(State.IDLE):
            if active is not None:
                ledger.about(active)
                state.remember_bad(model, active.manifest, cause=BY_HAND, until=None)
            ledger.step(Event.OBSERVED_BAD, now=now)
            go_back(ledger, held, target, code=BY_HAND, detail="by hand", now=now, failed=active)
            ledger.step(Event.ROLLED_BACK, Event.REPORTED, now=now)
        return target.deployment


def reset(
    device: Device,
    *,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[ModelPath, Deployment | None]:
    """Back to the state just after ``init``; returns what runs now: the factory bundle, where it still may.

    Raises:
        StateError: the device is in use, or its memory or disk cannot be used.
    """
    store = open_store(device.folder, limits=limits)
    running: dict[ModelPath, Deployment | None] = {}
    with exclusive(device.folder.lock):
        store.check_key()
        for model in device.config.models:
            with open_memory(device, model, now=clock(), at=uptime()) as state:
                now = remembered_time(device, state, clock=clock, uptime=uptime).now()
                running[model] = _reset_model(Holdings(device, state, store, model, limits), now=now)
                if model == device.config.models[-1]:
                    collect(device, state, store)
        store.sweep()
        shutil.rmtree(device.folder.metadata, ignore_errors=True)
        device.folder.metadata.mkdir(mode=0o700, exist_ok=True)
    return running


def _reset_model(held: Holdings, *, now: datetime) -> Deployment | None:
    ledger = Ledger(held.device, held.state, held.model, clock=lambda: now)
    factory = _sound_factory(held, now=now)
    with held.state.transaction():
        held.state.forget_deployments(held.model)
        if factory is not None:
            held.state.fall_back(factory)
        ledger.note("alarm", now, code="reset", detail="reset by hand", is_new=True)
        ledger.rest(now)
    return factory


def _sound_factory(held: Holdings, *, now: datetime) -> Deployment | None:
    """The factory bundle, if nothing speaks against running it: damaged, withdrawn, or below the floor, it does not come back."""
    factory = held.state.factory(held.model)
    target = None if factory is None else find_target(held, running=None, now=now, only=factory.manifest)
    return None if target is None else target.deployment
