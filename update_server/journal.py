"""The audit log: who did or tried what. Append-only rows in the database.

Refusals come from outside and could fill the disk, so at most 60 rows a minute are written for them and the rest are
counted into the next one. Tokens, keys and bodies never get here.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from device_client.trust.times import format_time, utc_now
from update_server.database import Database

MAX_REFUSALS_PER_MINUTE = 60


def append(
    connection: sqlite3.Connection,
    *,
    now: datetime,
    actor: str,
    action: str,
    outcome: str,
    code: str | None = None,
    detail: str = "",
) -> None:
    """One row, inside the transaction of the thing that it is about.

    Args:
        connection: the writer's.
        now: server time.
        actor: role, device id, ``operator`` or client address.
        action: verb and object, for example ``publish release-digits``.
        outcome: ``done``, ``refused`` or ``alarm``.
        code: reason of a refusal or alarm.
        detail: for people.
    """
    connection.execute(
        "INSERT INTO audit_log(at, actor, action, outcome, code, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (format_time(now), actor[:200], action[:200], outcome, code, detail[:1024]),
    )


class Refusals:
    """Writes refused requests to the audit log at a bounded rate."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = datetime.min
        self._written = 0
        self._suppressed = 0

    def record(self, *, actor: str, action: str, code: str) -> None:
        """Queues a row and does not wait for it: a refusal must not cost the refused client's time or ours."""
        now = self._clock()
        with self._lock:
            if now.replace(tzinfo=None) - self._minute >= timedelta(minutes=1):
                self._minute, self._written = now.replace(tzinfo=None), 0
            if self._written >= MAX_REFUSALS_PER_MINUTE:
                self._suppressed += 1
                return
            self._written += 1
            suppressed, self._suppressed = self._suppressed, 0
        detail = f"{suppressed} further refusals before this one were not written" if suppressed else ""
        self._database.write(
            lambda connection: append(connection, now=now, actor=actor, action=action, outcome="refused", code=code, detail=detail)
        )
