"""How the device stands, for people and for ``--json``: what runs, what is remembered, what waits, what protects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime

from device_client.bundle.path import ModelPath
from device_client.install import identity
from device_client.install.folder import Device
from device_client.install.refresh import remembered_time
from device_client.install.standing import is_withdrawn
from device_client.install.state import Deployment, DeviceState, JournalEntry, open_state
from device_client.install.state_standing import PATIENCE_KINDS
from device_client.install.store import open_store
from device_client.trust.times import format_time, utc_now
from device_client.trust.trusted_time import BootTime, TrustedTime, boot_time

_JOURNAL_ROWS = 10


def read_status(
    device: Device, *, clock: Callable[[], datetime] = utc_now, uptime: Callable[[], BootTime] = boot_time
) -> dict[str, object]:
    """Everything, read from the database alone; asks no server and changes nothing.

    Raises:
        StateError: the database cannot be read.
    """
    with open_state(device.folder.state) as state:
        _, enrolment = state.enrolment()
        time = remembered_time(device, state, clock=clock, uptime=uptime)
        return {
            "ok": True,
            "device_id": device.identity.device_id,
            "server": device.config.server,
            "enrolment": enrolment or "none",
            "generation": state.generation(),
            "models": {str(model): _model(state, model) for model in device.config.models},
            "reports_waiting": len(state.outbox()),
            "time": _time(time, clock()),
            "marks": [{"role": mark.role, "version": mark.version} for mark in state.marks().versions],
            "protection": {"blobs": open_store(device.folder).protection, "identity": identity.PROTECTION},
            "unsafe": list(device.unsafe),
            "journal": [_entry(entry) for entry in state.journal(limit=_JOURNAL_ROWS)],
        }


def status_text(status: Mapping[str, object]) -> str:
    """The human form of ``read_status``."""
    lines = [f"device {str(status['device_id'])[:16]}, enrolment {status['enrolment']}, server {status['server']}"]
    models, protection, journal = status["models"], status["protection"], status["journal"]
    for name, found in models.items() if isinstance(models, dict) else ():
        active = found["active"]
        running = f"{active['version']} ({active['variant']}), counter {active['counter']}" if active else "nothing installed"
        lines.append(
            f"{name}: {running}, state {found['state']}, floor {found['floor'] or 'none'}{' WITHDRAWN' * found['withdrawn']}"
        )
        if found["probation"]:
            seen = found["probation"]
            lines.append(f"{name}: on probation, {seen['elapsed_s'] / 60:.0f} minutes and {seen['runs']} runs observed so far")
        if found["state"] == "safe":
            lines.append(f"{name}: SAFE: nothing on this device may run; it keeps polling")
        stopped, days = found["stopped"], found["days"]
        if stopped:
            lines.append(f"{name}: STOPPED by policy since {stopped['since']}: {stopped['code']}")
        lines += [f"{name}: {kind} on {count} day{'s' * (count != 1)}" for kind, count in days.items() if count]
        lines += [f"{name}: ALARM {alarm['code']} since {alarm['since']}" for alarm in found["alarms"]]
    time = status["time"]
    if isinstance(time, dict) and time["now"] != time["clock"]:
        lines.append(f"time: at least {time['now']} by signed roles; the clock says {time['clock']}")
    lines.append(f"reports waiting: {status['reports_waiting']}")
    lines += [f"{name}: {text}" for name, text in protection.items()] if isinstance(protection, dict) else []
    lines += [f"UNSAFE setting: {name}" for name in status["unsafe"]] if isinstance(status["unsafe"], list) else []
    for entry in journal if isinstance(journal, list) else ():
        lines.append(" ".join(str(entry[key]) for key in ("at", "model", "event", "version", "code") if entry[key] is not None))
    return "\n".join(lines)


def _model(state: DeviceState, model: ModelPath) -> dict[str, object]:
    active, memory, stop = state.active(model), state.memory(model), state.stopped(model)
    watched, factory = state.probation(model), state.factory(model)
    return {
        "active": _deployment(active),
        "previous": _deployment(state.previous(model)),
        "factory": _deployment(factory),
        "probation": None if watched is None else asdict(watched.seen),
        "state": state.progress(model).state.value,
        "counter": str(memory.counter) if memory.counter else None,
        "floor": str(memory.floor) if memory.floor else None,
        "withdrawn": active is not None and is_withdrawn(active, memory),
        "stopped": None if stop is None else {"code": stop.code, "since": format_time(stop.since)},
        "days": {kind: state.patience(model, kind).days for kind in PATIENCE_KINDS},
        "alarms": [
            {"code": alarm.code, "subject": alarm.subject, "since": format_time(alarm.since)} for alarm in state.alarms(model)
        ],
    }


def _time(time: TrustedTime, clock: datetime) -> dict[str, object]:
    """Trusted time as remembered; ``offline`` leaves out what keys on the server say."""
    return {"now": format_time(time.now()), "offline": format_time(time.now_by_offline_roles()), "clock": format_time(clock)}


def _deployment(found: Deployment | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "version": found.version,
        "counter": str(found.counter),
        "variant": found.variant,
        "manifest": str(found.manifest),
        "digest": str(found.variant_digest),
        "installed": format_time(found.installed),
    }


def _entry(entry: JournalEntry) -> dict[str, object]:
    return {
        "at": format_time(entry.at),
        "model": entry.model,
        "event": entry.event,
        "version": entry.version,
        "code": entry.code,
        "detail": entry.detail,
    }
