"""The published repository: the only place that writes snapshot and timestamp.

The files in the web root are the source. What is published is what the timestamp there leads to, so a publish that
was cut short left files that nothing names, and the next one writes over them. The order is role, snapshot,
timestamp; each file is replaced whole, so a reader sees the old set or the new one, complete.

    repository = OnlineRepository(folder, snapshot_signer=..., timestamp_signer=...)
    repository.publish_role("release-digits", data, version=2)
    repository.renew_if_due()

It does not judge what a role lists; `admission.py` does, before. Callers hold the publish lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from device_client.errors import StateError, UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.files import write_atomic
from device_client.trust.keys import public_value
from device_client.trust.rules import parse_role
from device_client.trust.times import format_time, utc_now

SNAPSHOT_LIFETIME = timedelta(days=7)
TIMESTAMP_LIFETIME = timedelta(days=1)
SNAPSHOT_RENEWAL = timedelta(days=2)  # renewed when less than this is left, so a weekend without a server is survived
TIMESTAMP_RENEWAL = timedelta(hours=12)

WriteFile = Callable[[Path, bytes], None]


@dataclass(frozen=True)
class Published:
    """Versions after a publish."""

    version: int
    snapshot: int
    timestamp: int


class OnlineRepository:
    """The web root with the keys of the two online roles.

    Args:
        folder: web root; ``N.<role>.json`` and ``timestamp.json``.
        snapshot_signer: key of the snapshot role.
        timestamp_signer: key of the timestamp role.
        clock: current time, aware UTC.
        write: replaces a file atomically; injectable so that a test can crash between any two files.

    Raises:
        UsageError: ``online_key`` when root does not name these keys with threshold 1.
    """

    def __init__(
        self,
        folder: Path,
        *,
        snapshot_signer: Signer,
        timestamp_signer: Signer,
        clock: Callable[[], datetime] = utc_now,
        write: WriteFile = write_atomic,
    ) -> None:
        self.folder = folder
        self._signers = {"snapshot": snapshot_signer, "timestamp": timestamp_signer}
        self._clock = clock
        self._write = write
        root = self.root()
        for role, signer in self._signers.items():
            check_online_key(root, role, signer)

    def root(self) -> Root:
        """The newest root; the chain was checked when it came in."""
        signed = self._parse("root").signed
        if not isinstance(signed, Root):
            raise _damaged("root")
        return signed

    def targets(self) -> Targets:
        """Published top-level targets."""
        signed = self._parse("targets").signed
        if not isinstance(signed, Targets):
            raise _damaged("targets")
        return signed

    def version_of(self, role: str) -> int:
        """The published version of a role by the published snapshot; 0 when it lists none."""
        meta = self._snapshot().meta.get(f"{role}.json")
        return 0 if meta is None else meta.version

    def online_versions(self) -> tuple[int, int]:
        """Published versions of snapshot and timestamp."""
        timestamp = self._timestamp()
        return timestamp.snapshot_meta.version, timestamp.version

    def role_bytes(self, role: str) -> bytes | None:
        """The published bytes of any role; None before its first version."""
        if role == "timestamp":
            return _read(self.folder / "timestamp.json")
        if role == "snapshot":
            return _read(self._path(role, self._timestamp().snapshot_meta.version))
        version = self._newest_root() if role == "root" else self.version_of(role)
        return None if version == 0 else _read(self._path(role, version))

    def delegated(self, role: str) -> Targets | None:
        """The published version of a delegated role; None before its first."""
        data = self.role_bytes(role)
        signed = None if data is None else parse_role(data, where=role).signed
        if signed is not None and not isinstance(signed, Targets):
            raise _damaged(role)
        return signed

    def publish_role(self, role: str, data: bytes, *, version: int) -> Published:
        """Makes ``data`` the published version of a delegated role.

        Raises:
            OSError: the disk refused; what was published before still is.
        """
        self._write(self._path(role, version), data)
        snapshot, timestamp = self._next()
        snapshot.meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
        return self._publish(snapshot, timestamp, role_version=version)

    def publish_first(self) -> Published:
        """Snapshot and timestamp version 1 over targets version N that lies in the folder; for `server init`."""
        version = max(self._versions("targets"), default=0)
        data = _read(self._path("targets", version))
        snapshot = Snapshot(version=1, meta={"targets.json": MetaFile.from_data(version, data, ["sha256"])})
        return self._publish(snapshot, Timestamp(version=1), role_version=version)

    def renew_if_due(self) -> Published | None:
        """Signs snapshot and timestamp again where little of their life is left; None if nothing was due."""
        now = self._clock()
        due_snapshot = self._snapshot().expires - now < SNAPSHOT_RENEWAL
        due_timestamp = self._timestamp().expires - now < TIMESTAMP_RENEWAL
        if not (due_snapshot or due_timestamp):
            return None
        snapshot, timestamp = self._next()
        if due_snapshot:
            return self._publish(snapshot, timestamp, role_version=0)
        self._write_timestamp(timestamp)
        return Published(0, timestamp.snapshot_meta.version, timestamp.version)

    def expiries(self) -> dict[str, datetime]:
        """When each published role ends; for the alarm before an offline role expires."""
        targets = self.targets()
        roles = [] if targets.delegations is None or targets.delegations.roles is None else list(targets.delegations.roles)
        found: dict[str, datetime] = {"root": self.root().expires, "targets": targets.expires}
        for role in roles:
            signed = self.delegated(role)
            if signed is not None:
                found[role] = signed.expires
        return found

    def _next(self) -> tuple[Snapshot, Timestamp]:
        """The published snapshot and timestamp with the version numbers of the next ones."""
        snapshot, timestamp = self._snapshot(), self._timestamp()
        snapshot.version += 1
        timestamp.version += 1
        return snapshot, timestamp

    def _publish(self, snapshot: Snapshot, timestamp: Timestamp, *, role_version: int) -> Published:
        data = self._sign("snapshot", snapshot, lifetime=SNAPSHOT_LIFETIME)
        self._write(self._path("snapshot", snapshot.version), data)
        timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        self._write_timestamp(timestamp)
        return Published(role_version, snapshot.version, timestamp.version)

    def _write_timestamp(self, timestamp: Timestamp) -> None:
        """The last write of every publish: from here on readers see the new set."""
        self._write(self.folder / "timestamp.json", self._sign("timestamp", timestamp, lifetime=TIMESTAMP_LIFETIME))

    def _sign(self, role: str, signed: Signed, *, lifetime: timedelta) -> bytes:
        now = self._clock()
        signed.expires = now + lifetime
        signed.unrecognized_fields["issued"] = format_time(now)
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(self._signers[role])
        return metadata.to_bytes(JSONSerializer(compact=True))

    def _timestamp(self) -> Timestamp:
        signed = parse_role(_read(self.folder / "timestamp.json"), where="timestamp").signed
        if not isinstance(signed, Timestamp):
            raise _damaged("timestamp")
        return signed

    def _snapshot(self) -> Snapshot:
        version = self._timestamp().snapshot_meta.version
        signed = parse_role(_read(self._path("snapshot", version)), where="snapshot").signed
        if not isinstance(signed, Snapshot):
            raise _damaged("snapshot")
        return signed

    def _parse(self, role: str) -> Metadata[Any]:
        data = self.role_bytes(role)
        if data is None:
            raise _damaged(role)
        return parse_role(data, where=role)

    def _newest_root(self) -> int:
        """Roots are followed one by one, so the chain ends at its first gap."""
        versions = set(self._versions("root"))
        newest = max(versions, default=0)
        while newest and not set(range(min(versions), newest)) <= versions:
            newest -= 1
        return newest

    def _versions(self, role: str) -> list[int]:
        pattern = re.compile(rf"([1-9][0-9]{{0,9}})\.{re.escape(role)}\.json\Z")
        return [int(match[1]) for path in self.folder.iterdir() if (match := pattern.match(path.name))]

    def _path(self, role: str, version: int) -> Path:
        return self.folder / f"{version}.{role}.json"


def check_online_key(root: Root, role: str, signer: Signer) -> None:
    """The signer is the one key of an online role.

    Raises:
        UsageError: ``online_key``.
    """
    delegation = root.get_delegated_role(role)
    keys = {keyid: root.get_key(keyid) for keyid in delegation.keyids}
    named = keys.get(signer.public_key.keyid)
    if named is None or public_value(named) != public_value(signer.public_key):
        raise UsageError(
            f"root does not name this key for {role}",
            code="online_key",
            where=signer.public_key.keyid,
            expected=" | ".join(keys),
            hint="give the key that the ceremony named for this role",
        )
    if delegation.threshold != 1:
        raise UsageError(
            f"{role} needs {delegation.threshold} signatures",
            code="online_key",
            where="root",
            expected="threshold 1",
            hint="the server holds one key for each online role",
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(DEFAULT_LIMITS.max_targets_bytes + 1)
    except FileNotFoundError as e:
        raise StateError(
            "a published file is missing", code="repository_damaged", where=path.name, hint="restore the web root from a copy"
        ) from e
    return data


def _damaged(role: str) -> StateError:
    return StateError(
        "the published role is not what it must be", code="repository_damaged", where=role, hint="restore the web root from a copy"
    )
