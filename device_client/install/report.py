"""What the device tells its server: signed reports with a counter that only grows, kept until they are acknowledged.

A report is built and put into the outbox in the same transaction as what it reports, so neither exists without the
other. Sending is at least once; the server drops duplicates by (device, counter). Nothing is dropped here before the
server has said that it is stored, but for what ``outbox.py`` says twice. A report that the server will not take does not hold
up those behind it.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.counter import Counter
from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, SealiftError
from device_client.install.folder import Device
from device_client.install.http import HttpClient, ServerRefusalError
from device_client.install.machine import State
from device_client.install.outbox import PAYLOAD_TYPE, superfluous
from device_client.install.state import Deployment, DeviceState
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.dsse import read_unverified_payload
from device_client.trust.times import format_time, parse_time
from device_client.trust.trusted_metadata import TOP_LEVEL

logger = logging.getLogger(__name__)

SCHEMA = 1
MAX_DETAIL_CHARS = 1024
MAX_ROLES = 64
_MAX_VERSION = 2**31 - 1  # the largest that a report may tell; a role signed beyond it must not silence the device
_COUNTER_BEHIND = ("report_counter", "report_conflict")
_FINAL = frozenset({400, 409, 413, 415, 422, 431})  # about this report, not about the device or the moment
_MAX_REFUSED = 32  # final refusals in one go; the rest of the queue is then tried from a random place, as often again
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
        **_standing(state, model),
        "target": target,
        "marks": _versions(state),
    }
    state.add_report(counter, device.identity.sign(canonical_json(payload), payload_type=PAYLOAD_TYPE))
    for said_again in superfluous(state.outbox()):
        state.remove_report(said_again)
    return counter


def send_reports(state: DeviceState, device: Device, http: HttpClient, *, now: datetime) -> int:
    """Sends the outbox, oldest first, until the server takes no more; never raises for the server.

    A report that is refused for what it says (a clock that runs ahead, a server that knows fewer words) stays, and those behind it
    go on: the next poll tries it again, under a new counter if the server has seen higher ones by then.

    Args:
        state: the open state, under the lock.
        device: whose reports these are.
        http: the way to the server.
        now: trusted time.

    Returns:
        How many reports are still waiting.
    """
    token, _ = state.enrolment()
    waiting, refused = state.outbox() if token else [], 0
    while waiting and refused < 2 * _MAX_REFUSED:
        counter, envelope = waiting.pop(0)
        try:
            _send(state, device, http, counter, envelope, token=token or "", now=now)
        except SealiftError as error:
            logger.warning("report %d waits: %s", counter, error)
            if not isinstance(error, ServerRefusalError) or error.status not in _FINAL:
                break
            refused += 1
            if refused == _MAX_REFUSED and waiting:  # no number of bad ones shuts the good ones out
                waiting = waiting[random.randrange(len(waiting)) :]  # noqa: S311  # fairness, no secret
    return len(state.outbox())


def _send(
    state: DeviceState, device: Device, http: HttpClient, counter: int, envelope: bytes, *, token: str, now: datetime
) -> None:
    try:
        http.request("POST", "/v1/devices/me/reports", body=envelope, token=token)
    except ServerRefusalError as refusal:
        said = _payload(envelope)
        if refusal.code in _COUNTER_BEHIND:
            # The server has seen higher counters of this key: this state is an old copy, or this report was left behind.
            counter, envelope = _restate(state, device, counter, said, now=now, above=_last_counter(refusal))
        elif refusal.code == "clock_skew" and _created(said) > now:
            counter, envelope = _restate(state, device, counter, said, now=now, above=counter)
        else:
            raise
        http.request("POST", "/v1/devices/me/reports", body=envelope, token=token)
    with state.transaction():
        state.remove_report(counter)


def _restate(
    state: DeviceState, device: Device, counter: int, said: dict[str, object], *, now: datetime, above: int
) -> tuple[int, bytes]:
    """The same event under a new counter, with what holds now.

    Older marks than the server has seen would look like a device that was turned back. A date that this device itself no longer
    believes in is told as such.
    """
    true_now: dict[str, object] = {"generation": state.generation(), "marks": _versions(state)}
    if isinstance(model := said.get("model"), str):
        true_now |= _standing(state, ModelPath.parse(model))
    if _created(said) > now:
        detail = f"[dated {said['created']} by a wrong clock] {said.get('detail') or ''}"
        true_now |= {"created": format_time(now), "detail": detail.strip()[:MAX_DETAIL_CHARS]}
    with state.transaction():
        state.skip_report_counter(above)
        fresh = state.next_report_counter()
        signed = device.identity.sign(canonical_json({**said, **true_now, "counter": fresh}), payload_type=PAYLOAD_TYPE)
        state.remove_report(counter)
        state.add_report(fresh, signed)
    return fresh, signed


def _payload(envelope: bytes) -> dict[str, object]:
    limit = DEFAULT_LIMITS.max_report_bytes
    payload, _ = read_unverified_payload(envelope, payload_type=PAYLOAD_TYPE, max_bytes=limit, where="outbox")
    value = parse_strict(payload, max_bytes=limit, where="outbox")
    if not isinstance(value, dict):
        raise FormatError("a report that is no object", code="field_type", where="outbox")
    return value


def _created(said: dict[str, object]) -> datetime:
    return parse_time(said.get("created"), "outbox.created")


def _last_counter(refusal: ServerRefusalError) -> int:
    return Fields(refusal.problem, where="problem").integer("last_counter", maximum=_MAX_COUNTER)


def _standing(state: DeviceState, model: ModelPath) -> dict[str, object]:
    """What holds for a model at this moment, whatever the report is about."""
    return {"active": _running(state.active(model)), "floor": (state.memory(model).floor or Counter(0, 0)).to_json()}


def _running(deployment: Deployment | None) -> dict[str, str] | None:
    return None if deployment is None else {"version": deployment.version, "manifest": str(deployment.manifest)}


def _versions(state: DeviceState) -> dict[str, int]:
    """The highest trusted version of each role, whatever keys signed it; top-level roles first, should there be too many."""
    found = {"root": max(state.roots(), default=0)}
    for mark in state.marks().versions:
        found[mark.role] = min(max(found.get(mark.role, 0), mark.version), _MAX_VERSION)
    known = ((role, version) for role, version in found.items() if version)
    return dict(sorted(known, key=lambda mark: (mark[0] not in TOP_LEVEL, mark[0]))[:MAX_ROLES])
