"""The log of one folder, and the folder as the log knows it: which file a path or a descriptor is, and what is in it.

``recorder_calls.py`` writes it, ``recorder.py`` begins and ends it. At the end the log must lead to the disk that is there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.disk import ROOT, Commit, Event, Inode, Inodes, Kind, Name, Resize, Write, apply, whole

Fault = Callable[[str, str], Exception | None]
"""Called before each call with its kind and path; what it returns is raised in the call's place."""

SIDES = ("-wal", "-shm")  # SQLite's files beside a database


class EscapedError(AssertionError):
    """Something changed the folder in a way that the log does not know."""


class DiskLog:
    """What happened below one folder. Attributes: ``base``, the disk at the beginning; ``events``; ``calls``, kind and path.

    Args:
        folder: what is watched; must exist.
        outside: what the world beyond the disk has seen, as a number that grows.
        fault: decides which call fails.
    """

    def __init__(self, folder: Path, *, outside: Callable[[], int] = lambda: 0, fault: Fault | None = None) -> None:
        self.folder = folder.resolve()
        self.events: list[Event] = []
        self.calls: list[tuple[str, str]] = []
        self.outside = outside
        self.now: Inodes = {}
        self.databases: dict[int, bytes] = {}
        self.escaped: list[str] = []
        self.inside = threading.local()
        self._fault = fault
        self._handles: dict[int, tuple[int, int, int]] = {}  # descriptor: device, inode number, our number
        self._lock = threading.RLock()
        self._number = ROOT
        self._scan(self.folder, ROOT)
        self.base: Inodes = {number: Inode(i.kind, i.mode, i.data, dict(i.names)) for number, i in self.now.items()}

    # Which file it is.

    def _scan(self, path: Path, number: int) -> None:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            self.now[number] = Inode(Kind.LINK, 0o777, os.fsencode(path.readlink()))
        elif stat.S_ISREG(mode):
            self.now[number] = Inode(Kind.FILE, stat.S_IMODE(mode), path.read_bytes())
        elif stat.S_ISDIR(mode):
            self.now[number] = folder = Inode(Kind.FOLDER, stat.S_IMODE(mode))
            for entry in sorted(path.iterdir()):
                self._number += 1
                folder.names[entry.name] = self._number
                self._scan(entry, self._number)
        else:
            raise EscapedError(f"cannot record {path}")

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path within the folder, with the links in its folders followed; None if it is elsewhere."""
        text = os.fsdecode(f"/proc/self/fd/{path}" if isinstance(path, int) else path)
        base = Path.cwd() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        full = os.path.normpath(base / text)
        parent, _, name = full.rpartition("/")  # not Path.resolve: a link in the last place is what the call is about
        text = str(Path(full).readlink()) if isinstance(path, int) else str(Path(parent or "/").resolve() / name)
        if text == str(self.folder):
            return ""
        return text[len(str(self.folder)) + 1 :] if text.startswith(f"{self.folder}/") else None

    def find(self, path: str) -> int | None:
        number: int | None = ROOT
        for part in path.split("/") if path else ():
            number = None if number is None else self.now[number].names.get(part)
        return number

    def parent(self, path: str) -> tuple[int, str]:
        head, _, tail = path.rpartition("/")
        number = self.find(head)
        if number is None:
            raise EscapedError(f"{path}: made in a folder that the log does not know")
        return number, tail

    def inode_of(self, descriptor: int) -> int | None:
        """Our number for an open descriptor below the folder."""
        handle = self._handles.get(descriptor)
        if handle is not None:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) == handle[:2]:
                return handle[2]
        try:
            path = self.below(descriptor)
        except OSError:
            return None
        if path is None:
            return None
        number = self.find(path)
        if number is None:
            raise EscapedError(f"{path}: a file that the log does not know")
        return number

    def hold(self, descriptor: int, number: int) -> None:
        found = os.fstat(descriptor)
        self._handles[descriptor] = (found.st_dev, found.st_ino, number)

    def log(self, event: Event) -> None:
        match event:
            case Name():
                if event.made is not None:
                    self.now[event.changes[-1][2] or 0] = Inode(event.made.kind, event.made.mode, event.made.data)
                apply({changed: self.now[changed].names for changed, _, _ in event.changes}, event)
            case Write():
                inode = self.now[event.inode]
                data = inode.data.ljust(event.offset, b"\0")
                data = data[: event.offset] + event.data + data[event.offset + len(event.data) :]
                self.now[event.inode] = Inode(inode.kind, inode.mode, data, inode.names)
        self.events.append(event)

    @contextlib.contextmanager
    def call(self, kind: str, path: str) -> Iterator[None]:
        """One call at a time, so that the log's order is the disk's; its own audit events are not an escape."""
        with self._lock:
            self.calls.append((kind, path))
            fault = self._fault(kind, path) if self._fault else None
            if fault is not None:
                raise fault
            with self.known():
                yield

    @contextlib.contextmanager
    def known(self) -> Iterator[None]:
        """What Python does in here is in the log, or will be."""
        before = getattr(self.inside, "depth", 0)
        self.inside.depth = before + 1
        try:
            yield
        finally:
            self.inside.depth = before

    def escape(self, what: str) -> EscapedError:
        self.escaped.append(what)
        return EscapedError(what)

    def opened(self, name: str, descriptor: int, known: int | None, *, cut: bool) -> None:
        if known is not None and self.now[known].kind is Kind.LINK:  # followed: the file is another, and known by its own name
            target = self.below(descriptor)
            known = self.find(target) if target is not None else None
            if known is None:
                raise self.escape(f"{name}: a link out of what is recorded")
        if known is None:
            known = self.make(name, Inode(Kind.FILE, stat.S_IMODE(os.fstat(descriptor).st_mode)), f"create {name}")
        elif cut and self.now[known].kind is Kind.FILE:
            self.resize(known, 0, name)
        self.hold(descriptor, known)

    def make(self, name: str, inode: Inode, what: str) -> int:
        self._number += 1
        folder, tail = self.parent(name)
        self.log(Name(what, ((folder, tail, self._number),), inode, outside=self.outside()))
        return self._number

    def resize(self, number: int, size: int, name: str) -> None:
        inode = self.now[number]
        self.now[number] = Inode(inode.kind, inode.mode, inode.data[:size].ljust(size, b"\0"), inode.names)
        self.events.append(Resize(f"resize {name} to {size}", number, size, outside=self.outside()))

    def written(self, number: int, offset: int, data: bytes) -> None:
        name = self.name_of(number)
        self.log(Write(f"write {len(data)} bytes at {offset} of {name}", number, offset, data, outside=self.outside()))

    def name_of(self, number: int) -> str:
        def walk(folder: int, prefix: str) -> Iterator[str]:
            for name, each in self.now[folder].names.items():
                if each == number:
                    yield prefix + name
                if self.now[each].kind is Kind.FOLDER:
                    yield from walk(each, f"{prefix}{name}/")

        return "." if number == ROOT else next(walk(ROOT, ""), "(no name)")

    def sides(self, path: str) -> list[str]:
        return [path + side for side in SIDES if (self.folder / (path + side)).exists()]

    def committed(self, connection: sqlite3.Connection, number: int) -> None:
        """Logs what the database holds now, if that is anything else than before."""
        data = connection.serialize()
        if data == self.databases[number]:
            return
        self.databases[number] = data
        name = self.name_of(number)
        folder, tail = self.parent(name)
        side = tuple((folder, tail + each) for each in SIDES)
        for _, each in side:
            self.now[folder].names.pop(each, None)
        inode = self.now[number]
        self.now[number] = Inode(inode.kind, inode.mode, data)
        self.events.append(Commit(f"commit {name}", number, data, side, outside=self.outside()))

    def kind_of(self, number: int) -> Kind:
        """What an inode of the log is."""
        return self.now[number].kind

    # Nothing escaped.

    def check(self) -> None:
        """The log, played to its end, gives the disk that is there.

        Raises:
            EscapedError: it does not; the first difference.
        """
        expected = whole(self.base, self.events)
        found = dict(_walk(self.folder, self.folder))
        databases = {self.name_of(number): data for number, data in self.databases.items()}
        for name in {name + side for name in databases for side in SIDES}:
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
