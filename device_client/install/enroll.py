"""Introduces the device to its server: its public key, signed by that key, for a token in return.

The answer decides nothing about models; it only lets the server tell devices apart. Enrolling again is safe: the server
knows the key and hands out a new token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json
from device_client.errors import FormatError
from device_client.install.facts import read_facts
from device_client.install.folder import Device
from device_client.install.http import HttpClient
from device_client.install.lock import exclusive
from device_client.install.recovery import open_memory
from device_client.policy.selection import DeviceFacts
from device_client.trust.keys import key_to_json
from device_client.trust.times import format_time, utc_now
from device_client.trust.trusted_time import BootTime, boot_time

PAYLOAD_TYPE = "application/vnd.sealift.enroll.v1+json"
SCHEMA = 1
_STATES = ("accepted", "pending", "blocked")
_MAX_FEATURES = 128


@dataclass(frozen=True)
class Enrolment:
    """What the server answered; ``state`` is accepted, pending or blocked."""

    device_id: str
    state: str


def enroll(
    device: Device,
    *,
    http: HttpClient | None = None,
    clock: Callable[[], datetime] = utc_now,
    uptime: Callable[[], BootTime] = boot_time,
) -> Enrolment:
    """Enrols and stores the token.

    Raises:
        StateError: the state cannot be opened (``recovery.open_memory``).
        TransportError: no answer, or a refusal with the server's code.
        FormatError: an answer that is not of the protocol, or for another device.
    """
    client = http or HttpClient(device.config.server)
    facts = read_facts()
    payload = {
        "schema": SCHEMA,
        "audience": device.config.server,
        "public_key": key_to_json(device.identity.public_key),
        "issued": format_time(clock()),
        "models": [str(model) for model in device.config.models],
        "facts": _facts(facts),
    }
    envelope = device.identity.sign(canonical_json(payload), payload_type=PAYLOAD_TYPE)
    first = device.config.models[0]
    with exclusive(device.folder.lock), open_memory(device, first, now=clock(), at=uptime()) as state:
        answer = client.request("POST", "/v1/enroll", body=envelope)
        fields = Fields(answer.json("enrolment"), where="enrolment")
        if fields.text("device_id") != device.identity.device_id:
            raise FormatError("the server answers for another device", code="enroll_answer", actual=fields.text("device_id")[:80])
        enrolment = Enrolment(device.identity.device_id, fields.text("state", choices=_STATES))
        with state.transaction():
            state.set_enrolment(fields.text("token", max_chars=512), enrolment.state)
    return enrolment


def _facts(facts: DeviceFacts) -> dict[str, object]:
    return {
        "arch": facts.arch,
        "cpu_features": sorted(facts.cpu_features)[:_MAX_FEATURES],
        "ram_bytes": facts.ram_bytes,
        "runtime": facts.runtime,
        "client": facts.client,
    }
