"""A disk as a power cut sees it: what was synced is there, what was not may be there, in part, or not at all.

Pure: events in, legal trees out. ``recorder.py`` makes the events from a live run; ``power.py`` writes a tree into a folder and
boots from it. The rules, harder than any file system a device uses:
    1. A file's content is what it was at its last fsync. Writes after that are there, missing, torn, or there as zeros.
    2. A name (made, renamed, removed) is certain once its folder was synced. Until then each change of a name counts or not, each
       for itself: a later one may be there without an earlier one. A rename is one change.
    3. A database commit is one event, and certain: ``test_sqlite_syncs.py`` shows that SQLite syncs before it returns from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum

ROOT = 0  # number of the folder that is recorded


class Kind(Enum):
    """What an inode is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


@dataclass(frozen=True)
class Inode:
    """A file with its bytes, a folder with its names, or a link with its target."""

    kind: Kind
    mode: int = 0o600
    data: bytes = b""
    names: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One call that changed the disk. ``outside`` is what the world beyond the disk had seen by then."""

    what: str
    outside: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Name(Event):
    """Changes of names that happen together: (folder, name, inode), where None removes the name; one entry but for a rename."""

    changes: tuple[tuple[int, str, int | None], ...]
    made: Inode | None = None  # the inode begins with this event


@dataclass(frozen=True)
class Write(Event):
    """Bytes at an offset."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize(Event):
    """Cut short, or made longer with zeros."""

    inode: int
    size: int


@dataclass(frozen=True)
class Mode(Event):
    """Other permissions."""

    inode: int
    mode: int


@dataclass(frozen=True)
class Sync(Event):
    """A file or a folder is on the disk."""

    inode: int


@dataclass(frozen=True)
class Commit(Event):
    """A database's content after a commit, whole. Its log is part of it: ``side`` names are gone."""

    inode: int
    data: bytes
    side: tuple[tuple[int, str], ...] = ()


Inodes = dict[int, Inode]


