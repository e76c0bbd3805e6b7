"""What takes the place of Python's functions while a folder is recorded: each does what the original does, and logs it.

Used by ``recorder.py`` only. A call that does not touch the folder goes through unseen.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sqlite3
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_client.install import sealed_file
from tests.faults.disk import Inode, Kind, Mode, Name, Sync
from tests.faults.disk_log import DiskLog

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SQL_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "VACUUM")
_PRAGMA_CHANGES = ("journal_mode", "application_id", "user_version", "auto_vacuum", "wal_checkpoint")
_FILE_IO = (sealed_file,)  # modules of the device that use the class itself; io's own stays, or a late import would keep ours
_FORBIDDEN = ("pwritev", "writev", "sendfile", "copy_file_range", "splice", "mknod", "mkfifo")


def replacements(log: DiskLog) -> Iterator[tuple[Any, str, Any]]:
    """Every function that is replaced: its module, its name, and what takes its place."""
    yield os, "open", _os_open(log, os.open)
    yield os, "write", _os_write(log, os.write)
    yield os, "pwrite", _os_pwrite(log, os.pwrite)
    yield os, "read", _os_read(log, os.read)
    yield os, "fsync", _os_sync(log, os.fsync)
    yield os, "fdatasync", _os_sync(log, os.fdatasync)
    yield os, "rename", _os_rename(log, os.rename)
    yield os, "replace", _os_rename(log, os.replace)
    yield os, "link", _os_link(log, os.link)
    yield os, "symlink", _os_symlink(log, os.symlink)
    yield os, "unlink", _os_unlink(log, os.unlink, "unlink")
    yield os, "remove", _os_unlink(log, os.remove, "unlink")
    yield os, "rmdir", _os_unlink(log, os.rmdir, "rmdir")
    yield os, "mkdir", _os_mkdir(log, os.mkdir)
    yield os, "chmod", _os_chmod(log, os.chmod)
    yield os, "fchmod", _os_chmod(log, os.fchmod)
    yield os, "truncate", _os_truncate(log, os.truncate)
    yield os, "ftruncate", _os_truncate(log, os.ftruncate)
    yield os, "posix_fallocate", _os_allocate(log, os.posix_fallocate)
    raw_file = _raw(log)
    opened = _open(log, io.open, raw_file)
    yield io, "open", opened
    yield builtins, "open", opened
    yield sqlite3, "connect", _connect(log, sqlite3.connect)
    for module in _FILE_IO:
        yield module, "FileIO", _file_io(log, module.FileIO, raw_file)
    for name in _FORBIDDEN:
        yield os, name, _forbidden(log, name, getattr(os, name))


def _forbidden(log: DiskLog, name: str, original: Any) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        for each in args[:2]:
            if isinstance(each, (int, str, Path)) and not isinstance(each, bool):
                with contextlib.suppress(OSError):
                    if log.below(each) is not None:
                        raise log.escape(f"os.{name} {each}")
        return original(*args, **kwargs)

    return function


def _os_open(log: DiskLog, original: Any) -> Any:
    def function(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        name = log.below(path, dir_fd)
        if name is None:
            return int(original(path, flags, mode, dir_fd=dir_fd))
        with log.call("open for writing" if flags & WRITING else "open", name):
            known = log.find(name)
            descriptor = int(original(path, flags, mode, dir_fd=dir_fd))
            log.opened(name, descriptor, known, cut=bool(flags & os.O_TRUNC))
            return descriptor

    return function


def _os_write(log: DiskLog, original: Any) -> Any:
    def function(descriptor: int, data: Any) -> int:
        number = log.inode_of(descriptor)
        if number is None:
            return int(original(descriptor, data))
        with log.call("write", log.name_of(number)):
            size = int(original(descriptor, data))
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            log.written(number, end - size, bytes(data)[:size])
            return size

    return function


def _os_pwrite(log: DiskLog, original: Any) -> Any:
    def function(descriptor: int, data: Any, offset: int) -> int:
        number = log.inode_of(descriptor)
        if number is None:
            return int(original(descriptor, data, offset))
        with log.call("write", log.name_of(number)):
            size = int(original(descriptor, data, offset))
            log.written(number, offset, bytes(data)[:size])
            return size

    return function


def _os_read(log: DiskLog, original: Any) -> Any:
    def function(descriptor: int, size: int) -> bytes:
        number = log.inode_of(descriptor)
        if number is None:
            return bytes(original(descriptor, size))
        with log.call("read", log.name_of(number)):
            return bytes(original(descriptor, size))

    return function


def _os_sync(log: DiskLog, original: Any) -> Any:
    def function(handle: Any) -> None:
        descriptor = handle if isinstance(handle, int) else handle.fileno()
        number = log.inode_of(descriptor)
        if number is None:
            original(descriptor)
            return
        name = log.name_of(number)
        with log.call("fsync", name):
            original(descriptor)
            log.log(Sync(f"fsync {name}", number, outside=log.outside()))

    return function


def _os_rename(log: DiskLog, original: Any) -> Any:
    def function(old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        source, target = log.below(old, src_dir_fd), log.below(new, dst_dir_fd)
        if source is None and target is None:
            original(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return
        if source is None or target is None:
            raise log.escape(f"rename {old} to {new}: out of, or into, what is recorded")
        with log.call("rename", source):
            original(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            number = log.find(source)
            if number in log.databases and log.sides(source):
                raise log.escape(f"{source}: a database that is renamed without its log")
            changes = ((*log.parent(source), None), (*log.parent(target), number))
            log.log(Name(f"rename {source} to {target}", changes, outside=log.outside()))

    return function


def _os_link(log: DiskLog, original: Any) -> Any:
    def function(old: Any, new: Any, **kwargs: Any) -> None:
        source, target = log.below(old), log.below(new)
        if target is None:
            original(old, new, **kwargs)
            return
        with log.call("link", target):
            original(old, new, **kwargs)
            number = None if source is None else log.find(source)
            if number is None:
                raise log.escape(f"link {old} to {new}: from outside what is recorded")
            log.log(Name(f"link {source} as {target}", ((*log.parent(target), number),), outside=log.outside()))

    return function


def _os_symlink(log: DiskLog, original: Any) -> Any:
    def function(target: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        name = log.below(path)
        if name is None:
            original(target, path, *args, **kwargs)
            return
        with log.call("symlink", name):
            original(target, path, *args, **kwargs)
            log.make(name, Inode(Kind.LINK, 0o777, os.fsencode(target)), f"symlink {name}")

    return function


def _os_unlink(log: DiskLog, original: Any, kind: str) -> Any:
    def function(path: Any, *, dir_fd: int | None = None) -> None:
        name = log.below(path, dir_fd)
        if name is None:
            original(path, dir_fd=dir_fd)
            return
        with log.call(kind, name):
            original(path, dir_fd=dir_fd)
            log.log(Name(f"{kind} {name}", ((*log.parent(name), None),), outside=log.outside()))

    return function


def _os_mkdir(log: DiskLog, original: Any) -> Any:
    def function(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        name = log.below(path, dir_fd)
        if name is None:
            original(path, mode, dir_fd=dir_fd)
            return
        with log.call("mkdir", name):
            original(path, mode, dir_fd=dir_fd)
            found = stat.S_IMODE((log.folder / name).stat().st_mode)
            log.make(name, Inode(Kind.FOLDER, found), f"mkdir {name}")

    return function


def _os_chmod(log: DiskLog, original: Any) -> Any:
    def function(path: Any, mode: int, **kwargs: Any) -> None:
        name = log.below(path, kwargs.get("dir_fd"))
        number = log.inode_of(path) if isinstance(path, int) else None if name is None else log.find(name)
        if name is None or number is None:
            original(path, mode, **kwargs)
            return
        with log.call("chmod", name):
            original(path, mode, **kwargs)
            inode = log.now[number]
            log.now[number] = Inode(inode.kind, stat.S_IMODE(mode), inode.data, inode.names)
            log.events.append(Mode(f"chmod {name} {mode:o}", number, stat.S_IMODE(mode), outside=log.outside()))

    return function


def _os_truncate(log: DiskLog, original: Any) -> Any:
    def function(path: Any, length: int) -> None:
        number = log.inode_of(path) if isinstance(path, int) else log.find(log.below(path) or "?")
        if number is None:
            original(path, length)
            return
        name = log.name_of(number)
        with log.call("truncate", name):
            original(path, length)
            log.resize(number, length, name)

    return function


def _os_allocate(log: DiskLog, original: Any) -> Any:
    def function(descriptor: int, offset: int, length: int) -> None:
        number = log.inode_of(descriptor)
        if number is None:
            original(descriptor, offset, length)
            return
        name = log.name_of(number)
        with log.call("allocate", name):
            original(descriptor, offset, length)
            if offset + length > len(log.now[number].data):
                log.resize(number, offset + length, name)

    return function


def _raw(log: DiskLog) -> Any:
    """The class of unbuffered files below the folder."""

    class Raw(io.FileIO):
        """An unbuffered file below the folder: every call of it is a call of the log."""

        def write(self, data: Any, /) -> int:
            number = self._number()
            with log.call("write", log.name_of(number)):
                data = bytes(data)
                size = super().write(data)
                log.written(number, self.tell() - size, data[:size])
                return size

        def truncate(self, size: int | None = None, /) -> int:
            number = self._number()
            name = log.name_of(number)
            with log.call("truncate", name):
                found = super().truncate(size)
                log.resize(number, found, name)
                return found

        def readinto(self, buffer: Any, /) -> int:
            with log.call("read", log.name_of(self._number())):
                return int(super().readinto(buffer) or 0)

        def read(self, size: int | None = -1, /) -> bytes:
            with log.call("read", log.name_of(self._number())):
                return bytes(super().read(size) or b"")

        def readall(self) -> bytes:
            with log.call("read", log.name_of(self._number())):
                return super().readall()

        def _number(self) -> int:
            found = log.inode_of(self.fileno())
            if found is None:
                raise log.escape("a file that was opened below the folder and is not there")
            return found

    return Raw


def _file_io(log: DiskLog, original: Any, raw: Any) -> Any:
    """For code that asks for an unbuffered file by its class, with a descriptor that came from ``os.open``."""

    def function(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not isinstance(file, int):
            if log.below(file) is not None:
                raise log.escape(f"FileIO {file}")
            return original(file, mode, *args, **kwargs)
        return (original if log.inode_of(file) is None else raw)(file, mode, *args, **kwargs)

    return function


def _open(log: DiskLog, original: Any, raw_file: Any) -> Any:

    def function(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        is_ours = log.inode_of(file) is not None if isinstance(file, int) else log.below(file) is not None
        if not is_ours:
            return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
        binary = mode.replace("b", "").replace("t", "")
        if isinstance(file, int) or opener is not None:
            with log.known():  # an opener comes through os.open
                raw = raw_file(file, binary, closefd, opener)
        else:
            name = log.below(file) or ""
            with log.call("open for writing" if set(binary) & set("wax+") else "open", name):
                known = log.find(name)
                raw = raw_file(file, binary)
                log.opened(name, raw.fileno(), known, cut="w" in binary)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        kind = io.BufferedRandom if "+" in binary else io.BufferedReader if "r" in binary else io.BufferedWriter
        buffered = kind(raw, size)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    return function


def _connect(log: DiskLog, original: Any) -> Any:

    def function(database: Any, *args: Any, **kwargs: Any) -> Any:
        text = os.fsdecode(database)
        if text.startswith("file:"):
            text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
        name = None if text == ":memory:" else log.below(text)
        if name is None:
            return original(database, *args, **kwargs)
        with log.call("open a database", name):
            connection = original(database, *args, **{**kwargs, "factory": WatchedConnection})
            number = log.find(name)
            if number is None:
                raise log.escape(f"{name}: made by SQLite")
            log.databases.setdefault(number, b"")
            connection.watch(log, number)
            return connection

    return function


class WatchedConnection(sqlite3.Connection):
    """A database connection that tells the log of every commit."""

    _log: DiskLog
    _number: int

    def watch(self, log: DiskLog, number: int) -> None:
        self._log, self._number = log, number

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        word, _, rest = sql.strip().partition(" ")
        word, was_open = word.upper(), self.in_transaction
        is_change = word in _SQL_CHANGES or (word == "PRAGMA" and "=" in rest and rest.split("=")[0].strip() in _PRAGMA_CHANGES)
        if word not in {"COMMIT", "END"} and (was_open or not is_change):
            return super().execute(sql, parameters)
        with self._log.call("commit", self._log.name_of(self._number)):
            cursor = super().execute(sql, parameters)
            if not self.in_transaction:
                self._log.committed(self, self._number)
            return cursor

    def commit(self) -> None:
        was_open = self.in_transaction
        super().commit()
        if was_open:
            self._log.committed(self, self._number)

    def executemany(self, *_: Any) -> Any:
        raise self._log.escape("executemany")

    def executescript(self, *_: Any) -> Any:
        raise self._log.escape("executescript")

    def cursor(self, *_: Any) -> Any:
        raise self._log.escape("cursor")
