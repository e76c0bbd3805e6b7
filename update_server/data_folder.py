"""Makes a server's data folder from a ceremony: root and targets come in, the first snapshot and timestamp go out.

Built beside its final place and renamed into it, so that a failed or interrupted `server init` leaves nothing there.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Targets

from device_client.bundle.digest import Digest
from device_client.errors import TrustError, UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.files import sync_folder, write_new
from device_client.trust.rules import check_keys_unique, check_lifetime, delegation_for, expected_pattern, keys_of, parse_role
from device_client.trust.times import format_time
from update_server.blobs import BlobStore
from update_server.database import Database, create_database
from update_server.publish import delegated_roles
from update_server.repository import OnlineRepository, check_online_key
from update_server.service import METADATA_FOLDER
from update_server.settings import Settings, check_storage, store_settings
from update_server.tokens import LIFETIME, Kind, issue_token

OPERATOR_TOKEN = "operator.token"  # noqa: S105  # a file name


@dataclass(frozen=True)
class InitResult:
    """What was made: ``root_digest`` is what devices are provisioned with; ``token_files`` by role."""

    root_version: int
    root_digest: Digest
    roles: tuple[str, ...]
    token_files: dict[str, Path]


@dataclass(frozen=True)
class _Ceremony:
    """Root chain by version and targets, as bytes, verified."""

    roots: dict[int, bytes]
    root: Root
    targets_bytes: bytes
    targets: Targets


def init_server(
    data: Path,
    *,
    repo: Path,
    settings: Settings,
    snapshot_signer: Signer,
    timestamp_signer: Signer,
    tokens: Path,
    now: datetime,
) -> InitResult:
    """Makes the data folder, and one token file (mode 0600) for each delegated role and for the operator.

    Args:
        data: the folder to make; absent or empty.
        repo: folder of the ceremony, with ``metadata/N.root.json`` and ``metadata/N.targets.json``.
        settings: stored as ``server.toml``.
        snapshot_signer: key that root names for snapshot.
        timestamp_signer: key that root names for timestamp.
        tokens: folder for the token files.
        now: current time.

    Raises:
        UsageError: the folder is not empty, a token file exists, the ceremony is incomplete, or a key is not root's.
        TrustError: root or targets do not verify.
    """
    check_storage(settings)
    ceremony = _load_ceremony(repo / "metadata", now=now)
    for role, signer in (("snapshot", snapshot_signer), ("timestamp", timestamp_signer)):
        check_online_key(ceremony.root, role, signer)
    roles = delegated_roles(ceremony.targets)
    files = {role: tokens / f"{role}.token" for role in roles} | {"operator": tokens / OPERATOR_TOKEN}
    data, tokens = data.absolute(), tokens.absolute()
    database = settings.database_path(data)
    _check_free(data, tokens=tokens, files=[*files.values(), database])
    data.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=data.parent, prefix=f".new-{data.name}-"))
    written = [] if database.is_relative_to(data) else [database]
    try:
        _write_metadata(building / METADATA_FOLDER, ceremony, snapshot_signer, timestamp_signer, now=now)
        BlobStore(settings.blobs_path(building))
        store_settings(building, settings)
        for role, token in _make_database(settings.database_path(building), roles, now=now).items():
            tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_new(files[role], f"{token}\n".encode(), mode=0o600)
            written.append(files[role])
        if data.exists():
            data.rmdir()
        building.rename(data)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_folder(data.parent)
    newest = ceremony.root.version
    return InitResult(newest, Digest.of(ceremony.roots[newest]), tuple(roles), files)


def _check_free(data: Path, *, tokens: Path, files: Sequence[Path]) -> None:
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise UsageError(
            "the data folder is not empty",
            code="data_exists",
            where=str(data),
            hint="choose another --data; nothing is overwritten",
        )
    if tokens.is_relative_to(data):
        raise UsageError(
            "token files do not belong into the data folder",
            code="tokens_inside",
            where=str(tokens),
            hint="choose another --tokens",
        )
    for path in files:
        if path.exists():
            raise UsageError("the file exists already", code="file_exists", where=str(path), hint="choose another --tokens or --db")


def _load_ceremony(folder: Path, *, now: datetime) -> _Ceremony:
    """Reads and verifies the chain of roots, each signed by itself and by the one before, and the newest targets."""
    roots = _versions(folder, "root")
    targets = _versions(folder, "targets")
    if not roots or not targets:
        raise UsageError(
            "no root and targets here",
            code="ceremony_missing",
            where=str(folder),
            hint="hold the ceremony first: `sealift keys init`",
        )
    first, last = min(roots), max(roots)
    if set(roots) != set(range(first, last + 1)):
        raise TrustError("the chain of roots has a gap", code="root_chain", where=str(folder), actual=sorted(roots))
    root: Root | None = None
    for version in range(first, last + 1):
        root = _verify_root(roots[version], version, before=root)
    if root is None:
        raise TrustError("no root", code="root_chain", where=str(folder))
    newest = targets[max(targets)]
    signed = _verify_targets(newest, root)
    for role, part in (("root", root), ("targets", signed)):
        check_lifetime(part, role=role)
        if part.is_expired(now):
            raise TrustError("the role has expired", code="metadata_expired", where=role, actual=format_time(part.expires))
    return _Ceremony(roots, root, newest, signed)


def _verify_root(data: bytes, version: int, *, before: Root | None) -> Root:
    metadata = parse_role(data, where=f"{version}.root.json")
    root = metadata.signed
    if not isinstance(root, Root) or root.version != version:
        raise TrustError("not that version of root", code="root_chain", where=f"{version}.root.json")
    try:
        (before or root).verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        root.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as e:
        raise TrustError(f"root does not verify: {e}", code="signature_threshold", where=f"{version}.root.json") from e
    return root


def _verify_targets(data: bytes, root: Root) -> Targets:
    metadata = parse_role(data, where="targets")
    targets = metadata.signed
    if not isinstance(targets, Targets):
        raise TrustError("not a targets role", code="metadata_syntax", where="targets")
    try:
        root.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as e:
        raise TrustError(f"targets does not verify: {e}", code="signature_threshold", where="targets") from e
    if targets.targets:
        raise TrustError("top-level targets lists a target", code="targets_lists_targets", where=min(targets.targets)[:200])
    roles = delegated_roles(targets)
    for role in roles:
        expected_pattern(role)
        delegation_for(targets, role)
    online = {keyid for role in ("snapshot", "timestamp") for keyid in root.get_delegated_role(role).keyids}
    check_keys_unique(
        [("online", [root.get_key(keyid) for keyid in sorted(online)]), *((role, keys_of(targets, role)) for role in roles)]
    )
    return targets


def _versions(folder: Path, role: str) -> dict[int, bytes]:
    pattern = re.compile(rf"([1-9][0-9]{{0,8}})\.{role}\.json\Z")
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := pattern.match(path.name):
            with path.open("rb") as file:
                found[int(match[1])] = file.read(DEFAULT_LIMITS.max_targets_bytes + 1)
    return found


def _write_metadata(folder: Path, ceremony: _Ceremony, snapshot_signer: Signer, timestamp_signer: Signer, *, now: datetime) -> None:
    for version, data in ceremony.roots.items():
        write_new(folder / f"{version}.root.json", data)
    write_new(folder / f"{ceremony.targets.version}.targets.json", ceremony.targets_bytes)
    OnlineRepository(folder, snapshot_signer=snapshot_signer, timestamp_signer=timestamp_signer, clock=lambda: now).publish_first()


def _make_database(path: Path, roles: list[str], *, now: datetime) -> dict[str, str]:
    """An empty database; returns the new tokens by role, whose text exists nowhere else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    create_database(path)
    database = Database(path)
    subjects = {role: (Kind.PUBLISHER, role) for role in roles} | {"operator": (Kind.OPERATOR, "")}
    try:
        return database.write(
            lambda connection: {
                name: issue_token(connection, kind=kind, subject=subject, expires=now + LIFETIME)
                for name, (kind, subject) in subjects.items()
            }
        ).result()
    finally:
        database.close()
