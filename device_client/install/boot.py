"""``sealift device recover``: at every start of the machine, before anything runs. Needs no network and no server.

For each model: what an interrupted poll left is cleared, a bundle on probation is judged, and what is called active must be what
both roles signed for, whole, on this disk. If it is not, the device goes back by itself: to the newest bundle that may run, to the
factory bundle, and to ``safe`` if nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.path import ModelPath
from device_client.errors import SealiftError, StateError, VerificationError
from device_client.install.collection import collect
from device_client.install.folder import Device, DeviceFolder, open_device
from device_client.install.installed import verify_installed, verify_whole
from device_client.install.ledger import Ledger
from device_client.install.lock import exclusive
from device_client.install.machine import Event, State
from device_client.install.probation import watch
from device_client.install.recovery import open_memory
from device_client.install.refresh import remembered_time
from device_client.install.rollback import Holdings, find_target, go_back
from device_client.install.state import DeviceState
from device_client.install.state_deployments import Deployment
from device_client.install.store import open_store
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.policy.probation import Verdict
from device_client.trust.times import utc_now
from device_client.trust.trusted_time import BootTime, boot_time


@dataclass(frozen=True)
class Recovered:
    """How a model stands after it.

    Attributes:
        model: which.
        result: ``sound`` (what ran may run), ``rolled_back``, ``safe`` (nothing may run) or ``none`` (nothing was ever installed).
        deployment: what is active now.
        code: why something was changed.
    """

    model: ModelPath
    result: str
    deployment: Deployment | None = None
    code: str | None = None

    def to_json(self) -> dict[str, object]:
        """The flat form for ``--json``."""
        found = self.deployment
        return {
            "ok": self.result != "safe",
            "model": str(self.model),
            "result": self.result,
            "version": found.version if found else None,
            "code": self.code,
        }


def recover(
    device: Device,
    *,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Recovered]:
    """Brings every model into a state in which only what was signed for, whole, can run.

    Raises:
        StateError: the device is in use (``device_busy``), or its memory or disk cannot be used.
    """
    done = []
    store = open_store(device.folder, limits=limits)
    with exclusive(device.folder.lock):
        store.check_key()
        for model in device.config.models:
            with open_memory(device, model, now=clock(), at=uptime()) as state:
                now = remembered_time(device, state, clock=clock, uptime=uptime).now()
                done.append(_recover(Holdings(device, state, store, model, limits), now=now, at=uptime()))
                if model == device.config.models[-1]:
                    collect(device, state, store)
        store.sweep()
    return done


def judge(
    folder: DeviceFolder,
    model: ModelPath,
    *,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
    limits: Limits = DEFAULT_LIMITS,
) -> Verdict | None:
    """Judges a bundle on probation, between two polls; None if there is none.

    Raises:
        StateError: the device is in use (``busy``), or its memory or disk cannot be used.
        UsageError: its configuration or policy is wrong.
    """
    device = open_device(folder.path)
    with exclusive(device.folder.lock), open_memory(device, model, now=clock(), at=uptime()) as state:
        now = remembered_time(device, state, clock=clock, uptime=uptime).now()
        held = Holdings(device, state, open_store(device.folder, limits=limits), model, limits)
        return watch(held, Ledger(device, state, model, clock=lambda: now), now=now, at=uptime())


def find_fault(held: Holdings, deployment: Deployment) -> SealiftError | None:
    """Why a deployment may not run: evidence, or bytes on this disk; None if it may."""
    try:
        agreed = verify_installed(held.state, deployment, root=held.device.root, limits=held.limits)
        verify_whole(held.store, deployment, agreed=agreed, limits=held.limits)
    except (VerificationError, StateError) as fault:
        return fault
    return None


def _recover(held: Holdings, *, now: datetime, at: BootTime) -> Recovered:
    state, model = held.state, held.model
    ledger = Ledger(held.device, state, model, clock=lambda: now)
    watch(held, ledger, now=now, at=at)
    active = state.active(model)
    if active is None:
        _rest(state, ledger, now=now)
        return Recovered(model, "safe" if state.held(model) else "none")
    fault = find_fault(held, active)
    if fault is None:
        _rest(state, ledger, now=now)
        return Recovered(model, "sound", active)
    target = find_target(held, running=None, now=now)  # what is at fault fails its own checks, whatever name the state gives it
    detail = f"{active.path} cannot run: {fault}"
    with state.transaction(), ledger.resting_at(State.IDLE):
        ledger.about(active)
        ledger.step(Event.OBSERVED_BAD, now=now)
        go_back(ledger, held, target, code=fault.code, detail=detail, now=now, failed=active)
        ledger.step(*((Event.NOTHING_LEFT,) if target is None else (Event.ROLLED_BACK, Event.REPORTED)), now=now)
    if target is None:
        return Recovered(model, "safe", None, fault.code)
    return Recovered(model, "rolled_back", target.deployment, fault.code)


def _rest(state: DeviceState, ledger: Ledger, *, now: datetime) -> None:
    with state.transaction():
        ledger.rest(now)
