"""The device's memory: what was released, installed, withdrawn and reported, as types instead of rows.

Holds tokens and marks: one owner, mode 0600. Decides nothing; ``policy/memory.py`` does, on what ``memory()`` returns.
Values that only ever grow (marks, counters, floors, ``seq``) are kept so by the statements themselves.

    with open_state(path) as state, state.transaction():
        state.activate(deployment, evidence, floor=floor)
        state.add_report(counter, envelope)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, StateError
from device_client.install.database import Database, open_database
from device_client.install.machine import State
from device_client.policy.memory import Memory, raised_floor
from device_client.trust.marks import Marks, VersionMark
from device_client.trust.times import format_time, parse_time

MAX_JOURNAL_ROWS = 2000
_NEVER = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Deployment:
    """A bundle as it was activated here. ``variant_digest`` names the bytes the runtime gets."""

    model: ModelPath
    version: str
    manifest: Digest
    variant: str
    variant_digest: Digest
    counter: Counter
    seq: int
    installed: datetime


@dataclass(frozen=True)
class Progress:
    """What is, or was, under way for a model."""

    state: State
    version: str | None
    manifest: str | None
    since: datetime


@dataclass(frozen=True)
class JournalEntry:
    """One thing that happened; ``code`` is the reason of a refusal."""

    at: datetime
    model: str
    event: str
    version: str | None = None
    code: str | None = None
    detail: str | None = None


def open_state(path: Path) -> DeviceState:
    """Opens the state made by ``create_database``.

    Raises:
        StateError: ``state_missing``, ``state_owner``, ``state_newer``, ``state_schema`` or ``state_damaged``.
    """
    return DeviceState(Database(open_database(path), path))


class DeviceState:
    """The open state; close it, or use it in a ``with`` statement. Changes need ``transaction()``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def __enter__(self) -> DeviceState:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All changes inside the ``with`` block, or none."""
        return self._db.transaction()

    # What is remembered.

    def marks(self) -> Marks:
        """Version marks of all roles."""
        rows = self._db.rows("SELECT role, version, sha256, keyset FROM marks ORDER BY role, keyset")
        return Marks(tuple(VersionMark(str(r[0]), _int(r[1]), _digest(r[2]), _digest(r[3])) for r in rows))

    def remember_marks(self, marks: Marks) -> None:
        """Stores what ``trust.marks.advance`` returned; a mark is never lowered and never removed."""
        for mark in marks.versions:
            self._db.change(
                "INSERT INTO marks (role, keyset, version, sha256) VALUES (?, ?, ?, ?) ON CONFLICT (role, keyset) DO UPDATE"
                " SET version = excluded.version, sha256 = excluded.sha256 WHERE excluded.version > marks.version",
                mark.role,
                str(mark.keyset),
                mark.version,
                str(mark.sha256),
            )

    def roots(self) -> dict[int, bytes]:
        """Every root that was verified here, by version, oldest first."""
        rows = self._db.rows("SELECT version, data FROM roots ORDER BY version")
        return {_int(version): data for version, data in rows if isinstance(data, bytes)}

    def remember_roots(self, roots: Mapping[int, bytes]) -> None:
        """Stores verified roots; one that is known stays as it was."""
        for version, data in roots.items():
            self._db.change("INSERT INTO roots (version, data) VALUES (?, ?) ON CONFLICT (version) DO NOTHING", version, data)

    def memory(self, model: ModelPath) -> Memory:
        """All that is remembered about a model."""
        name = str(model)
        counter = self._db.rows("SELECT epoch, n, manifest FROM counters WHERE model = ?", name)
        floor = self._db.rows("SELECT epoch, n FROM floors WHERE model = ?", name)
        withdrawn = self._db.rows("SELECT kind, digest, seq FROM withdrawals WHERE model = ?", name)
        return Memory(
            counter=Counter(_int(counter[0][0]), _int(counter[0][1])) if counter else None,
            manifest=_digest(counter[0][2]) if counter else None,
            versions={
                str(r[0]): _digest(r[1]) for r in self._db.rows("SELECT version, manifest FROM deployments WHERE model = ?", name)
            },
            floor=Counter(_int(floor[0][0]), _int(floor[0][1])) if floor else None,
            seqs={_digest(r[0]): _int(r[1]) for r in self._db.rows("SELECT manifest, seq FROM seqs WHERE model = ?", name)},
            withdrawn={_digest(r[1]): _int(r[2]) for r in withdrawn if r[0] == "manifest"},
            withdrawn_variants={_digest(r[1]): _int(r[2]) for r in withdrawn if r[0] == "variant"},
        )

    def raise_floor(self, model: ModelPath, candidate: Counter) -> None:
        """Raises the floor; never lowers it."""
        floor = raised_floor(self.memory(model).floor, candidate)
        self._db.change("INSERT OR REPLACE INTO floors (model, epoch, n) VALUES (?, ?, ?)", str(model), floor.epoch, floor.n)

    def remember_seq(self, model: ModelPath, manifest: Digest, seq: int) -> None:
        """Raises the highest ``seq`` acted upon; never lowers it."""
        self._db.change(
            "INSERT INTO seqs (model, manifest, seq) VALUES (?, ?, ?) ON CONFLICT (model, manifest) DO UPDATE"
            " SET seq = max(seqs.seq, excluded.seq)",
            str(model),
            str(manifest),
            seq,
        )

    def remember_withdrawal(self, model: ModelPath, manifest: Digest, variants: Iterable[Digest], seq: int) -> None:
        """Remembers for ever that a bundle and its runtime bytes were withdrawn under ``seq``."""
        for kind, digest in [("manifest", manifest), *(("variant", digest) for digest in variants)]:
            self._db.change(
                "INSERT INTO withdrawals (model, kind, digest, seq) VALUES (?, ?, ?, ?) ON CONFLICT (model, kind, digest) DO UPDATE"
                " SET seq = max(withdrawals.seq, excluded.seq)",
                str(model),
                kind,
                str(digest),
                seq,
            )
        self.remember_seq(model, manifest, seq)

    def known_bad(self, model: ModelPath, manifest: Digest, *, now: datetime) -> str | None:
        """Why a bundle failed here, or None if it did not or if that is forgiven by now."""
        rows = self._db.rows("SELECT cause, until FROM known_bad WHERE model = ? AND manifest = ?", str(model), str(manifest))
        if not rows or (rows[0][1] is not None and _time(rows[0][1]) <= now):
            return None
        return str(rows[0][0])

    def remember_bad(self, model: ModelPath, manifest: Digest, *, cause: str, until: datetime | None) -> None:
        """Remembers that a bundle failed its self-test; ``until`` is None for ever."""
        self._db.change(
            "INSERT OR REPLACE INTO known_bad (model, manifest, cause, until) VALUES (?, ?, ?, ?)",
            str(model),
            str(manifest),
            cause,
            None if until is None else format_time(until),
        )

    # What runs.

    def active(self, model: ModelPath) -> Deployment | None:
        """The active deployment of a model."""
        return self._deployment("active.deployment", model)

    def previous(self, model: ModelPath) -> Deployment | None:
        """The deployment that was active before."""
        return self._deployment("active.previous", model)

    def evidence(self, model: ModelPath) -> dict[str, bytes]:
        """The signed files that the active deployment rests on."""
        rows = self._db.rows(
            "SELECT name, data FROM evidence JOIN active ON active.deployment = evidence.deployment WHERE active.model = ?",
            str(model),
        )
        return {str(name): data for name, data in rows if isinstance(data, bytes)}

    def activate(self, deployment: Deployment, evidence: Mapping[str, bytes], *, floor: Counter) -> None:
        """Makes a deployment the active one, with its evidence, counter, floor and audit ``seq``. Call in a transaction."""
        model, counter = str(deployment.model), deployment.counter
        identifier = self._db.change(
            "INSERT INTO deployments (model, version, manifest, variant, variant_digest, epoch, n, seq, installed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            model,
            deployment.version,
            str(deployment.manifest),
            deployment.variant,
            str(deployment.variant_digest),
            counter.epoch,
            counter.n,
            deployment.seq,
            format_time(deployment.installed),
        )
        for name, data in evidence.items():
            self._db.change("INSERT INTO evidence (deployment, name, data) VALUES (?, ?, ?)", identifier, name, data)
        self._db.change(
            "INSERT INTO active (model, deployment) VALUES (?, ?) ON CONFLICT (model) DO UPDATE"
            " SET previous = active.deployment, deployment = excluded.deployment",
            model,
            identifier,
        )
        self._db.change(
            "INSERT INTO counters (model, epoch, n, manifest) VALUES (?, ?, ?, ?) ON CONFLICT (model) DO UPDATE"
            " SET epoch = excluded.epoch, n = excluded.n, manifest = excluded.manifest"
            " WHERE (excluded.epoch, excluded.n) > (counters.epoch, counters.n)",
            model,
            counter.epoch,
            counter.n,
            str(deployment.manifest),
        )
        self.raise_floor(deployment.model, floor)
        self.remember_seq(deployment.model, deployment.manifest, deployment.seq)

    # What is under way, and what is told.

    def progress(self, model: ModelPath) -> Progress:
        """Where the model's installation stands."""
        rows = self._db.rows("SELECT state, version, manifest, since FROM progress WHERE model = ?", str(model))
        if not rows:
            return Progress(State.IDLE, None, None, _time(_NEVER))
        state, version, manifest, since = rows[0]
        if state not in set(State):
            raise StateError("the state holds an unknown step", code="state_damaged", actual=str(state)[:40])
        return Progress(State(str(state)), _text(version), _text(manifest), _time(since))

    def set_progress(self, model: ModelPath, progress: Progress) -> None:
        """Stores a state before it is acted upon."""
        self._db.change(
            "INSERT OR REPLACE INTO progress (model, state, version, manifest, since) VALUES (?, ?, ?, ?, ?)",
            str(model),
            progress.state.value,
            progress.version,
            progress.manifest,
            format_time(progress.since),
        )

    def enrolment(self) -> tuple[str | None, str | None]:
        """Token and state of the enrolment, or None for both."""
        token, state = self._db.row("SELECT token, enrolment FROM device")
        return _text(token), _text(state)

    def set_enrolment(self, token: str, state: str) -> None:
        """Stores the server's answer to an enrolment."""
        self._db.change("UPDATE device SET token = ?, enrolment = ?", token, state)

    def generation(self) -> int:
        """How many times this device's state was made anew."""
        return _int(self._db.row("SELECT generation FROM device")[0])

    def next_report_counter(self) -> int:
        """Takes the next counter: used once, never given back. Call in the transaction that adds the report."""
        self._db.change("UPDATE device SET report_counter = report_counter + 1")
        return _int(self._db.row("SELECT report_counter FROM device")[0])

    def skip_report_counter(self, last: int) -> None:
        """Goes on above ``last``, which the server has seen from this device before."""
        self._db.change("UPDATE device SET report_counter = max(report_counter, ?)", last)

    def add_report(self, counter: int, envelope: bytes) -> None:
        """Puts a signed report into the outbox."""
        self._db.change("INSERT INTO outbox (counter, envelope) VALUES (?, ?)", counter, envelope)

    def outbox(self) -> list[tuple[int, bytes]]:
        """Unacknowledged reports, oldest first."""
        rows = self._db.rows("SELECT counter, envelope FROM outbox ORDER BY counter")
        return [(_int(counter), data) for counter, data in rows if isinstance(data, bytes)]

    def remove_report(self, counter: int) -> None:
        """Drops a report that the server has acknowledged."""
        self._db.change("DELETE FROM outbox WHERE counter = ?", counter)

    def write_journal(self, entry: JournalEntry) -> None:
        """Appends to the journal; beyond its bound the oldest row goes."""
        self._db.change(
            "INSERT INTO journal (at, model, event, version, code, detail) VALUES (?, ?, ?, ?, ?, ?)",
            format_time(entry.at),
            entry.model,
            entry.event,
            entry.version,
            entry.code,
            entry.detail,
        )
        self._db.change("DELETE FROM journal WHERE id <= (SELECT max(id) FROM journal) - ?", MAX_JOURNAL_ROWS)

    def journal(self, *, limit: int = 20) -> list[JournalEntry]:
        """The newest entries, newest first."""
        rows = self._db.rows("SELECT at, model, event, version, code, detail FROM journal ORDER BY id DESC LIMIT ?", limit)
        return [JournalEntry(_time(r[0]), str(r[1]), str(r[2]), _text(r[3]), _text(r[4]), _text(r[5])) for r in rows]

    def last_entry(self, model: ModelPath) -> JournalEntry | None:
        """The newest entry of one model."""
        rows = self._db.rows("SELECT at, event, version, code FROM journal WHERE model = ? ORDER BY id DESC LIMIT 1", str(model))
        return JournalEntry(_time(rows[0][0]), str(model), str(rows[0][1]), _text(rows[0][2]), _text(rows[0][3])) if rows else None

    def _deployment(self, column: str, model: ModelPath) -> Deployment | None:
        rows = self._db.rows(
            "SELECT version, manifest, variant, variant_digest, epoch, n, seq, installed FROM deployments"  # noqa: S608  # our words
            f" JOIN active ON {column} = deployments.id WHERE active.model = ?",
            str(model),
        )
        if not rows:
            return None
        version, manifest, variant, digest, epoch, n, seq, installed = rows[0]
        return Deployment(
            model=model,
            version=str(version),
            manifest=_digest(manifest),
            variant=str(variant),
            variant_digest=_digest(digest),
            counter=Counter(_int(epoch), _int(n)),
            seq=_int(seq),
            installed=_time(installed),
        )


def _int(value: object) -> int:
    if type(value) is not int:
        raise StateError("the state holds a wrong type", code="state_damaged", expected="an integer")
    return value


def _digest(value: object) -> Digest:
    try:
        return Digest.parse(value, where="state")
    except FormatError as e:
        raise StateError("the state holds a wrong digest", code="state_damaged") from e


def _time(value: object) -> datetime:
    try:
        return parse_time(value, "state")
    except FormatError as e:
        raise StateError("the state holds a wrong time", code="state_damaged") from e


def _text(value: object) -> str | None:
    return None if value is None else str(value)
