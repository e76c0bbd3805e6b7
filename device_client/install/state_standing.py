"""The tables behind the standing of a running model: day counts, stops, alarms that still hold, and how long its proofs count.

Not memory in the sense of ``state_memory.py``: with the database these are lost, and begin anew. Decides nothing;
``policy/standing.py`` does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from device_client.bundle.path import ModelPath
from device_client.install.database import Database
from device_client.install.rows import read_integer, read_text, read_time
from device_client.policy.patience import DayCount
from device_client.trust.times import format_time

PATIENCE_KINDS = ("expired", "behind", "withheld")


@dataclass(frozen=True)
class Stop:
    """A model that the owner's policy keeps from running; ``code`` is the alarm that did it."""

    code: str
    since: datetime


@dataclass(frozen=True, order=True)
class RaisedAlarm:
    """An alarm that still holds; ``subject`` is the bundle, version or document that it is about."""

    code: str
    subject: str
    since: datetime


class StandingTables:
    """The standing part of the open database. Changes need ``transaction()``."""

    _db: Database

    def patience(self, model: ModelPath, kind: str) -> DayCount:
        """On how many days ``kind`` held."""
        rows = self._db.rows("SELECT days, last_day FROM patience WHERE model = ? AND kind = ?", str(model), kind)
        return DayCount(read_integer(rows[0][0]), read_text(rows[0][1])) if rows else DayCount()

    def set_patience(self, model: ModelPath, kind: str, count: DayCount) -> None:
        """Stores a count."""
        self._db.change(
            "INSERT OR REPLACE INTO patience (model, kind, days, last_day) VALUES (?, ?, ?, ?)",
            str(model),
            kind,
            count.days,
            count.last_day,
        )

    def stopped(self, model: ModelPath) -> Stop | None:
        """Why the model may not run, or None if it may."""
        rows = self._db.rows("SELECT code, since FROM stopped WHERE model = ?", str(model))
        return Stop(str(rows[0][0]), read_time(rows[0][1])) if rows else None

    def stop(self, model: ModelPath, *, code: str, now: datetime) -> None:
        """Keeps a model from being opened."""
        self._db.change("INSERT OR REPLACE INTO stopped (model, code, since) VALUES (?, ?, ?)", str(model), code, format_time(now))

    def unstop(self, model: ModelPath) -> None:
        """Lets it be opened again."""
        self._db.change("DELETE FROM stopped WHERE model = ?", str(model))

    def alarms(self, model: ModelPath) -> tuple[RaisedAlarm, ...]:
        """The alarms that still hold."""
        rows = self._db.rows("SELECT code, subject, since FROM alarms WHERE model = ? ORDER BY code, subject", str(model))
        return tuple(RaisedAlarm(str(code), str(subject), read_time(since)) for code, subject, since in rows)

    def raise_alarm(self, model: ModelPath, *, code: str, subject: str, now: datetime) -> bool:
        """Notes that an alarm holds; True if it did not before, so that it has to be told."""
        known = {(alarm.code, alarm.subject) for alarm in self.alarms(model)}
        if (code, subject) in known:
            return False
        self._db.change(
            "INSERT INTO alarms (model, code, subject, since) VALUES (?, ?, ?, ?)", str(model), code, subject, format_time(now)
        )
        return True

    def clear_alarms(self, model: ModelPath, *, but: Collection[tuple[str, str]]) -> None:
        """Forgets the alarms that no longer hold: all but those named by code and subject."""
        for alarm in self.alarms(model):
            if (alarm.code, alarm.subject) not in but:
                self._db.change(
                    "DELETE FROM alarms WHERE model = ? AND code = ? AND subject = ?", str(model), alarm.code, alarm.subject
                )

    def proofs_until(self, model: ModelPath) -> datetime | None:
        """Until when the proofs of the running bundle count, as last seen."""
        rows = self._db.rows("SELECT until FROM proofs WHERE model = ?", str(model))
        return read_time(rows[0][0]) if rows else None

    def set_proofs_until(self, model: ModelPath, until: datetime) -> None:
        """Stores it; what was seen last counts."""
        self._db.change("INSERT OR REPLACE INTO proofs (model, until) VALUES (?, ?)", str(model), format_time(until))
