"""Ways in which a file on a device's disk gets damaged, and what is damaged: a table of each, played in every combination."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from device_client.install.folder import DeviceFolder

Damage = Callable[[Path, random.Random], None]


def emptied(path: Path, _: random.Random) -> None:
    """Nothing in it."""
    _write(path, b"")


def cut_short(path: Path, rng: random.Random) -> None:
    """Its end is missing."""
    data = path.read_bytes()
    _write(path, data[: rng.randrange(len(data)) if data else 0])


def flipped(path: Path, rng: random.Random) -> None:
    """One bit is another."""
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    _write(path, bytes(data))


def garbage(path: Path, rng: random.Random) -> None:
    """Random bytes of the same length."""
    _write(path, rng.randbytes(max(1, path.stat().st_size)))


def zeroed(path: Path, _: random.Random) -> None:
    """Zeros of the same length, as some file systems leave after a power cut."""
    _write(path, bytes(path.stat().st_size))


def missing(path: Path, _: random.Random) -> None:
    """Not there."""
    path.unlink()


def a_folder(path: Path, _: random.Random) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Damage, ...] = (emptied, cut_short, flipped, garbage, zeroed, missing, a_folder)


def victims(folder: DeviceFolder) -> Iterator[tuple[str, Path]]:
    """The files that may be damaged, by kind: what one person gave (root, configuration, key) is not among them."""
    yield "state.db", folder.state
    yield "marks.json", folder.marks
    for path in sorted(folder.metadata.rglob("*")):
        if path.is_file() or path.is_symlink():
            yield "metadata cache", path
    for path in sorted(folder.blobs.rglob("*")):
        if path.is_file():
            yield "blob", path


def _write(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode & 0o777
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)
