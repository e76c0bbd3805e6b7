"""The device's state: what was installed, stopped and reported, as types instead of rows; with its memory (``state_memory.py``).

Holds tokens and marks: one owner, mode 0600. Decides nothing. Read by anyone at any time; whoever changes it holds the lock
and opens it by ``recovery.open_memory``, which brings both copies of the memory together first.

    with open_state(path) as state, state.transaction():
        state.activate(deployment, evidence)
        state.add_report(counter, envelope)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import StateError
from device_client.install.database import Database, open_database
from device_client.install.machine import State
from device_client.install.rows import read_integer, read_text, read_time
from device_client.install.state_deployments import Deployment, DeploymentTables
from device_client.install.state_probation import ProbationTables
from device_client.install.state_standing import StandingTables
from device_client.trust.times import format_time

__all__ = ["Deployment", "DeviceState", "JournalEntry", "Progress", "open_state"]

MIRROR_NAME = "marks.json"
MAX_JOURNAL_ROWS = 2000
_NEVER = "1970-01-01T00:00:00Z"


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


def open_state(path: Path, *, read_only: bool = False) -> DeviceState:
    """Opens the state made by ``create_database``; its mirror lies beside it.

    Args:
        path: of the database.
        read_only: for who reads some rows and closes it; cheaper.

    Raises:
        StateError: ``state_missing``, ``state_owner``, ``state_newer``, ``state_schema`` or ``state_damaged``.
    """
    return DeviceState(Database(open_database(path, read_only=read_only), path), path.with_name(MIRROR_NAME))


class DeviceState(DeploymentTables, ProbationTables, StandingTables):
    """The open state; close it, or use it in a ``with`` statement. Changes need ``transaction()``."""

    def close(self) -> None:
        """Closes the database; everything committed stays."""
        self._db.close()

    def __enter__(self) -> DeviceState:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    # What failed here.

    def known_bad(self, model: ModelPath, manifest: Digest, *, now: datetime) -> str | None:
        """Why a bundle failed here, or None if it did not or if that is forgiven by now."""
        rows = self._db.rows("SELECT cause, until FROM known_bad WHERE model = ? AND manifest = ?", str(model), str(manifest))
        if not rows or (rows[0][1] is not None and read_time(rows[0][1]) <= now):
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

    # What is under way, and what is told.

    def progress(self, model: ModelPath) -> Progress:
        """Where the model's installation stands."""
        rows = self._db.rows("SELECT state, version, manifest, since FROM progress WHERE model = ?", str(model))
        if not rows:
            return Progress(State.IDLE, None, None, read_time(_NEVER))
        state, version, manifest, since = rows[0]
        if state not in set(State):
            raise StateError("the state holds an unknown step", code="state_damaged", actual=str(state)[:40])
        return Progress(State(str(state)), read_text(version), read_text(manifest), read_time(since))

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
        return read_text(token), read_text(state)

    def set_enrolment(self, token: str, state: str) -> None:
        """Stores the server's answer to an enrolment."""
        self._db.change("UPDATE device SET token = ?, enrolment = ?", token, state)

    def next_report_counter(self) -> int:
        """Takes the next counter: used once, never given back. Call in the transaction that adds the report."""
        self._db.change("UPDATE device SET report_counter = report_counter + 1")
        return read_integer(self._db.row("SELECT report_counter FROM device")[0])

    def skip_report_counter(self, last: int) -> None:
        """Goes on above ``last``, which the server has seen from this device before."""
        self._db.change("UPDATE device SET report_counter = max(report_counter, ?)", last)

    def add_report(self, counter: int, envelope: bytes) -> None:
        """Puts a signed report into the outbox."""
        self._db.change("INSERT INTO outbox (counter, envelope) VALUES (?, ?)", counter, envelope)

    def outbox(self) -> list[tuple[int, bytes]]:
        """Unacknowledged reports, oldest first."""
        rows = self._db.rows("SELECT counter, envelope FROM outbox ORDER BY counter")
        return [(read_integer(counter), data) for counter, data in rows if isinstance(data, bytes)]

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
        return [
            JournalEntry(read_time(r[0]), str(r[1]), str(r[2]), read_text(r[3]), read_text(r[4]), read_text(r[5])) for r in rows
        ]

    def last_entry(self, model: ModelPath) -> JournalEntry | None:
        """The newest entry of one model."""
        rows = self._db.rows("SELECT at, event, version, code FROM journal WHERE model = ? ORDER BY id DESC LIMIT 1", str(model))
        return (
            JournalEntry(read_time(rows[0][0]), str(model), str(rows[0][1]), read_text(rows[0][2]), read_text(rows[0][3]))
            if rows
            else None
        )
