"""The SQLite file under the device's state: made whole, opened only if it is exactly ours, changed in transactions.

``synchronous=FULL`` on a write-ahead log: a committed transaction is on the disk when ``COMMIT`` returns, and a power cut
at any instant leaves the state before or after it. The schema is compared word for word and ``trusted_schema`` is off,
so a planted trigger or view is refused, not run. What the rows mean is in ``state.py``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_client.errors import StateError
from device_client.install.state_schema import ADDED, APPLICATION_ID, FILLED, TABLES, USER_VERSION
from device_client.trust.files import sync_folder

Row = tuple[object, ...]
_PRAGMAS = ("trusted_schema = OFF", "cell_size_check = ON")
_WRITERS_PRAGMAS = ("synchronous = FULL", "foreign_keys = ON")
_UNREAD = "unable to get the page"  # how SQLite's quick_check tells of an error that the disk gave


def create_database(path: Path) -> None:
    """Makes an empty database of generation 1; refuses to touch an existing file.

    Raises:
        StateError: ``state_exists``, or ``state_unwritable``.
    """
    with _damage(path), _disk(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError as e:
            raise StateError("there is a state already", code="state_exists", where=str(path)) from e
        with contextlib.closing(_connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in TABLES.values():
                connection.execute(statement)
            connection.execute("INSERT INTO device (one, generation, report_counter) VALUES (1, 1, 0)")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {USER_VERSION}")
            connection.execute("COMMIT")
        sync_folder(path.parent)


def open_database(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Opens the file after checking that it is ours, of this format or brought to it, undamaged.

    Args:
        path: the file.
        read_only: for who reads some rows and closes it: no change is possible, and pages that are not read are not looked at. One
            of an older format is opened as if to be changed.

    Raises:
        StateError: ``state_missing``, ``state_owner``, ``state_newer``, ``state_schema`` or ``state_damaged``; for a disk that
            does not tell, ``state_unwritable``.
    """
    try:
        with _disk(path):
            found = path.lstat()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise StateError(
            "no device state here",
            code="state_missing",
            where=str(path),
            hint="run `sealift device init`; beside a marks.json, the next `sealift device poll` makes the state anew from it",
        ) from e
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StateError(
            "the state belongs to somebody else or is open to others",
            code="state_owner",
            where=str(path),
            expected=f"a file of user {os.geteuid()}, mode 0600",
            actual=f"user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}",
        )
    _check_header(path)
    with _damage(path):
        connection = _connect(path, read_only=read_only)
        try:
            version = _check_format(connection, path)
            if version == USER_VERSION and read_only:
                return connection
            if not read_only:
                _check_pages(connection, path)
                if version < USER_VERSION:
                    _migrate(connection)
                return connection
        except BaseException:
            connection.close()
            raise
    connection.close()
    return open_database(path)


class Database:
    """An open file. Changes need ``transaction()``."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def close(self) -> None:
        """Closes the file; everything committed stays."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside, or none: also when the power goes."""
        with _damage(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, statement: str, *values: object) -> list[Row]:
        """All rows of a query."""
        with _damage(self._path):
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str) -> Row:
        """The one row of a query that always has one."""
        rows = self.rows(statement)
        if not rows:
            raise StateError("the state lacks its first row", code="state_damaged", where=str(self._path))
        return rows[0]

    def change(self, statement: str, *values: object) -> int:
        """Runs a changing statement inside the transaction; returns the id of the row it added, if any."""
        if not self._connection.in_transaction:
            raise RuntimeError("changes need a transaction")
        return self._connection.execute(statement, values).lastrowid or 0


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    # mode=rw: a missing file is an error, never a new and empty memory
    mode = "ro" if read_only else "rw"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=10.0)
    try:
        for pragma in _PRAGMAS if read_only else (*_PRAGMAS, *_WRITERS_PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path) -> None:
    """The two bytes by which SQLite takes a damaged file for one that it may only read, or for one of a later SQLite."""
    with _disk(path), path.open("rb") as file:
        header = file.read(20)
    if len(header) == 20 and not {header[18], header[19]} <= {1, 2}:
        raise StateError("the state is damaged", code="state_damaged", where=str(path), actual="its header")


def _check_format(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the format, which is ours, or one that it can be brought from."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID and version > USER_VERSION:
        raise StateError(
            "the state was written by a newer client",
            code="state_newer",
            where=str(path),
            expected=f"format {USER_VERSION}",
            actual=f"format {version}",
            hint="install the newer client again; nothing was changed",
        )
    if application != APPLICATION_ID or not 1 <= version <= USER_VERSION or not _has_schema(connection, version):
        raise StateError("not the schema of a device's state", code="state_schema", where=str(path))
    found: int = version
    return found


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if _UNREAD in verdict:  # the disk's error, not the file's: nobody may take a whole database for a damaged one
        raise StateError("the state cannot be read", code="state_unwritable", where=str(path), actual=str(verdict)[:200])
    if verdict != "ok":
        raise StateError("the state is damaged", code="state_damaged", where=str(path), actual=str(verdict)[:200])


def _has_schema(connection: sqlite3.Connection, version: int) -> bool:
    # sqlite_% are SQLite's own indexes of primary keys
    rows = connection.execute("SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'").fetchall()
    later = {name for added, names in ADDED.items() if added > version for name in names}
    wanted = {name: ("table", sql) for name, sql in TABLES.items() if name not in later}
    return {r[0]: (r[1], r[2]) for r in rows} == wanted


def _migrate(connection: sqlite3.Connection) -> None:
    """Brings an older format to this one, all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been faster
        for step in range(version + 1, USER_VERSION + 1):
            for name in ADDED[step]:
                connection.execute(TABLES[name])
            connection.execute(FILLED[step])
        connection.execute(f"PRAGMA user_version = {USER_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """The border where SQLite's errors become state errors."""
    try:
        yield
    except sqlite3.OperationalError as e:
        # Our statements are fixed and the schema was compared: SQLite finds fault with them only in a damaged file. Without
        # a code it is Python's own: a text that is not UTF-8.
        if getattr(e, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise StateError("the state is damaged", code="state_damaged", where=str(path), actual=str(e)[:200]) from e
        raise StateError("the state cannot be used", code="state_unwritable", where=str(path), actual=str(e)[:200]) from e
    except (sqlite3.DatabaseError, UnicodeDecodeError) as e:  # the latter: a message that quotes damaged text
        raise StateError("the state is damaged", code="state_damaged", where=str(path), actual=str(e)[:200]) from e


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """The border where a disk's errors become state errors, but for a file that is there already or not at all."""
    try:
        yield
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        raise
    except OSError as e:
        raise StateError("the state cannot be used", code="state_unwritable", where=str(path), actual=e.strerror) from e