@dataclass(frozen=True)
class Cut:
    """A disk after a power cut behind event ``after`` (counted from 1; 0 is before all).

    Attributes:
        after: how many events had happened.
        how: what became of that which was not synced.
        tree: path to (kind, mode, bytes), without the root.
        outside: what the world beyond the disk had seen.
    """

    after: int
    how: str
    tree: dict[str, tuple[Kind, int, bytes]]
    outside: int

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal disks in an equal world, within one process."""
        files = ((path, kind, mode, len(data), hash(data)) for path, (kind, mode, data) in sorted(self.tree.items()))
        return (self.outside, *files)


_DATA = ("kept", "lost", "torn", "zeros")


def cuts(base: Inodes, events: Sequence[Event], *, end: int) -> Iterator[Cut]:
    """Every distinct disk that a power cut during ``events`` may leave; the same order for the same events.

    Args:
        base: the disk before, all of it synced.
        events: what happened.
        end: what the world had seen when all was over.
    """
    seen: set[tuple[object, ...]] = set()
    for after in range(len(events) + 1):
        now = events[after - 1].outside if after else (events[0].outside if events else end)
        then = events[after].outside if after < len(events) else end
        for outside in sorted({now, then}):
            for how, tree in trees(base, events[:after]):
                cut = Cut(after, how, tree, outside)
                if cut.key not in seen:
                    seen.add(cut.key)
                    yield cut


def whole(base: Inodes, events: Sequence[Event]) -> dict[str, tuple[Kind, int, bytes]]:
    """The disk with everything that happened on it."""
    return _tree(_Past(base, events), names=None, data="kept")


def trees(base: Inodes, events: Sequence[Event]) -> Iterator[tuple[str, dict[str, tuple[Kind, int, bytes]]]]:
    """The disks that a power cut behind the last of ``events`` may leave, with how; some of them equal."""
    past = _Past(base, events)
    pending = past.pending_names
    choices: list[tuple[str, set[int]]] = [("all names", set(pending)), ("no name", set())]
    choices += [(f"without name {each}", set(pending) - {each}) for each in pending[-6:]]
    choices += [(f"names up to {each}", {other for other in pending if other <= each}) for each in pending[-4:-1]]
    choices += [(f"only name {each}", {each}) for each in pending[-3:]]
    distinct = {frozenset(names): told for told, names in reversed(choices)}  # the first way to tell of each counts
    for names, told in reversed(distinct.items()):
        for data in _DATA if past.pending_data else _DATA[:1]:
            yield f"{told}, data {data}", _tree(past, names=names, data=data)


class _Past:
    """What is certain after some events, and what is pending."""

    def __init__(self, base: Inodes, events: Sequence[Event]) -> None:
        self.synced: Inodes = {number: replace(inode, names=dict(inode.names)) for number, inode in base.items()}
        self.events = events
        self.pending_data: dict[int, list[int]] = {}
        self._contents: dict[tuple[int, str], Inode] = {}
        names: list[int] = []
        for index, event in enumerate(events):
            match event:
                case Name():
                    if event.made is not None:
                        self.synced[_target(event)] = replace(event.made, names={})
                    names.append(index)
                case Write() | Resize() | Mode():
                    self.pending_data.setdefault(event.inode, []).append(index)
                case Sync():
                    self.synced[event.inode] = self.content(event.inode, "kept")
                    self.pending_data.pop(event.inode, None)
                    names = self._settle(names, event.inode)
                case Commit():
                    self.synced[event.inode] = replace(self.synced[event.inode], data=event.data)
                    self.pending_data.pop(event.inode, None)
                    for folder, name in event.side:
                        self.synced[folder].names.pop(name, None)
        self.pending_names = names

    def final(self, number: int, how: str) -> Inode:
        """``content`` behind the last event, made once for all disks that share it."""
        if (number, how) not in self._contents:
            self._contents[number, how] = self.content(number, how)
        return self._contents[number, how]

    def content(self, number: int, how: str) -> Inode:
        """An inode with its pending writes ``kept``, ``lost``, the last of all ``torn``, or as ``zeros``."""
        if number not in self.pending_data or how == "lost":
            return self.synced[number]
        last = max(each for all_of in self.pending_data.values() for each in all_of)
        inode = self.synced[number]
        for index in self.pending_data[number]:
            event = self.events[index]
            if isinstance(event, Write):
                data = event.data[: len(event.data) // 2] if how == "torn" and index == last else event.data
                data = bytes(len(data)) if how == "zeros" else data
                before = inode.data.ljust(event.offset, b"\0")
                inode = replace(inode, data=before[: event.offset] + data + before[event.offset + len(data) :])
            elif isinstance(event, Resize):
                inode = replace(inode, data=inode.data[: event.size].ljust(event.size, b"\0"))
            elif isinstance(event, Mode):
                inode = replace(inode, mode=event.mode)
        return inode

    def _settle(self, names: list[int], folder: int) -> list[int]:
        """A synced folder makes its pending names certain; the other half of a rename between folders with them.

        So is what had become of such a name before: a file that was made in one folder and renamed into another, which was
        synced, is not in the first one again.
        """
        settled: set[int] = set()
        certain: set[tuple[int, str]] = set()
        for index in reversed(names):
            event = self.events[index]
            if isinstance(event, Name):
                places = {(changed, name) for changed, name, _ in event.changes}
                if any(changed == folder for changed, _ in places) or places & certain:
                    settled.add(index)
                    certain |= places
        for index in names:
            event = self.events[index]
            if index in settled and isinstance(event, Name):
                apply({changed: self.synced[changed].names for changed, _, _ in event.changes}, event)
        return [index for index in names if index not in settled]


def apply(folders: Mapping[int, dict[str, int]], event: Name) -> None:
    """Changes names in place: ``folders`` has the names in each folder by its number."""
    for folder, name, target in event.changes:
        if target is None:
            folders[folder].pop(name, None)
        else:
            folders[folder][name] = target


def _target(event: Name) -> int:
    return next(target for _, _, target in event.changes if target is not None)


def _tree(past: _Past, *, names: Set[int] | None, data: str) -> dict[str, tuple[Kind, int, bytes]]:
    folders = {number: dict(inode.names) for number, inode in past.synced.items() if inode.kind is Kind.FOLDER}
    for index in past.pending_names:
        event = past.events[index]
        if isinstance(event, Name) and (names is None or index in names):
            apply(folders, event)
    found: dict[str, tuple[Kind, int, bytes]] = {}

    def walk(folder: int, prefix: str) -> None:
        for name, number in sorted(folders[folder].items()):
            inode = past.final(number, data)
            found[prefix + name] = (inode.kind, inode.mode, inode.data)
            if inode.kind is Kind.FOLDER:
                walk(number, f"{prefix}{name}/")

    walk(ROOT, "")
    return found
