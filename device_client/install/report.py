"""What the device tells its server: signed reports with a counter that only grows, kept until they are acknowledged.

A report is built and put into the outbox in the same transaction as what it reports, so neither exists without the
other. Sending is at least once; the server drops duplicates by (device, counter). Nothing is dropped here before the
server has said that it is stored.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.counter import Counter
from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, SealiftError, TransportError
from device_client.install.folder import Device
from device_client.install.http import HttpClient, ServerRefusalError
from device_client.install.machine import State
from device_client.install.state import Deployment, DeviceState
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.dsse import read_unverified_payload
from device_client.trust.times import format_time

logger = logging.getLogger(__name__)

PAYLOAD_TYPE = "application/vnd.sealift.report.v1+json"
SCHEMA = 1
MAX_DETAIL_CHARS = 1024
MAX_ROLES = 64
_COUNTER_BEHIND = ("report_counter", "report_conflict")
_MAX_COUNTER = 2**52  # a server's word on our counter is believed up to here, so that it cannot use the counter up


@dataclass(frozen=True)
class Happening:
    """What a report is about; ``event`` and ``state`` are words of ``docs/http-api.md`` 4.5."""

    event: str
    state: State
    code: str | None = None
    detail: str | None = None
    version: str | None = None
    manifest: str | None = None


def queue_report(state: DeviceState, device: Device, model: ModelPath, happening: Happening, *, now: datetime) -> int:
    """Signs a report and puts it into the outbox; call in the transaction of what it reports.

    Returns:
        The report's counter.
    """
    counter = state.next_report_counter()
    target = None if happening.version is None else {"version": happening.version, "manifest": happening.manifest}
    unsafe = f"[{', '.join(device.unsafe)}] " if device.unsafe else ""
    detail = f"{unsafe}{happening.detail or ''}"[:MAX_DETAIL_CHARS]
    payload = {
        "schema": SCHEMA,
        "audience": device.config.server,
        "device_id": device.identity.device_id,
        "counter": counter,
        "generation": state.generation(),
        "created": format_time(now),
        "model": str(model),
        "state": happening.state.value,
        "event": happening.event,
        "code": happening.code,
        "detail": detail or None,
        "active": _running(state.active(model)),
        "target": target,
        "floor": (state.memory(model).floor or Counter(0, 0)).to_json(),
        "marks": _versions(state),
    }
    state.add_report(counter, device.identity.sign(canonical_json(payload), payload_type=PAYLOAD_TYPE))
    return counter


def send_reports(state: DeviceState, device: Device, http: HttpClient) -> int:
    """Sends the outbox, oldest first, until it is empty or the server does not take one; never raises for the server.

    Returns:
        How many reports are still waiting.
    """
    token, _ = state.enrolment()
    for counter, envelope in state.outbox() if token else ():
        try:
            _send(state, device, http, counter, envelope, token=token or "")
        except (TransportError, SealiftError) as error:
            logger.warning("report %d waits: %s", counter, error)
            break
    return len(state.outbox())


def _send(state: DeviceState, device: Device, http: HttpClient, counter: int, envelope: bytes, *, token: str) -> None:
    try:
        http.request("POST", "/v1/devices/me/reports", body=envelope, token=token)
    except ServerRefusalError as refusal:
        if refusal.code not in _COUNTER_BEHIND:
            raise
        # The server has seen higher counters of this key: this state is an old copy. Tell the same under a new one.
        counter, envelope = _renumber(state, device, counter, envelope, last=_last_counter(refusal))
        http.request("POST", "/v1/devices/me/reports", body=envelope, token=token)
    with state.transaction():
        state.remove_report(counter)


def _renumber(state: DeviceState, device: Device, counter: int, envelope: bytes, *, last: int) -> tuple[int, bytes]:
    payload, _ = read_unverified_payload(
        envelope, payload_type=PAYLOAD_TYPE, max_bytes=DEFAULT_LIMITS.max_report_bytes, where="outbox"
    )
    value = parse_strict(payload, max_bytes=DEFAULT_LIMITS.max_report_bytes, where="outbox")
    if not isinstance(value, dict):
        raise FormatError("a report that is no object", code="field_type", where="outbox")
    with state.transaction():
        state.skip_report_counter(last)
        fresh = state.next_report_counter()
        signed = device.identity.sign(canonical_json({**value, "counter": fresh}), payload_type=PAYLOAD_TYPE)
        state.remove_report(counter)
        state.add_report(fresh, signed)
    return fresh, signed


def _last_counter(refusal: ServerRefusalError) -> int:
    return Fields(refusal.problem, where="problem").integer("last_counter", maximum=_MAX_COUNTER)


def _running(deployment: Deployment | None) -> dict[str, str] | None:
    return None if deployment is None else {"version": deployment.version, "manifest": str(deployment.manifest)}


def _versions(state: DeviceState) -> dict[str, int]:
    """The highest trusted version of each role, whatever keys signed it."""
    found: dict[str, int] = {}
    for mark in state.marks().versions:
        found[mark.role] = max(found.get(mark.role, 0), mark.version)
    return dict(sorted(found.items())[:MAX_ROLES])
