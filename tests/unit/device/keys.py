"""A store key for tests that are not about keys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FixedKey:
    """The same key for every store that is made with it."""

    key: bytes = b"k" * 32
    protection: str = "a key in a test"

    def load(self) -> bytes:
        return self.key

    def load_or_create(self) -> bytes:
        return self.key
