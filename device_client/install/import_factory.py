"""The bundle that a device is born with: ``sealift device init --factory F.tar`` calls this before the folder gets its name.

An ordinary import of each model in the file, by all the checks of ``import_offline.py``, except that nothing expires: a device may
lie in its box for two years. So the file is judged as of the day it was made: the latest time that its own verified roles say
somebody signed something. Roles, verdicts and the age of the audit that had expired by then are refused; what has expired
since is an alarm, as for a rollback to the factory bundle (DESIGN 4). The clock is only ever set back for these checks, never
forward, and what the file proves about the time is remembered as always.

What it installs is committed at once and marked as the factory's: never collected, and the last to go back to.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from device_client.bundle.offline import OfflineFile
from device_client.bundle.path import ModelPath
from device_client.errors import StateError, TrustError
from device_client.install.factory import keep_factory
from device_client.install.folder import Device
from device_client.install.import_offline import open_import
from device_client.install.installed import verify_installed
from device_client.install.ledger import Ledger
from device_client.install.lock import exclusive
from device_client.install.probation import commit
from device_client.install.recovery import open_memory
from device_client.install.rollback import Holdings
from device_client.install.selftest import SelfTestReport, run_selftest
from device_client.install.state import Deployment
from device_client.install.store import open_store
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.rules import issued_at, parse_role
from device_client.trust.times import format_time, utc_now
from device_client.trust.trusted_time import BootTime, boot_time


def install_factory(
    device: Device,
    path: Path,
    *,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
    selftest: Callable[..., SelfTestReport] = run_selftest,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[ModelPath, Deployment]:
    """Installs every model that the device follows and the file holds; a refusal of one ends it.

    Args:
        device: a device that was just made, with nothing installed.
        path: the factory file.
        clock: the wall clock, aware UTC.
        uptime: the boot clock.
        selftest: runs the golden probes in a child process.
        limits: bounds of every read.

    Returns:
        What became active, by model.

    Raises:
        UsageError, VerificationError, StateError: as for an import; the models before it are installed, so `init` drops
            the folder.
    """
    installed: dict[ModelPath, Deployment] = {}
    with open_import(device, path, limits=limits) as found:
        made = min(clock(), latest_issued(found.offline, limits=limits))
        for model in found.models:
            result = found.run(model, clock=lambda: made, uptime=uptime, selftest=selftest)
            if result.deployment is None:
                raise StateError("nothing became active", code="internal", where=str(model), hint="report this with the log")
            installed[model] = result.deployment
            _keep(device, result.deployment, now=clock(), at=uptime())
            _tell_expiry(device, model, now=clock(), at=uptime())
    return installed


def latest_issued(offline: OfflineFile, *, limits: Limits = DEFAULT_LIMITS) -> datetime:
    """The latest time at which a role of the file says that it was signed.

    Unverified: it only sets the clock back, and the roles that then verify raise it again to what they say.

    Raises:
        FormatError, LimitError: a role file that is no metadata.
        TrustError: no role says when it was signed (``issued_missing``).
    """
    roles = {str(name): parse_role(data, where=str(name), limits=limits).signed for name, data in offline.metadata.items()}
    times = [issued_at(signed, where=name) for name, signed in roles.items() if "issued" in signed.unrecognized_fields]
    if not times:
        raise TrustError("no role says when it was signed", code="issued_missing", where="offline file")
    return max(times)


def _keep(device: Device, deployment: Deployment, *, now: datetime, at: BootTime) -> None:
    """A person chose it and there is nothing to go back to: it is not watched, and it stays for good."""
    with exclusive(device.folder.lock), open_memory(device, deployment.model, now=now, at=at) as state:
        held = Holdings(device, state, open_store(device.folder), deployment.model)
        agreed = verify_installed(state, deployment, root=device.root)
        ledger = Ledger(device, state, deployment.model, clock=lambda: now)
        with state.transaction():
            if state.probation(deployment.model) is not None:
                ledger.about(deployment)
                commit(held, deployment, agreed)
                ledger.note("installed", now, is_new=True)
            state.mark_factory(deployment)
            ledger.rest(now)
        keep_factory(device.folder, deployment, state.evidence(deployment))


def _tell_expiry(device: Device, model: ModelPath, *, now: datetime, at: BootTime) -> None:
    """An alarm if what the installation rests on has expired by the clock; it ends with the first refresh that finds it renewed."""
    with exclusive(device.folder.lock), open_memory(device, model, now=now, at=at) as state:
        until = state.proofs_until(model)
        if until is None or now < until:
            return
        detail = f"the factory bundle's roles or verdict expired at {format_time(until)}"
        active = state.active(model)
        target = None if active is None else (active.version, active.manifest)
        with state.transaction():
            if state.raise_alarm(model, code="factory_expired", subject=str(model), now=now):
                ledger = Ledger(device, state, model, clock=lambda: now)
                ledger.note("alarm", now, code="factory_expired", detail=detail, target=target, is_new=True)
