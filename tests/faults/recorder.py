"""Records every call of this process that changes the disk below one folder, in order; or makes one of them fail.

Python's own functions are replaced for the length of a ``with`` block, and an audit hook watches those that are not: a change
below the folder that came by another way ends the block with ``EscapedError``, and so does a log that does not lead to the disk
that is there. SQLite's own calls cannot be seen from here: a commit is one event with the content after it.

    with Recorder(folder) as recorder:
        ...
    cuts(recorder.base, recorder.events, end=0)
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sqlite3
import stat
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.faults.disk import ROOT, Commit, Event, Inode, Inodes, Kind, Mode, Name, Resize, Sync, Write, apply, whole

Fault = Callable[[str, str], Exception | None]
"""Called before each call with its kind and path; what it returns is raised in the call's place."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SIDES = ("-wal", "-shm")
_SQL_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "VACUUM")
_PRAGMA_CHANGES = ("journal_mode", "application_id", "user_version", "auto_vacuum", "wal_checkpoint")
_FORBIDDEN = ("pwritev", "writev", "sendfile", "copy_file_range", "splice", "mknod", "mkfifo")
# Audit events whose first argument (or second, too) is a path that the call changes.
_AUDITED = {
    "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1, "os.chmod": 1,
    "os.chown": 1, "os.utime": 1, "os.setxattr": 1, "os.removexattr": 1, "sqlite3.connect": 1,
}  # fmt: skip
_active: list[Recorder] = []
_hooked: list[bool] = []


class EscapedError(AssertionError):
    """Something changed the folder in a way that the recorder does not know."""


