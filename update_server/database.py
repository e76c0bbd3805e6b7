"""The server's SQLite file: exact schema, one writer with group commit, answers only after the commit.

A write is a function that gets the connection; writes that wait at the same time share one transaction, each inside
its own savepoint, so that one that fails does not take the others with it. Its result is there only after the
commit reached the disk (WAL, ``synchronous=FULL``): what was acknowledged survives a kill and a power cut.

    database = Database(path)
    await asyncio.wrap_future(database.write(lambda connection: connection.execute(...)))
    database.read(lambda connection: connection.execute(...).fetchone())
    database.close()

Only one process may have the file open for writing; ``service.py`` holds the lock for that.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from device_client.errors import SealiftError, StateError
from update_server.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
MAX_GROUP = 256  # writes in one transaction; bounds how long one commit can hold the others up
_BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Write:
    work: Work[Any]
    done: Future[Any]


class Database:
    """The open database; ``read`` and ``write`` may be called from any thread.

    Raises:
        StateError: ``database_foreign`` when the file is not a Sealift server's, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = _connect(path)
        try:
            _check_schema(self._writer, path)
            self._reader = _connect(path)
        except BaseException:
            self._writer.close()
            raise
        self._reader.execute("PRAGMA query_only=ON")
        self._reader_lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    def read(self, work: Work[T]) -> T:
        """The result of ``work`` on a connection that cannot write; sees every acknowledged write."""
        with self._reader_lock:
            try:
                return work(self._reader)
            except sqlite3.Error as e:
                raise _state_error(e, self._path) from e

    def write(self, work: Work[T]) -> Future[T]:
        """Runs ``work`` in a transaction; the future ends after the commit, or with the exception of ``work``."""
        done: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise StateError("the server is stopping", code="stopping", hint="try again soon")
            self._queue.put(_Write(work, done))
        return done

    def close(self) -> None:
        """Commits what is waiting and closes the file."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group: list[_Write] = []
            item = self._queue.get()
            while item is not None:
                group.append(item)
                if len(group) >= MAX_GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            stopping = item is None
            wanted = [write for write in group if write.done.set_running_or_notify_cancel()]  # not those whose client left
            if wanted:
                self._commit(wanted)

    def _commit(self, group: list[_Write]) -> None:
        outcomes: list[tuple[_Write, Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in group:
                outcomes.append((write, *self._attempt(write.work)))
            self._writer.execute("COMMIT")
        except sqlite3.Error as e:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            logger.error("database: commit of %d writes failed: %s", len(group), e)  # noqa: TRY400  # the cause is the message
            for write in group:
                write.done.set_exception(_state_error(e, self._path))
            return
        for write, result, error in outcomes:
            if error is None:
                write.done.set_result(result)
            else:
                write.done.set_exception(error)

    def _attempt(self, work: Work[Any]) -> tuple[Any, BaseException | None]:
        """One write in its savepoint; an error of the disk is raised, since then nothing of the group can commit."""
        self._writer.execute("SAVEPOINT one")
        try:
            result = work(self._writer)
        except sqlite3.OperationalError:
            raise
        except Exception as e:  # noqa: BLE001  # handed to whoever waits for this write; the others must go on
            self._writer.execute("ROLLBACK TO one")
            self._writer.execute("RELEASE one")
            return None, e
        self._writer.execute("RELEASE one")
        return result, None


def create_database(path: Path) -> None:
    """Makes an empty database with the current schema; ``path`` must not exist."""
    connection = _connect(path)
    try:
        path.chmod(0o600)  # SQLite gives its journal files the mode of the database
        connection.executescript(
            ";\n".join((*SCHEMA, f"PRAGMA user_version={SCHEMA_VERSION}", f"PRAGMA application_id={APPLICATION_ID}"))
        )
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions are ours; the module would open them at moments of its own choice
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "trusted_schema=OFF", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchone()
    except sqlite3.Error as e:
        connection.close()
        raise StateError("cannot open the database", code="database_foreign", where=str(path), hint=str(e)) from e
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """The file holds exactly our tables: a view or trigger planted there would run with our rights."""
    found = {row["sql"] for row in connection.execute("SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")}
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if (version, application) != (SCHEMA_VERSION, APPLICATION_ID) or found != set(SCHEMA):
        raise StateError(
            "not the database of this version of the server",
            code="database_foreign",
            where=str(path),
            expected=f"schema {SCHEMA_VERSION}",
            actual=f"schema {version}",
            hint="make the data folder with `sealift server init`, or use the version that made it",
        )


def _state_error(error: sqlite3.Error, path: Path) -> SealiftError:
    code = "storage_full" if "full" in str(error) else "database"
    return StateError(f"the database did not take it: {error}", code=code, where=path.name, hint="free disk space, then try again")
