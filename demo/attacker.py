"""The attacker of the demo: holds the web root and the online keys, and per attack the keys that it says.

Writes the server's files and the offer in its database directly, with no check of Sealift in the way: it uses
python-tuf and the keys, as a thief would. The same hands write the control of each attack, with the defect removed.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, TargetFile, Targets

from device_client.bundle.path import BundlePath
from device_client.trust.files import write_atomic
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time, utc_now
from packager.repository import next_delegated, to_bytes

_SNAPSHOT_DAYS, _TIMESTAMP_DAYS = 7, 1
Entries = Mapping[str, tuple[BlobRef, dict[str, object] | None]]


@dataclass(frozen=True)
class StolenKeys:
    """Every key of the demo, by role; each attack takes only those that it states."""

    by_role: Mapping[str, Sequence[Signer]]

    def of(self, role: str) -> Sequence[Signer]:
        """The signers of a role."""
        return self.by_role[role]


@dataclass(frozen=True)
class WebRoot:
    """The server's data folder in the hands of somebody who may write there and holds the online keys."""

    data: Path
    online: StolenKeys

    def role_file(self, name: str) -> Path:
        """A file of the web root."""
        return self.data / "tuf" / name

    def blob_file(self, digest_hex: str) -> Path:
        """A blob as the server hands it out."""
        return self.data / "blobs" / "sha256" / digest_hex

    def newest(self, role: str) -> Metadata[Any]:
        """The role as snapshot names it now."""
        if role == "timestamp":
            return self._load("timestamp.json")
        if role == "snapshot":
            return self._load(f"{self.newest('timestamp').signed.snapshot_meta.version}.snapshot.json")
        return self._load(f"{self.newest('snapshot').signed.meta[f'{role}.json'].version}.{role}.json")

    def forge_delegated(self, role: str, entries: Entries, *, signers: Sequence[Signer]) -> None:
        """Signs the next version of a delegated role with whatever keys are at hand, and announces it."""
        self._announce(role, next_delegated(self.newest(role), role, entries=entries, now=utc_now()), signers)

    def resign_delegated(self, role: str, entries: Entries, *, signers: Sequence[Signer]) -> None:
        """Writes the announced version of a role again, with other content or signatures."""
        forged = next_delegated(self.newest(role), role, entries=entries, now=utc_now())
        forged.signed.version -= 1
        self._announce(role, forged, signers)

    def forge_targets(self, entries: Mapping[str, tuple[BlobRef, dict[str, object]]], *, signers: Sequence[Signer]) -> None:
        """Makes top-level targets list exactly ``entries``, and announces it."""
        metadata = self.newest("targets")
        targets: Targets = metadata.signed
        targets.version += 1
        targets.targets = {
            path: TargetFile(ref.length, {"sha256": ref.digest.hex}, path, {"custom": custom})
            for path, (ref, custom) in entries.items()
        }
        _stamp(targets, utc_now())
        metadata.signatures.clear()
        self._announce("targets", metadata, signers)

    def add_blobs(self, bundle: Path) -> None:
        """Puts the blobs of a bundle folder where the server finds them."""
        for path in (bundle / "blobs" / "sha256").iterdir():
            if not self.blob_file(path.name).exists():
                shutil.copyfile(path, self.blob_file(path.name))

    def add_blob(self, data: bytes) -> BlobRef:
        """Puts one small blob there."""
        ref = BlobRef.of(data)
        write_atomic(self.blob_file(ref.digest.hex), data)
        return ref

    def offer(self, path: BundlePath) -> None:
        """Makes the device API offer a version."""
        with contextlib.closing(sqlite3.connect(self.data / "server.db", timeout=10)) as connection, connection:
            connection.execute("UPDATE offers SET version = ? WHERE model = ?", (path.version, str(path.of_model)))

    def _announce(self, role: str, metadata: Metadata[Any], signers: Sequence[Signer]) -> None:
        """Writes a role, then snapshot and timestamp that name it, signed with the online keys."""
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        write_atomic(self.role_file(f"{metadata.signed.version}.{role}.json"), to_bytes(metadata))
        now = utc_now()
        snapshot = self.newest("snapshot")
        snapshot.signed.version += 1
        snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
        snapshot.signed.expires = now + timedelta(days=_SNAPSHOT_DAYS)
        self._write_online("snapshot", snapshot, f"{snapshot.signed.version}.snapshot.json", now)
        timestamp = self.newest("timestamp")
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        timestamp.signed.expires = now + timedelta(days=_TIMESTAMP_DAYS)
        self._write_online("timestamp", timestamp, "timestamp.json", now)

    def _write_online(self, role: str, metadata: Metadata[Any], name: str, now: datetime) -> None:
        metadata.signed.unrecognized_fields["issued"] = format_time(now)
        metadata.signatures.clear()
        for signer in self.online.of(role):
            metadata.sign(signer, append=True)
        write_atomic(self.role_file(name), to_bytes(metadata))

    def _load(self, name: str) -> Metadata[Any]:
        return Metadata.from_bytes(self.role_file(name).read_bytes())


def flip_byte(path: Path, *, offset: int) -> None:
    """Inverts the bits of one byte of a file; doing it twice undoes it."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    write_atomic(path, bytes(data))


def _stamp(targets: Targets, now: datetime) -> None:
    targets.unrecognized_fields["issued"] = format_time(now)
    targets.expires = now + timedelta(days=90)
