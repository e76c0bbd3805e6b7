"""What a fuzz target is, and what counts as a finding.

``fuzz_one`` is pure: it takes any bytes and returns, or raises. A refusal (``VerificationError``) is the parser doing its work;
any other exception is a finding, and so is a broken promise about what was accepted (``Finding``). Hangs and memory are judged
by whoever calls: ``run.py`` by libFuzzer's limits, ``test_corpus.py`` by its own.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import VerificationError

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
NAMES = ("manifest", "contract", "custom", "channel", "walker", "offline", "attestation", "role", "codebook")


class Finding(Exception):  # noqa: N818 - it is the word for it
    """Something accepted that breaks a promise."""


class Target(Protocol):
    """A module of ``tests/fuzz/targets``."""

    MAX_BYTES: int  # longer inputs are not made
    WORDS: tuple[bytes, ...]  # libFuzzer's dictionary

    def fuzz_one(self, data: bytes) -> None:
        """Raises on a finding only."""

    def seeds(self) -> Iterator[bytes]:
        """Inputs to begin with, good and bad."""

    def mutate(self, data: bytes, rng: random.Random) -> bytes:
        """A change that keeps enough of the structure to get past the parser."""


@dataclass(frozen=True)
class Accepted:
    """The outcome of a parser; ``value`` is None where it refused."""

    value: object | None


def load(name: str) -> Target:
    """The target's module."""
    if name not in NAMES:
        raise SystemExit(f"error: no fuzz target {name!r}\nhint: one of {', '.join(NAMES)}")
    return cast(Target, importlib.import_module(f"tests.fuzz.targets.{name}"))


def kept(name: str) -> list[Path]:
    """The files of the kept corpus."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def accepted(parse: Callable[[], T]) -> T | None:
    """What ``parse`` returns, or None if it refuses as it may."""
    try:
        return parse()
    except VerificationError as error:
        _check_refusal(error)
        return None


def promise(kept_: bool, what: str) -> None:
    """Raises ``Finding`` unless ``kept_``; not an assert, so that ``python -O`` fuzzes too."""
    if not kept_:
        raise Finding(what)


def check_strict(data: bytes, *, max_bytes: int) -> object | None:
    """Strict JSON is a subset of what the lenient parser takes, with the same value, and has one canonical form."""
    value = accepted(lambda: parse_strict(data, max_bytes=max_bytes, where="fuzz"))
    if value is None:
        return None
    promise(json.loads(data) == value, "two JSON readers disagree")
    again = canonical_json(value)
    promise(canonical_json(parse_strict(again, max_bytes=len(again), where="fuzz")) == again, "the canonical form is not stable")
    return value


def _check_refusal(error: VerificationError) -> None:
    """An error is read by people and put into reports: it has a code, stays short, and is printable UTF-8."""
    text = str(error)
    promise(bool(error.code), "a refusal without a code")
    promise(len(text) < 4000, "a refusal of unbounded length")
    promise(text.isprintable(), "a refusal that would write control characters to a terminal")
