"""The bodies of ``tests/vectors`` as seeds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.target import ROOT


def bodies(kind: str) -> Iterator[bytes]:
    """Every vector's body, good and bad."""
    for path in sorted((ROOT / "tests/vectors" / kind).glob("*.vec")):
        yield path.read_bytes().partition(b"\n\n")[2]