class Recorder:
    """The log of one folder. Attributes: ``base``, the disk at the beginning; ``events``, what happened; ``calls``, how many.

    Args:
        folder: what is watched; must exist.
        outside: what the world beyond the disk has seen, as a number that grows.
        fault: decides which call fails.
    """

    def __init__(self, folder: Path, *, outside: Callable[[], int] = lambda: 0, fault: Fault | None = None) -> None:
        self.folder = folder.resolve()
        self.events: list[Event] = []
        self.calls: list[tuple[str, str]] = []
        self._outside = outside
        self._fault = fault
        self._now: Inodes = {}
        self._handles: dict[int, tuple[int, int, int]] = {}  # descriptor: device, inode number, our number
        self._databases: dict[int, bytes] = {}
        self._escaped: list[str] = []
        self._lock = threading.RLock()
        self._inside = threading.local()
        self._number = ROOT
        self._stack = contextlib.ExitStack()
        self._scan(self.folder, ROOT)
        self.base: Inodes = {number: Inode(i.kind, i.mode, i.data, dict(i.names)) for number, i in self._now.items()}

    def __enter__(self) -> Recorder:
        if not _hooked:
            _hooked.append(True)
            sys.addaudithook(_audit)
        if _active:
            raise RuntimeError("one recorder at a time")
        _active.append(self)
        for owner, name, function in self._replacements():
            original = getattr(owner, name)
            setattr(owner, name, function)
            self._stack.callback(setattr, owner, name, original)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        _active.remove(self)
        if self._escaped and not isinstance(error, EscapedError):
            raise EscapedError("; ".join(self._escaped))
        if kind is None and self._fault is None:
            self._check()

    # The folder as the log knows it.

    def _scan(self, path: Path, number: int) -> None:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            self._now[number] = Inode(Kind.LINK, 0o777, os.fsencode(path.readlink()))
        elif stat.S_ISREG(mode):
            self._now[number] = Inode(Kind.FILE, stat.S_IMODE(mode), path.read_bytes())
        elif stat.S_ISDIR(mode):
            self._now[number] = folder = Inode(Kind.FOLDER, stat.S_IMODE(mode))
            for entry in sorted(path.iterdir()):
                self._number += 1
                folder.names[entry.name] = self._number
                self._scan(entry, self._number)
        else:
            raise EscapedError(f"cannot record {path}")

    def _below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path within the folder, with the links in its folders followed; None if it is elsewhere."""
        text = os.fsdecode(f"/proc/self/fd/{path}" if isinstance(path, int) else path)
        base = Path.cwd() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        full = os.path.normpath(base / text)
        parent, _, name = full.rpartition("/")  # not Path.resolve: a link in the last place is what the call is about
        text = str(Path(full).readlink()) if isinstance(path, int) else str(Path(parent or "/").resolve() / name)
        if text == str(self.folder):
            return ""
        return text[len(str(self.folder)) + 1 :] if text.startswith(f"{self.folder}/") else None

    def _find(self, path: str) -> int | None:
        number: int | None = ROOT
        for part in path.split("/") if path else ():
            number = None if number is None else self._now[number].names.get(part)
        return number

    def _parent(self, path: str) -> tuple[int, str]:
        head, _, tail = path.rpartition("/")
        number = self._find(head)
        if number is None:
            raise EscapedError(f"{path}: made in a folder that the log does not know")
        return number, tail

    def _inode_of(self, descriptor: int) -> int | None:
        """Our number for an open descriptor below the folder."""
        handle = self._handles.get(descriptor)
        if handle is not None:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) == handle[:2]:
                return handle[2]
        try:
            path = self._below(descriptor)
        except OSError:
            return None
        if path is None:
            return None
        number = self._find(path)
        if number is None:
            raise EscapedError(f"{path}: a file that the log does not know")
        return number

    def _hold(self, descriptor: int, number: int) -> None:
        found = os.fstat(descriptor)
        self._handles[descriptor] = (found.st_dev, found.st_ino, number)

    def _log(self, event: Event) -> None:
        match event:
            case Name():
                if event.made is not None:
                    self._now[event.changes[-1][2] or 0] = Inode(event.made.kind, event.made.mode, event.made.data)
                apply(self._now, event)
            case Write():
                inode = self._now[event.inode]
                data = inode.data.ljust(event.offset, b"\0")
                data = data[: event.offset] + event.data + data[event.offset + len(event.data) :]
                self._now[event.inode] = Inode(inode.kind, inode.mode, data, inode.names)
        self.events.append(event)

    @contextlib.contextmanager
    def _call(self, kind: str, path: str) -> Iterator[None]:
        """One call at a time, so that the log's order is the disk's; its own audit events are not an escape."""
        with self._lock:
            self.calls.append((kind, path))
            fault = self._fault(kind, path) if self._fault else None
            if fault is not None:
                raise fault
            with self._known():
                yield

    @contextlib.contextmanager
    def _known(self) -> Iterator[None]:
        """What Python does in here is in the log, or will be."""
        before = getattr(self._inside, "depth", 0)
        self._inside.depth = before + 1
        try:
            yield
        finally:
            self._inside.depth = before

    # What takes the place of Python's functions.

    def _replacements(self) -> Iterator[tuple[Any, str, Any]]:
        yield os, "open", self._os_open(os.open)
        yield os, "write", self._os_write(os.write)
        yield os, "pwrite", self._os_pwrite(os.pwrite)
        yield os, "read", self._os_read(os.read)
        yield os, "fsync", self._os_sync(os.fsync)
        yield os, "fdatasync", self._os_sync(os.fdatasync)
        yield os, "rename", self._os_rename(os.rename)
        yield os, "replace", self._os_rename(os.replace)
        yield os, "link", self._os_link(os.link)
        yield os, "symlink", self._os_symlink(os.symlink)
        yield os, "unlink", self._os_unlink(os.unlink, "unlink")
        yield os, "remove", self._os_unlink(os.remove, "unlink")
        yield os, "rmdir", self._os_unlink(os.rmdir, "rmdir")
        yield os, "mkdir", self._os_mkdir(os.mkdir)
        yield os, "chmod", self._os_chmod(os.chmod)
        yield os, "fchmod", self._os_chmod(os.fchmod)
        yield os, "truncate", self._os_truncate(os.truncate)
        yield os, "ftruncate", self._os_truncate(os.ftruncate)
        yield os, "posix_fallocate", self._os_allocate(os.posix_fallocate)
        opened = self._open(io.open)
        yield io, "open", opened
        yield builtins, "open", opened
        yield sqlite3, "connect", self._connect(sqlite3.connect)
        for name in _FORBIDDEN:
            yield os, name, self._forbidden(name, getattr(os, name))

    def _forbidden(self, name: str, original: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            for each in args[:2]:
                if isinstance(each, (int, str, Path)) and not isinstance(each, bool):
                    with contextlib.suppress(OSError):
                        if self._below(each) is not None:
                            raise self._escape(f"os.{name} {each}")
            return original(*args, **kwargs)

        return function

    def _escape(self, what: str) -> EscapedError:
        self._escaped.append(what)
        return EscapedError(what)

    def _os_open(self, original: Any) -> Any:
        def function(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            name = self._below(path, dir_fd)
            if name is None:
                return int(original(path, flags, mode, dir_fd=dir_fd))
            with self._call("open for writing" if flags & _WRITING else "open", name):
                known = self._find(name)
                descriptor = int(original(path, flags, mode, dir_fd=dir_fd))
                self._opened(name, descriptor, known, cut=bool(flags & os.O_TRUNC))
                return descriptor

        return function

    def _opened(self, name: str, descriptor: int, known: int | None, *, cut: bool) -> None:
        if known is not None and self._now[known].kind is Kind.LINK:  # followed: the file is another, and known by its own name
            target = self._below(descriptor)
            known = self._find(target) if target is not None else None
            if known is None:
                raise self._escape(f"{name}: a link out of what is recorded")
        if known is None:
            known = self._make(name, Inode(Kind.FILE, stat.S_IMODE(os.fstat(descriptor).st_mode)), f"create {name}")
        elif cut and self._now[known].kind is Kind.FILE:
            self._resize(known, 0, name)
        self._hold(descriptor, known)

    def _make(self, name: str, inode: Inode, what: str) -> int:
        self._number += 1
        folder, tail = self._parent(name)
        self._log(Name(what, ((folder, tail, self._number),), inode, outside=self._outside()))
        return self._number

    def _resize(self, number: int, size: int, name: str) -> None:
        inode = self._now[number]
        self._now[number] = Inode(inode.kind, inode.mode, inode.data[:size].ljust(size, b"\0"), inode.names)
        self.events.append(Resize(f"resize {name} to {size}", number, size, outside=self._outside()))

    def _written(self, number: int, offset: int, data: bytes) -> None:
        name = self._name_of(number)
        self._log(Write(f"write {len(data)} bytes at {offset} of {name}", number, offset, data, outside=self._outside()))

    def _name_of(self, number: int) -> str:
        def walk(folder: int, prefix: str) -> Iterator[str]:
            for name, each in self._now[folder].names.items():
                if each == number:
                    yield prefix + name
                if self._now[each].kind is Kind.FOLDER:
                    yield from walk(each, f"{prefix}{name}/")

        return "." if number == ROOT else next(walk(ROOT, ""), "(no name)")

    def _os_write(self, original: Any) -> Any:
        def function(descriptor: int, data: Any) -> int:
            number = self._inode_of(descriptor)
            if number is None:
                return int(original(descriptor, data))
            with self._call("write", self._name_of(number)):
                size = int(original(descriptor, data))
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                self._written(number, end - size, bytes(data)[:size])
                return size

        return function

    def _os_pwrite(self, original: Any) -> Any:
        def function(descriptor: int, data: Any, offset: int) -> int:
            number = self._inode_of(descriptor)
            if number is None:
                return int(original(descriptor, data, offset))
            with self._call("write", self._name_of(number)):
                size = int(original(descriptor, data, offset))
                self._written(number, offset, bytes(data)[:size])
                return size

        return function

    def _os_read(self, original: Any) -> Any:
        def function(descriptor: int, size: int) -> bytes:
            number = self._inode_of(descriptor)
            if number is None:
                return bytes(original(descriptor, size))
            with self._call("read", self._name_of(number)):
                return bytes(original(descriptor, size))

        return function

    def _os_sync(self, original: Any) -> Any:
        def function(handle: Any) -> None:
            descriptor = handle if isinstance(handle, int) else handle.fileno()
            number = self._inode_of(descriptor)
            if number is None:
                original(descriptor)
                return
            name = self._name_of(number)
            with self._call("fsync", name):
                original(descriptor)
                self._log(Sync(f"fsync {name}", number, outside=self._outside()))

        return function

    def _os_rename(self, original: Any) -> Any:
        def function(old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            source, target = self._below(old, src_dir_fd), self._below(new, dst_dir_fd)
            if source is None and target is None:
                original(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                return
            if source is None or target is None:
                raise self._escape(f"rename {old} to {new}: out of, or into, what is recorded")
            with self._call("rename", source):
                original(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                number = self._find(source)
                if number in self._databases and self._sides(source):
                    raise self._escape(f"{source}: a database that is renamed without its log")
                changes = ((*self._parent(source), None), (*self._parent(target), number))
                self._log(Name(f"rename {source} to {target}", changes, outside=self._outside()))

        return function

    def _os_link(self, original: Any) -> Any:
        def function(old: Any, new: Any, **kwargs: Any) -> None:
            source, target = self._below(old), self._below(new)
            if target is None:
                original(old, new, **kwargs)
                return
            with self._call("link", target):
                original(old, new, **kwargs)
                number = None if source is None else self._find(source)
                if number is None:
                    raise self._escape(f"link {old} to {new}: from outside what is recorded")
                self._log(Name(f"link {source} as {target}", ((*self._parent(target), number),), outside=self._outside()))

        return function

    def _os_symlink(self, original: Any) -> Any:
        def function(target: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            name = self._below(path)
            if name is None:
                original(target, path, *args, **kwargs)
                return
            with self._call("symlink", name):
                original(target, path, *args, **kwargs)
                self._make(name, Inode(Kind.LINK, 0o777, os.fsencode(target)), f"symlink {name}")

        return function

    def _os_unlink(self, original: Any, kind: str) -> Any:
        def function(path: Any, *, dir_fd: int | None = None) -> None:
            name = self._below(path, dir_fd)
            if name is None:
                original(path, dir_fd=dir_fd)
                return
            with self._call(kind, name):
                original(path, dir_fd=dir_fd)
                self._log(Name(f"{kind} {name}", ((*self._parent(name), None),), outside=self._outside()))

        return function

    def _os_mkdir(self, original: Any) -> Any:
        def function(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            name = self._below(path, dir_fd)
            if name is None:
                original(path, mode, dir_fd=dir_fd)
                return
            with self._call("mkdir", name):
                original(path, mode, dir_fd=dir_fd)
                found = stat.S_IMODE((self.folder / name).stat().st_mode)
                self._make(name, Inode(Kind.FOLDER, found), f"mkdir {name}")

        return function

    def _os_chmod(self, original: Any) -> Any:
        def function(path: Any, mode: int, **kwargs: Any) -> None:
            name = self._below(path, kwargs.get("dir_fd"))
            number = self._inode_of(path) if isinstance(path, int) else None if name is None else self._find(name)
            if name is None or number is None:
                original(path, mode, **kwargs)
                return
            with self._call("chmod", name):
                original(path, mode, **kwargs)
                inode = self._now[number]
                self._now[number] = Inode(inode.kind, stat.S_IMODE(mode), inode.data, inode.names)
                self.events.append(Mode(f"chmod {name} {mode:o}", number, stat.S_IMODE(mode), outside=self._outside()))

        return function

    def _os_truncate(self, original: Any) -> Any:
        def function(path: Any, length: int) -> None:
            number = self._inode_of(path) if isinstance(path, int) else self._find(self._below(path) or "?")
            if number is None:
                original(path, length)
                return
            name = self._name_of(number)
            with self._call("truncate", name):
                original(path, length)
                self._resize(number, length, name)

        return function

    def _os_allocate(self, original: Any) -> Any:
        def function(descriptor: int, offset: int, length: int) -> None:
            number = self._inode_of(descriptor)
            if number is None:
                original(descriptor, offset, length)
                return
            name = self._name_of(number)
            with self._call("allocate", name):
                original(descriptor, offset, length)
                if offset + length > len(self._now[number].data):
                    self._resize(number, offset + length, name)

        return function

    def _open(self, original: Any) -> Any:
        recorder = self

        class Raw(io.FileIO):
            """An unbuffered file below the folder: every call of it is a call of the log."""

            def write(self, data: Any, /) -> int:
                number = self._number()
                with recorder._call("write", recorder._name_of(number)):
                    data = bytes(data)
                    size = super().write(data)
                    recorder._written(number, self.tell() - size, data[:size])
                    return size

            def truncate(self, size: int | None = None, /) -> int:
                number = self._number()
                name = recorder._name_of(number)
                with recorder._call("truncate", name):
                    found = super().truncate(size)
                    recorder._resize(number, found, name)
                    return found

            def readinto(self, buffer: Any, /) -> int:
                with recorder._call("read", recorder._name_of(self._number())):
                    return int(super().readinto(buffer) or 0)

            def readall(self) -> bytes:
                with recorder._call("read", recorder._name_of(self._number())):
                    return super().readall()

            def _number(self) -> int:
                found = recorder._inode_of(self.fileno())
                if found is None:
                    raise recorder._escape("a file that was opened below the folder and is not there")
                return found

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
            is_ours = recorder._inode_of(file) is not None if isinstance(file, int) else recorder._below(file) is not None
            if not is_ours:
                return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
            binary = mode.replace("b", "").replace("t", "")
            if isinstance(file, int) or opener is not None:
                with recorder._known():  # an opener comes through os.open
                    raw = Raw(file, binary, closefd, opener)
            else:
                name = recorder._below(file) or ""
                with recorder._call("open for writing" if set(binary) & set("wax+") else "open", name):
                    known = recorder._find(name)
                    raw = Raw(file, binary)
                    recorder._opened(name, raw.fileno(), known, cut="w" in binary)
            if buffering == 0:
                return raw
            size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
            kind = io.BufferedRandom if "+" in binary else io.BufferedReader if "r" in binary else io.BufferedWriter
            buffered = kind(raw, size)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        return function

    # The database.

    def _connect(self, original: Any) -> Any:
        recorder = self

        def function(database: Any, *args: Any, **kwargs: Any) -> Any:
            text = os.fsdecode(database)
            if text.startswith("file:"):
                text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
            name = None if text == ":memory:" else recorder._below(text)
            if name is None:
                return original(database, *args, **kwargs)
            with recorder._call("open a database", name):
                connection = original(database, *args, **{**kwargs, "factory": _Connection})
                number = recorder._find(name)
                if number is None:
                    raise recorder._escape(f"{name}: made by SQLite")
                recorder._databases.setdefault(number, b"")
                connection.watch(recorder, number)
                return connection

        return function

    def _sides(self, path: str) -> list[str]:
        return [path + side for side in _SIDES if (self.folder / (path + side)).exists()]

    def committed(self, connection: sqlite3.Connection, number: int) -> None:
        """Logs what the database holds now, if that is anything else than before."""
        data = connection.serialize()
        if data == self._databases[number]:
            return
        self._databases[number] = data
        name = self._name_of(number)
        folder, tail = self._parent(name)
        side = tuple((folder, tail + each) for each in _SIDES)
        for _, each in side:
            self._now[folder].names.pop(each, None)
        inode = self._now[number]
        self._now[number] = Inode(inode.kind, inode.mode, data)
        self.events.append(Commit(f"commit {name}", number, data, side, outside=self._outside()))

    def kind_of(self, number: int) -> Kind:
        """What an inode of the log is."""
        return self._now[number].kind

    # Nothing escaped.

    def _check(self) -> None:
        """The log, played to its end, gives the disk that is there.

        Raises:
            EscapedError: it does not; the first difference.
        """
        expected = whole(self.base, self.events)
        found = dict(_walk(self.folder, self.folder))
        databases = {self._name_of(number): data for number, data in self._databases.items()}
        for name in {name + side for name in databases for side in _SIDES}:
            expected.pop(name, None)
            found.pop(name, None)
        for name, data in databases.items():
            if name not in found:
                continue
            kind, mode, here = expected[name]
            if data and here == data:
                expected[name] = (kind, mode, _logical(self.folder / name))
                found[name] = (kind, mode, data)
            elif not data:  # opened, and never committed to: SQLite may have rolled it forward
                expected.pop(name), found.pop(name)
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise EscapedError(f"{name}: the log leads to {_told(expected.get(name))}, the disk has {_told(found.get(name))}")


class _Connection(sqlite3.Connection):
    """A database connection that tells the recorder of every commit."""

    _recorder: Recorder
    _number: int

    def watch(self, recorder: Recorder, number: int) -> None:
        self._recorder, self._number = recorder, number

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        word, _, rest = sql.strip().partition(" ")
        word, was_open = word.upper(), self.in_transaction
        is_change = word in _SQL_CHANGES or (word == "PRAGMA" and "=" in rest and rest.split("=")[0].strip() in _PRAGMA_CHANGES)
        if word not in {"COMMIT", "END"} and (was_open or not is_change):
            return super().execute(sql, parameters)
        with self._recorder._call("commit", self._recorder._name_of(self._number)):
            cursor = super().execute(sql, parameters)
            if not self.in_transaction:
                self._recorder.committed(self, self._number)
            return cursor

    def commit(self) -> None:
        was_open = self.in_transaction
        super().commit()
        if was_open:
            self._recorder.committed(self, self._number)

    def executemany(self, *_: Any) -> Any:
        raise self._recorder._escape("executemany")

    def executescript(self, *_: Any) -> Any:
        raise self._recorder._escape("executescript")

    def cursor(self, *_: Any) -> Any:
        raise self._recorder._escape("cursor")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Sees every call of Python's own functions, also those that nobody replaced."""
    if not _active or (event not in _AUDITED and event != "open"):
        return
    recorder = _active[0]
    if getattr(recorder._inside, "depth", 0):
        return
    if event == "open":
        path, _, flags = args
        paths = [path] if isinstance(flags, int) and flags & _WRITING else []
    else:
        paths = list(args[: _AUDITED[event]])
    if event == "os.symlink":
        paths = paths[1:]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.path.normpath(Path.cwd() / os.fsdecode(path))
            if text == str(recorder.folder) or text.startswith(f"{recorder.folder}/"):
                raise recorder._escape(f"{event} {text}")


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, tuple[Kind, int, bytes]]]:
    for path in sorted(folder.iterdir()):
        name, mode = str(path.relative_to(root)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield name, (Kind.LINK, 0o777, os.fsencode(path.readlink()))
        elif stat.S_ISDIR(mode):
            yield name, (Kind.FOLDER, stat.S_IMODE(mode), b"")
            yield from _walk(path, root)
        else:
            yield name, (Kind.FILE, stat.S_IMODE(mode), path.read_bytes())


def _logical(path: Path) -> bytes:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.serialize()


def _told(entry: tuple[Kind, int, bytes] | None) -> str:
    return "nothing" if entry is None else f"a {entry[0].value}, mode {entry[1]:o}, {len(entry[2])} bytes"
