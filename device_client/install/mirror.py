"""``marks.json``: the second copy of the device's memory, written before every commit that changes the first.

The first is the database. So long as one of the two survives, nothing that was remembered is lowered: ``recovery.py``
reads both under the lock and brings them together by ``merged``. The file carries its own SHA-256, which finds damage; it
is no signature: somebody who can write both copies can lower both.

``encode_mirror``, ``parse_mirror`` and ``merged`` are pure; ``read_mirror`` and ``write_mirror`` are the file. It holds no secrets.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath, check_name
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, StateError
from device_client.limits import MIB
from device_client.policy.memory import Memory, raised_floor
from device_client.trust.files import write_atomic
from device_client.trust.marks import Marks, VersionMark
from device_client.trust.marks import merged as merged_marks
from device_client.trust.times import format_time, parse_time
from device_client.trust.trusted_time import BootTime, TimeFloor

SCHEMA = 1
MAX_MIRROR_BYTES = 32 * MIB  # read into memory as a whole; some 200 000 withdrawals
MAX_ROOT_CHAIN_BYTES = 4 * MIB  # beyond it the oldest roots are only in the database
_MAX_ENTRIES = 1_000_000  # the file's length is the bound
_WHERE = "marks.json"


@dataclass(frozen=True)
class Remembered:
    """All that must survive: how often the state was made anew, verified roots, marks, and the memory of each model."""

    generation: int = 1
    roots: Mapping[int, bytes] = field(default_factory=dict)
    marks: Marks = Marks()  # noqa: RUF009  # frozen
    models: Mapping[ModelPath, Memory] = field(default_factory=dict)


def encode_mirror(remembered: Remembered) -> bytes:
    """The bytes of the file: the same for the same memory.

    Raises:
        StateError: ``state_full``, more than a reader takes.
    """
    memory = {
        "generation": remembered.generation,
        "roots": _encode_roots(remembered.roots),
        "versions": [[m.role, m.version, str(m.sha256), str(m.keyset)] for m in sorted(remembered.marks.versions)],
        "times": [[t.role, str(t.keyset), format_time(t.time), t.boot, t.seconds] for t in sorted(remembered.marks.times)],
        "models": {str(model): _encode_model(found) for model, found in remembered.models.items()},
    }
    data = canonical_json({"schema": SCHEMA, "sha256": Digest.of(canonical_json(memory)).hex, "memory": memory})
    if len(data) > MAX_MIRROR_BYTES:
        raise StateError(
            "the memory is beyond its bound",
            code="state_full",
            where=_WHERE,
            expected=f"at most {MAX_MIRROR_BYTES} bytes",
            actual=len(data),
            hint="report this: so many withdrawals or key changes are not honest",
        )
    return data


def parse_mirror(data: bytes) -> Remembered:
    """What the file says.

    Raises:
        StateError: ``state_newer``, written by a newer client.
        FormatError, LimitError: damaged: not of the form, or not the bytes that were written.
    """
    fields = Fields(parse_strict(data, max_bytes=MAX_MIRROR_BYTES, where=_WHERE), where=_WHERE)
    if fields.integer("schema", minimum=1) > SCHEMA:
        raise StateError(
            "the memory was written by a newer client",
            code="state_newer",
            where=_WHERE,
            expected=f"schema {SCHEMA}",
            actual=f"schema {fields.integer('schema')}",
            hint="install the newer client again; nothing was changed",
        )
    if fields.text("sha256") != Digest.of(canonical_json(fields.raw("memory"))).hex:
        raise FormatError("the memory is not the one that was written", code="field_value", where=f"{_WHERE}.sha256")
    memory = fields.fields("memory", known=("generation", "roots", "versions", "times", "models"))
    return Remembered(
        generation=memory.integer("generation", minimum=1),
        roots={_version(name): data for name, data in memory.mapping("roots", _parse_root, max_items=_MAX_ENTRIES).items()},
        marks=Marks(
            memory.items("versions", _parse_version_mark, max_items=_MAX_ENTRIES),
            memory.items("times", _parse_time_floor, max_items=_MAX_ENTRIES),
        ),
        models={
            ModelPath.parse(name): found
            for name, found in memory.mapping("models", _parse_model, max_items=_MAX_ENTRIES).items()
        },
    )  # fmt: skip


def merged(one: Remembered, other: Remembered, *, at: BootTime) -> Remembered:
    """The database's copy of the memory (``one``) and the mirror's (``other``), of which either may be old.

    The rules:
        1. The generation is the higher.
        2. Roots: those of both.
        3. Marks: for each role and key set the higher version, and the time that reads later.
        4. Counters: the higher, with its bundle.
        5. Floors and every ``seq``: the higher.
        6. Which bundle carried a version: from both.
        7. Of two values for one version, counter or name: ``other``'s. The mirror finds its own damage, a row does not.
    """
    models = {
        model: _merged_models(one.models.get(model, Memory()), other.models.get(model, Memory()))
        for model in sorted({*one.models, *other.models})
    }
    return Remembered(
        generation=max(one.generation, other.generation),  # 1
        roots=dict(sorted({**one.roots, **other.roots}.items())),  # 2, 7
        marks=merged_marks(other.marks, one.marks, at=at),  # 3, 7
        models=models,
    )


def read_mirror(path: Path) -> bytes | None:
    """The bytes of the file, or None if there is none.

    Raises:
        StateError: ``state_owner``, it is somebody else's or open to others; ``state_unwritable``, the disk does not give it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise StateError(
                    "the memory's copy belongs to somebody else or is open to others",
                    code="state_owner",
                    where=str(path),
                    expected=f"a file of user {os.geteuid()}, mode 0600",
                    actual=f"user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}",
                )
            return file.read(MAX_MIRROR_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StateError("cannot read the memory's copy", code="state_unwritable", where=str(path), actual=e.strerror) from e


def write_mirror(path: Path, data: bytes) -> None:
    """Replaces the file, unless it says that already; on the disk when this returns.

    Raises:
        StateError: ``state_unwritable``; the file is as it was.
    """
    if read_mirror(path) == data:
        return
    try:
        write_atomic(path, data, mode=0o600)
    except OSError as e:
        raise StateError("the memory's copy cannot be written", code="state_unwritable", where=str(path), actual=e.strerror) from e


def _encode_roots(roots: Mapping[int, bytes]) -> dict[str, str]:
    """Newest first, so far as they fit: the newest is where trust starts."""
    kept: dict[str, str] = {}
    left = MAX_ROOT_CHAIN_BYTES
    for version in sorted(roots, reverse=True):
        left -= len(roots[version])
        if left < 0:
            break
        kept[str(version)] = base64.b64encode(roots[version]).decode("ascii")
    return kept


def _encode_model(memory: Memory) -> dict[str, object]:
    return {
        "counter": None if memory.counter is None else memory.counter.to_json(),
        "manifest": None if memory.manifest is None else str(memory.manifest),
        "floor": None if memory.floor is None else memory.floor.to_json(),
        "versions": {version: str(manifest) for version, manifest in memory.versions.items()},
        "seqs": _encode_seqs(memory.seqs),
        "withdrawn": _encode_seqs(memory.withdrawn),
        "withdrawn_variants": _encode_seqs(memory.withdrawn_variants),
    }


def _encode_seqs(seqs: Mapping[Digest, int]) -> dict[str, int]:
    return {str(digest): seq for digest, seq in seqs.items()}


def _parse_model(value: object, where: str) -> Memory:
    known = ("counter", "manifest", "floor", "versions", "seqs", "withdrawn", "withdrawn_variants")
    fields = Fields(value, where=where, known=known)
    manifest = fields.raw("manifest")
    versions = fields.mapping("versions", lambda each, at: Digest.parse(each, where=at), max_items=_MAX_ENTRIES)
    return Memory(
        counter=_parse_counter(fields, "counter"),
        manifest=None if manifest is None else Digest.parse(manifest, where=where),
        versions={check_name(version, what="version", where=where): digest for version, digest in versions.items()},
        floor=_parse_counter(fields, "floor"),
        seqs=_parse_seqs(fields, "seqs"),
        withdrawn=_parse_seqs(fields, "withdrawn"),
        withdrawn_variants=_parse_seqs(fields, "withdrawn_variants"),
    )


def _parse_counter(fields: Fields, key: str) -> Counter | None:
    value = fields.raw(key)
    return None if value is None else Counter.from_json(value, where=f"{fields.where}.{key}")


def _parse_seqs(fields: Fields, key: str) -> dict[Digest, int]:
    inner = fields.fields(key)
    return {Digest.parse(name, where=inner.where): inner.integer(name) for name in inner.keys()}  # noqa: SIM118  # no dict


def _parse_version_mark(value: object, where: str) -> VersionMark:
    role, version, sha256, keyset = _columns(value, (str, int, str, str), where)
    return VersionMark(str(role), int(str(version)), Digest.parse(sha256, where=where), Digest.parse(keyset, where=where))


def _parse_time_floor(value: object, where: str) -> TimeFloor:
    role, keyset, time, boot, seconds = _columns(value, (str, str, str, str, float), where)
    return TimeFloor(str(role), Digest.parse(keyset, where=where), parse_time(time, where), str(boot), float(str(seconds)))


def _columns(value: object, types: tuple[type, ...], where: str) -> list[object]:
    if not isinstance(value, list) or tuple(map(type, value)) != types:
        raise FormatError("wrong type", code="field_type", where=where, expected=", ".join(each.__name__ for each in types))
    return value


def _parse_root(value: object, where: str) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error as e:
        raise FormatError("not base64", code="field_value", where=where) from e


def _version(name: str) -> int:
    if not name.isascii() or not name.isdigit():
        raise FormatError("not a version", code="field_value", where=f"{_WHERE}.memory.roots", actual=repr(name)[:40])
    return int(name)


def _merged_models(one: Memory, other: Memory) -> Memory:
    is_mine = other.counter is None or (one.counter is not None and one.counter > other.counter)
    newest = one if is_mine else other
    floor = one.floor if other.floor is None else raised_floor(one.floor, other.floor)
    return Memory(
        counter=newest.counter,  # 4, 7
        manifest=newest.manifest,
        versions={**one.versions, **other.versions},  # 6, 7
        floor=floor,  # 5
        seqs=_highest(one.seqs, other.seqs),
        withdrawn=_highest(one.withdrawn, other.withdrawn),
        withdrawn_variants=_highest(one.withdrawn_variants, other.withdrawn_variants),
    )


def _highest(one: Mapping[Digest, int], other: Mapping[Digest, int]) -> dict[Digest, int]:
    return {digest: max(one.get(digest, 0), other.get(digest, 0)) for digest in {*one, *other}}
