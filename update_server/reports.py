"""Reports of devices: signed, counted, stored once, acknowledged after the commit.

The counter makes a report idempotent and an old one recognisable; a device whose marks or floor went down is not
refused, because its report is the evidence that somebody turned it back.
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from securesystemslib.signer import SSlibKey

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath, check_name
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.dsse import read_unverified_payload, verify_envelope
from device_client.trust.times import format_time, parse_time
from update_server.audience import Audience, check_not_future
from update_server.devices import Device
from update_server.journal import append
from update_server.problem import ApiError

PAYLOAD_TYPE = "application/vnd.sealift.report.v1+json"
MAX_ENVELOPE_BYTES = DEFAULT_LIMITS.max_report_bytes
SCHEMA = 1
STATES = (
    "idle", "check", "offered", "downloading", "verify", "stage", "selftest", "ready", "activate", "probation", "commit",
    "rollback", "report", "safe",
)  # fmt: skip
EVENTS = (
    "installed", "activated", "current", "none", "refused", "failed", "deferred", "rolled_back", "awaiting_audit",
    "withheld", "alarm",
)  # fmt: skip
_FIELDS = (
    "schema", "audience", "device_id", "counter", "generation", "created", "model", "state", "event", "code", "detail",
    "active", "target", "floor", "marks",
)  # fmt: skip
_CODE = re.compile(r"[a-z0-9_]{1,64}\Z")
_ROLE = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}\Z")  # a kind, a hyphen and the name of a line
_WHERE = "report"
_MAX_VERSION = 2**31 - 1


@dataclass(frozen=True)
class Version:
    """A version of a model and, where known, its manifest."""

    version: str
    manifest: Digest | None


@dataclass(frozen=True)
class Report:
    """A report whose signature was checked. Made by ``verify_report``."""

    envelope: bytes
    payload_sha256: str
    counter: int
    generation: int
    model: ModelPath
    state: str
    event: str
    code: str | None
    detail: str | None
    active: Version | None
    target: Version | None
    floor: Counter
    marks: dict[str, int]


class Outcome(Enum):
    """What became of a report."""

    STORED = "stored"
    DUPLICATE = "duplicate"


def verify_report(data: bytes, *, device: Device, audience: Audience, now: datetime) -> Report:
    """Returns what the device says.

    Checks, in order: (1) exactly one signature, by the enrolled key, (2) the schema, (3) the device, (4) the
    audience, (5) the time.

    Raises:
        FormatError, LimitError: not such an envelope.
        TrustError: ``signature_threshold``.
        ApiError: 403 ``report_device``, 422 ``audience`` or ``clock_skew``.
    """
    _, keyids = read_unverified_payload(data, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES, where=_WHERE)
    if len(keyids) != 1:
        raise FormatError("not exactly one signature", code="dsse_syntax", where=_WHERE, actual=len(keyids))
    named = SSlibKey(keyids[0], device.key.keytype, device.key.scheme, device.key.keyval)
    signed = verify_envelope(data, payload_type=PAYLOAD_TYPE, keys=[named], max_bytes=MAX_ENVELOPE_BYTES, where=_WHERE)
    fields = Fields(parse_strict(signed.payload, max_bytes=MAX_ENVELOPE_BYTES, where=_WHERE), where=_WHERE, known=_FIELDS)
    report = _read(fields, data, Digest.of(signed.payload).hex)
    if fields.text("device_id", max_chars=64) != device.device_id.hex:
        raise ApiError("the report is about another device", status=403, code="report_device", where=f"{_WHERE}.device_id")
    audience.check(fields.text("audience", max_chars=512), where=f"{_WHERE}.audience")
    check_not_future(parse_time(fields.raw("created"), f"{_WHERE}.created"), now=now, where=f"{_WHERE}.created")
    return report


def store_report(connection: sqlite3.Connection, report: Report, *, device_id: Digest, now: datetime) -> Outcome:
    """Stores a report once; the counter is compared inside the transaction.

    Raises:
        ApiError: 409 ``report_conflict`` or ``report_counter``, each with ``last_counter``.
    """
    row = connection.execute("SELECT last_counter, generation, marks FROM devices WHERE device_id = ?", (device_id.hex,)).fetchone()
    known = connection.execute(
        "SELECT payload_sha256 FROM reports WHERE device_id = ? AND counter = ?", (device_id.hex, report.counter)
    ).fetchone()
    if known is not None and known["payload_sha256"] == report.payload_sha256:
        return Outcome.DUPLICATE
    if known is not None or report.counter <= row["last_counter"]:
        raise _conflict(report.counter, row["last_counter"], is_known=known is not None)
    connection.execute(
        "INSERT INTO reports VALUES (?, ?, ?, ?, ?)",
        (device_id.hex, report.counter, report.payload_sha256, format_time(now), report.envelope),
    )
    for alarm in _decreases(connection, report, device_id, row):
        append(connection, now=now, actor=device_id.hex, action=f"report {report.counter}", outcome="alarm", code=alarm)
    connection.execute(
        "UPDATE devices SET last_counter = ?, generation = ?, marks = ? WHERE device_id = ?",
        (report.counter, report.generation, json.dumps(report.marks), device_id.hex),
    )
    _store_position(connection, report, device_id)
    return Outcome.STORED


def _read(fields: Fields, envelope: bytes, payload_sha256: str) -> Report:
    if fields.integer("schema") != SCHEMA:
        raise FormatError("unknown schema", code="schema_unknown", where=_WHERE, expected=SCHEMA, actual=fields.integer("schema"))
    code = _optional_text(fields, "code", max_chars=64)
    if code is not None and not _CODE.match(code):
        raise FormatError("not a reason code", code="field_value", where=f"{_WHERE}.code", expected="[a-z0-9_]{1,64}")
    return Report(
        envelope=envelope,
        payload_sha256=payload_sha256,
        counter=fields.integer("counter", minimum=1),
        generation=fields.integer("generation", minimum=1),
        model=ModelPath.parse(fields.text("model")),
        state=fields.text("state", choices=STATES),
        event=fields.text("event", choices=EVENTS),
        code=code,
        detail=_optional_text(fields, "detail", max_chars=1024),
        active=_optional_version(fields, "active"),
        target=_optional_version(fields, "target"),
        floor=Counter.from_json(fields.raw("floor"), where=f"{_WHERE}.floor"),
        marks=_read_marks(fields),
    )


def _read_marks(fields: Fields) -> dict[str, int]:
    marks = fields.fields("marks")
    names = marks.keys()
    if len(names) > 64 or not all(_ROLE.match(name) for name in names):
        raise FormatError("not a map of roles", code="field_value", where=marks.where, expected="at most 64 role names")
    return {name: marks.integer(name, maximum=_MAX_VERSION) for name in names}


def _optional_text(fields: Fields, key: str, *, max_chars: int) -> str | None:
    return None if fields.raw(key) is None else fields.text(key, max_chars=max_chars)


def _optional_version(fields: Fields, key: str) -> Version | None:
    if fields.raw(key) is None:
        return None
    inner = fields.fields(key, known=("version", "manifest"))
    manifest = inner.raw("manifest")
    return Version(
        check_name(inner.raw("version"), what="version", where=inner.where),
        None if manifest is None else Digest.parse(manifest, where=f"{inner.where}.manifest"),
    )


def _decreases(connection: sqlite3.Connection, report: Report, device_id: Digest, row: sqlite3.Row) -> list[str]:
    """What went down since the last report; on a sound device nothing ever does (DESIGN 5)."""
    alarms = []
    if report.generation < row["generation"]:
        alarms.append("generation_decreased")
    before: dict[str, int] = json.loads(row["marks"])
    if any(report.marks.get(role, version) < version for role, version in before.items()):
        alarms.append("mark_decreased")
    position = connection.execute(
        "SELECT floor_epoch, floor_n FROM device_models WHERE device_id = ? AND model = ?", (device_id.hex, str(report.model))
    ).fetchone()
    if position is not None and report.floor < Counter(position["floor_epoch"], position["floor_n"]):
        alarms.append("floor_decreased")
    return alarms


def _store_position(connection: sqlite3.Connection, report: Report, device_id: Digest) -> None:
    active = report.active
    connection.execute(
        "INSERT OR REPLACE INTO device_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            device_id.hex, str(report.model), report.state, report.event, report.code, None if active is None else active.version,
            None if active is None or active.manifest is None else str(active.manifest), report.floor.epoch, report.floor.n,
        ),
    )  # fmt: skip


def _conflict(counter: int, last_counter: int, *, is_known: bool) -> ApiError:
    return ApiError(
        "another report has this counter" if is_known else "the counter is below the last one",
        status=409,
        code="report_conflict" if is_known else "report_counter",
        where=f"{_WHERE} {counter}",
        expected=f"above {last_counter}",
        hint="report again with a counter above last_counter",
        members={"last_counter": last_counter},
    )
