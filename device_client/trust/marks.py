"""Marks: the highest verified version of every role, and how late it is at least, remembered outside the TUF cache.

A mark is bound to the keys and threshold that signed it, so that TUF's fast-forward recovery (rotating the keys)
works. Pure: the device stores, twice, what ``advance`` returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from securesystemslib.signer import Key

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.errors import TrustError
from device_client.trust.keys import fingerprint
from device_client.trust.trusted_time import BootTime, TimeFloor, raised


@dataclass(frozen=True, order=True)
class VersionMark:
    """``version`` of ``role``, with the digest of what was signed; ``keyset`` names who signed it (``keyset_digest``)."""

    role: str
    version: int
    sha256: Digest
    keyset: Digest


@dataclass(frozen=True)
class Marks:
    """All marks of one repository: at most one version and one time for each role and key set."""

    versions: tuple[VersionMark, ...] = ()
    times: tuple[TimeFloor, ...] = ()


def keyset_digest(keys: Iterable[Key], *, threshold: int) -> Digest:
    """Names a set of keys with its threshold, by decoded key values."""
    return Digest.of(canonical_json([threshold, sorted(fingerprint(key).hex for key in keys)]))


def advance(remembered: Marks, seen: Iterable[VersionMark]) -> Marks:
    """The marks after a refresh that saw ``seen``.

    Raises:
        TrustError: ``metadata_rollback`` for a version below its mark, ``equivocation`` for the same version with
            other content.

    Its times stay as they were (``trusted_time.raised``).
    """
    known = {(mark.role, mark.keyset): mark for mark in remembered.versions}
    for mark in seen:
        old = known.get((mark.role, mark.keyset))
        if old is not None and mark.version < old.version:
            raise TrustError(
                "an older version than the one remembered",
                code="metadata_rollback",
                where=mark.role,
                expected=f"at least {old.version}",
                actual=mark.version,
                hint="the server or the network shows an old state; the running model stays",
            )
        if old is not None and mark.version == old.version and mark.sha256 != old.sha256:
            raise TrustError(
                "two different files carry one version", code="equivocation", where=f"{mark.role} version {mark.version}"
            )
        known[mark.role, mark.keyset] = mark
    return Marks(tuple(sorted(known.values())), remembered.times)


def merged(one: Marks, other: Marks, *, at: BootTime) -> Marks:
    """Two copies of one memory, of which either may be old: the higher of each mark.

    Where they hold two digests under one version, ``one``'s stays.
    """
    known = {(mark.role, mark.keyset): mark for mark in one.versions}
    for mark in other.versions:
        mine = known.get((mark.role, mark.keyset))
        if mine is None or mark.version > mine.version:
            known[mark.role, mark.keyset] = mark
    return Marks(tuple(sorted(known.values())), raised(one.times, other.times, at=at))
