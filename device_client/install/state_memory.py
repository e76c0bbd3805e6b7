"""The tables of the device's memory: what is never lowered, whatever is lost or shown again.

Every change here goes through ``_remember``, so that ``transaction`` knows that the mirror must be written before the
commit (``mirror.py``). Values that only ever grow are kept so by the statements themselves. Decides nothing;
``policy/memory.py`` does, on what ``memory()`` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.install.database import Database
from device_client.install.mirror import Remembered, encode_mirror, write_mirror
from device_client.install.rows import read_counter, read_digest, read_integer, read_model, read_number, read_time
from device_client.policy.memory import Memory, raised_floor
from device_client.trust.marks import Marks, VersionMark
from device_client.trust.times import format_time
from device_client.trust.trusted_time import BootTime, TimeFloor, raised

_WITH_MODELS = ("names", "counters", "floors", "seqs", "withdrawals")


class MemoryTables:
    """The remembered part of the open database. Changes need ``transaction()``."""

    def __init__(self, database: Database, mirror: Path) -> None:
        self._db = database
        self._mirror = mirror
        self._is_memory_changed = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside the ``with`` block, or none. A change of memory is in the mirror before it is committed here.

        Raises:
            StateError: the disk refuses one of the two; nothing was committed.
        """
        self._is_memory_changed = False
        with self._db.transaction():
            yield
            if self._is_memory_changed:
                write_mirror(self._mirror, encode_mirror(self.remembered()))

    def write_mirror(self) -> None:
        """Writes the mirror with the transaction at hand, whether or not anything changes in it."""
        self._is_memory_changed = True

    def generation(self) -> int:
        """How many times this device's state was made anew."""
        return read_integer(self._db.row("SELECT generation FROM device")[0])

    def marks(self) -> Marks:
        """Version marks and time floors of all roles."""
        versions = self._db.rows("SELECT role, version, sha256, keyset FROM marks ORDER BY role, version, sha256, keyset")
        times = self._db.rows("SELECT role, keyset, time, boot, seconds FROM times")
        return Marks(
            tuple(VersionMark(str(r[0]), read_integer(r[1]), read_digest(r[2]), read_digest(r[3])) for r in versions),
            tuple(sorted(TimeFloor(str(r[0]), read_digest(r[1]), read_time(r[2]), str(r[3]), read_number(r[4])) for r in times)),
        )

    def remember_marks(self, marks: Marks, *, at: BootTime) -> None:
        """Stores marks; none is lowered, none is removed, and no time reads earlier than before.

        Every floor is stored anew with the uptime since then counted in: what is only in the difference of two readings of
        the boot clock would be lost with the boot.
        """
        known = self.marks()
        for mark in set(marks.versions) - set(known.versions):
            self._set_mark(mark)
        carried = [_carried(floor, at) for floor in raised(known.times, marks.times, at=at)]
        for floor in set(carried) - set(known.times):
            self._remember(
                "INSERT OR REPLACE INTO times (role, keyset, time, boot, seconds) VALUES (?, ?, ?, ?, ?)",
                floor.role,
                str(floor.keyset),
                format_time(floor.time),
                floor.boot,
                float(floor.seconds),
            )

    def _set_mark(self, mark: VersionMark) -> None:
        self._remember(
            "INSERT INTO marks (role, keyset, version, sha256) VALUES (?, ?, ?, ?) ON CONFLICT (role, keyset) DO UPDATE"
            " SET version = excluded.version, sha256 = excluded.sha256 WHERE excluded.version >= marks.version",
            mark.role,
            str(mark.keyset),
            mark.version,
            str(mark.sha256),
        )

    def roots(self) -> dict[int, bytes]:
        """Every root that was verified here, by version, oldest first."""
        rows = self._db.rows("SELECT version, data FROM roots ORDER BY version")
        return {read_integer(version): data for version, data in rows if isinstance(data, bytes)}

    def remember_roots(self, roots: Mapping[int, bytes]) -> None:
        """Stores verified roots; one that is known stays as it was."""
        known = self.roots()
        for version in sorted(set(roots) - set(known)):
            self._remember("INSERT INTO roots (version, data) VALUES (?, ?)", version, roots[version])

    def memory(self, model: ModelPath) -> Memory:
        """All that is remembered about a model."""
        name = str(model)
        counter = self._db.rows("SELECT epoch, n, manifest FROM counters WHERE model = ?", name)
        floor = self._db.rows("SELECT epoch, n FROM floors WHERE model = ?", name)
        names = self._db.rows("SELECT version, manifest FROM names WHERE model = ?", name)
        seqs = self._db.rows("SELECT manifest, seq FROM seqs WHERE model = ?", name)
        withdrawn = self._db.rows("SELECT kind, digest, seq FROM withdrawals WHERE model = ?", name)
        return Memory(
            counter=read_counter(counter[0][0], counter[0][1]) if counter else None,
            manifest=read_digest(counter[0][2]) if counter else None,
            versions={str(r[0]): read_digest(r[1]) for r in names},
            floor=read_counter(floor[0][0], floor[0][1]) if floor else None,
            seqs={read_digest(r[0]): read_integer(r[1]) for r in seqs},
            withdrawn={read_digest(r[1]): read_integer(r[2]) for r in withdrawn if r[0] == "manifest"},
            withdrawn_variants={read_digest(r[1]): read_integer(r[2]) for r in withdrawn if r[0] == "variant"},
        )

    def raise_counter(self, model: ModelPath, counter: Counter, manifest: Digest) -> None:
        """Raises the highest committed release counter; never lowers it. ``check_memory`` has refused a second bundle for one."""
        self._remember(
            "INSERT INTO counters (model, epoch, n, manifest) VALUES (?, ?, ?, ?) ON CONFLICT (model) DO UPDATE"
            " SET epoch = excluded.epoch, n = excluded.n, manifest = excluded.manifest"
            " WHERE (excluded.epoch, excluded.n) >= (counters.epoch, counters.n)",
            str(model),
            counter.epoch,
            counter.n,
            str(manifest),
        )

    def remember_name(self, model: ModelPath, version: str, manifest: Digest) -> None:
        """Remembers for ever which bundle carried a version here."""
        self._remember(
            "INSERT OR IGNORE INTO names (model, version, manifest) VALUES (?, ?, ?)", str(model), version, str(manifest)
        )

    def raise_floor(self, model: ModelPath, candidate: Counter) -> None:
        """Raises the floor; never lowers it."""
        before = self.memory(model).floor
        floor = raised_floor(before, candidate)
        if floor != before:
            self._remember("INSERT OR REPLACE INTO floors (model, epoch, n) VALUES (?, ?, ?)", str(model), floor.epoch, floor.n)

    def remember_seq(self, model: ModelPath, manifest: Digest, seq: int) -> None:
        """Raises the highest ``seq`` acted upon; never lowers it."""
        self._remember(
            "INSERT INTO seqs (model, manifest, seq) VALUES (?, ?, ?) ON CONFLICT (model, manifest) DO UPDATE"
            " SET seq = max(seqs.seq, excluded.seq)",
            str(model),
            str(manifest),
            seq,
        )

    def remember_withdrawal(self, model: ModelPath, manifest: Digest, variants: Iterable[Digest], seq: int) -> None:
        """Remembers for ever that a bundle and its runtime bytes were withdrawn under ``seq``."""
        self._remember_withdrawn(model, "manifest", {manifest: seq})
        self._remember_withdrawn(model, "variant", dict.fromkeys(variants, seq))
        self.remember_seq(model, manifest, seq)

    # Both copies of it.

    def remembered(self) -> Remembered:
        """All of the memory."""
        found = {str(row[0]) for table in _WITH_MODELS for row in self._db.rows(f"SELECT model FROM {table}")}  # noqa: S608
        models = {model: self.memory(model) for model in map(read_model, sorted(found))}
        return Remembered(self.generation(), self.roots(), self.marks(), models)

    def restore(self, remembered: Remembered, *, at: BootTime) -> None:
        """Raises what is here to what ``mirror.merged`` found; lowers nothing. Call in a transaction."""
        self._remember("UPDATE device SET generation = max(generation, ?)", remembered.generation)
        for version, data in remembered.roots.items():
            self._remember("INSERT OR REPLACE INTO roots (version, data) VALUES (?, ?)", version, data)
        for mark in remembered.marks.versions:
            self._set_mark(mark)
        self.remember_marks(Marks(times=remembered.marks.times), at=at)
        for model, memory in remembered.models.items():
            self._restore_model(model, memory)

    def _restore_model(self, model: ModelPath, memory: Memory) -> None:
        if memory.counter is not None and memory.manifest is not None:
            self.raise_counter(model, memory.counter, memory.manifest)
        if memory.floor is not None:
            self.raise_floor(model, memory.floor)
        for version, manifest in memory.versions.items():
            statement = "INSERT OR REPLACE INTO names (model, version, manifest) VALUES (?, ?, ?)"
            self._remember(statement, str(model), version, str(manifest))
        for manifest, seq in memory.seqs.items():
            self.remember_seq(model, manifest, seq)
        self._remember_withdrawn(model, "manifest", memory.withdrawn)
        self._remember_withdrawn(model, "variant", memory.withdrawn_variants)

    def _remember_withdrawn(self, model: ModelPath, kind: str, withdrawn: Mapping[Digest, int]) -> None:
        for digest, seq in withdrawn.items():
            self._remember(
                "INSERT INTO withdrawals (model, kind, digest, seq) VALUES (?, ?, ?, ?) ON CONFLICT (model, kind, digest) DO UPDATE"
                " SET seq = max(withdrawals.seq, excluded.seq)",
                str(model),
                kind,
                str(digest),
                seq,
            )

    def _remember(self, statement: str, *values: object) -> None:
        self._db.change(statement, *values)
        self._is_memory_changed = True


def _carried(floor: TimeFloor, at: BootTime) -> TimeFloor:
    """The same statement about ``at``: whole seconds in its time, the fraction in its boot clock, so that nothing is lost."""
    reading = floor.reading(at)
    whole = reading.replace(microsecond=0)
    return TimeFloor(floor.role, floor.keyset, whole, at.boot, at.seconds - (reading - whole).total_seconds())
