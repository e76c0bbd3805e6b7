"""The devices that the server knows: who they are, whether they may ask, what they last said."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum

from securesystemslib.signer import Key

from device_client.bundle.digest import Digest
from device_client.trust.keys import key_from_json, key_to_json
from device_client.trust.times import format_time, parse_time
from update_server.enrolment import Enrolment
from update_server.journal import append
from update_server.problem import ApiError
from update_server.tokens import Kind, issue_token

MAX_PENDING_DEVICES = 10_000  # anyone can ask to be enrolled; this bounds what that writes
PAGE_SIZE = 500


class DeviceState(Enum):
    """Whether a device may ask for updates and report."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Device:
    """One device; ``last_counter`` is of its newest report, 0 before the first."""

    device_id: Digest
    key: Key
    state: DeviceState
    last_counter: int
    generation: int
    marks: dict[str, int]

    def check_accepted(self) -> Device:
        """Returns the device if it may ask.

        Raises:
            ApiError: 403 ``device_pending`` or ``device_blocked``.
        """
        if self.state is DeviceState.ACCEPTED:
            return self
        hint = "the operator accepts it with PUT /v1/devices/ID/state" if self.state is DeviceState.PENDING else "ask the operator"
        raise ApiError(
            f"the device is {self.state.value}", status=403, code=f"device_{self.state.value}", where=self.device_id.hex, hint=hint
        )


@dataclass(frozen=True)
class Enrolled:
    """The answer to an enrolment; ``token`` is shown this once."""

    device_id: Digest
    token: str
    state: DeviceState
    is_new: bool


def enroll(connection: sqlite3.Connection, request: Enrolment, *, auto_accept: bool, now: datetime) -> Enrolled:
    """Stores a device, or renews the token of a known one without changing its state.

    Raises:
        ApiError: 409 ``enroll_replayed``, 429 ``enroll_full``.
    """
    device_id = request.device_id.hex
    row = connection.execute("SELECT state, issued FROM devices WHERE device_id = ?", (device_id,)).fetchone()
    state = DeviceState.ACCEPTED if auto_accept else DeviceState.PENDING
    models, facts = json.dumps([str(model) for model in request.models]), json.dumps(asdict(request.facts))
    if row is None:
        _check_room(connection, state)
        connection.execute(
            "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, '{}')",
            (
                device_id, json.dumps(key_to_json(request.key)), state.value, models, facts, format_time(now),
                format_time(request.issued),
            ),
        )  # fmt: skip
    else:
        state = DeviceState(row["state"])
        if request.issued < parse_time(row["issued"], "devices.issued"):
            raise ApiError(
                "a newer enrolment of this key is known", status=409, code="enroll_replayed", where=device_id, hint="set the clock"
            )
        connection.execute(
            "UPDATE devices SET models = ?, facts = ?, issued = ? WHERE device_id = ?",
            (models, facts, format_time(request.issued), device_id),
        )
    token = issue_token(connection, kind=Kind.DEVICE, subject=device_id, expires=None)
    append(connection, now=now, actor=device_id, action="enroll", outcome="done", detail=state.value)
    return Enrolled(request.device_id, token, state, row is None)


def load_device(connection: sqlite3.Connection, device_id: str) -> Device:
    """The device of that id.

    Raises:
        ApiError: 404 ``device_unknown``.
    """
    row = connection.execute("SELECT * FROM devices WHERE device_id = ?", (device_id,)).fetchone()
    if row is None:
        raise _unknown(device_id)
    return Device(
        device_id=Digest(device_id),
        key=key_from_json(json.loads(row["public_key"]), where="devices.public_key"),
        state=DeviceState(row["state"]),
        last_counter=row["last_counter"],
        generation=row["generation"],
        marks=json.loads(row["marks"]),
    )


def set_state(connection: sqlite3.Connection, device_id: str, state: DeviceState, *, now: datetime) -> None:
    """Accepts or blocks a device.

    Raises:
        ApiError: 404 ``device_unknown``.
    """
    if connection.execute("UPDATE devices SET state = ? WHERE device_id = ?", (state.value, device_id)).rowcount != 1:
        raise _unknown(device_id)
    append(connection, now=now, actor="operator", action=f"device {device_id}", outcome="done", detail=state.value)


def list_devices(connection: sqlite3.Connection, *, after: str) -> tuple[list[dict[str, object]], bool]:
    """A page of devices ordered by id, as the operator sees them, and whether there are more."""
    rows = connection.execute(
        "SELECT device_id, state, models, enrolled, last_counter FROM devices WHERE device_id > ? ORDER BY device_id LIMIT ?",
        (after, PAGE_SIZE + 1),
    ).fetchall()
    devices = [
        {
            "device_id": row["device_id"],
            "state": row["state"],
            "models": json.loads(row["models"]),
            "enrolled": row["enrolled"],
            "last_counter": row["last_counter"],
            "running": _running(connection, row["device_id"]),
        }
        for row in rows[:PAGE_SIZE]
    ]
    return devices, len(rows) > PAGE_SIZE


def _running(connection: sqlite3.Connection, device_id: str) -> dict[str, object]:
    rows = connection.execute("SELECT model, version, event, code FROM device_models WHERE device_id = ?", (device_id,))
    return {row["model"]: {"version": row["version"], "event": row["event"], "code": row["code"]} for row in rows}


def _check_room(connection: sqlite3.Connection, state: DeviceState) -> None:
    if state is not DeviceState.PENDING:
        return
    pending = connection.execute("SELECT count(*) FROM devices WHERE state = 'pending'").fetchone()[0]
    if pending >= MAX_PENDING_DEVICES:
        raise ApiError(
            "too many devices wait to be accepted", status=429, code="enroll_full", hint="the operator accepts or blocks some"
        )


def _unknown(device_id: str) -> ApiError:
    return ApiError("no such device", status=404, code="device_unknown", where=device_id[:64])
