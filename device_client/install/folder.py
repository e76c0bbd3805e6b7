"""The device's folder: its files, its configuration, and how ``sealift device init`` makes it.

    root.json       the root that trust starts from, given by a person with its digest; read only
    device.toml     server and models
    policy.toml     acceptance policy
    identity.pem    the device's key
    state.db        the device's state and memory
    marks.json      the memory's second copy
    store-key.json  who keeps the key of the blobs; store.key or store.cred: the key
    factory/        what the device came with, proved by its own evidence; only where it did
    blobs/  tuf/    blobs by digest; metadata cache, disposable
    empty/          working directory of processes that load a model; empty and read-only
    lock            one process at a time
    agent.json, agent.lock    when `sealift device run` polls next; one agent at a time

Made beside its place and renamed, so that it is there complete or not at all.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import StateError, UsageError, VerificationError
from device_client.install.at_rest_key import create_store_key
from device_client.install.config import MAX_CONFIG_BYTES, MAX_MODELS, DeviceConfig, check_server_url, parse_config
from device_client.install.database import create_database
from device_client.install.identity import Identity, create_identity, load_identity
from device_client.install.state import MIRROR_NAME, open_state
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.policy.policy import DEFAULT_POLICY_TEXT, AcceptancePolicy, parse_policy
from device_client.trust.files import sync_folder, write_new
from device_client.trust.foreign_errors import mapped_errors
from device_client.trust.rules import parse_role


@dataclass(frozen=True)
class DeviceFolder:
    """Where everything is."""

    path: Path

    def resolved(self) -> DeviceFolder:
        """The same folder by an absolute path, for a process that changes its working directory."""
        return DeviceFolder(self.path.resolve())

    @property
    def root(self) -> Path:
        """The root that trust starts from."""
        return self.path / "root.json"

    @property
    def config(self) -> Path:
        """Server and models."""
        return self.path / "device.toml"

    @property
    def policy(self) -> Path:
        """Acceptance policy."""
        return self.path / "policy.toml"

    @property
    def identity(self) -> Path:
        """The device's key."""
        return self.path / "identity.pem"

    @property
    def state(self) -> Path:
        """The database."""
        return self.path / "state.db"

    @property
    def marks(self) -> Path:
        """The second copy of the memory."""
        return self.path / MIRROR_NAME

    @property
    def blobs(self) -> Path:
        """The blob store."""
        return self.path / "blobs"

    @property
    def metadata(self) -> Path:
        """The metadata cache."""
        return self.path / "tuf"

    @property
    def empty(self) -> Path:
        """The working directory of processes that load a model."""
        return self.path / "empty"

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.path / "lock"


@dataclass(frozen=True)
class Device:
    """An opened folder: everything but the database."""

    folder: DeviceFolder
    config: DeviceConfig
    policy: AcceptancePolicy
    identity: Identity
    root: bytes

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Names of the settings that weaken a check."""
        return self.policy.unsafe + (("unsafe_plain_http",) if self.config.unsafe_plain_http else ())


def init_device(
    path: Path,
    *,
    root: bytes,
    root_sha256: Digest,
    server: str,
    models: tuple[ModelPath, ...],
    policy: bytes | None = None,
    unsafe_plain_http: bool = False,
    prepare: Callable[[Device], object] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Device:
    """Makes a device's folder; nothing is fetched, and nothing that exists is changed.

    Args:
        path: the folder; must not exist, or be empty.
        root: bytes of the trusted root, brought by a person.
        root_sha256: its digest, brought on another way.
        server: base URL of the update server.
        models: what this device follows.
        policy: text of the acceptance policy, or None for the default.
        unsafe_plain_http: allow ``http://`` to a server that is not on this machine.
        prepare: what else the device must have before it exists, such as its factory bundle; called while the folder has
            another name, and when it raises, no device is made.
        limits: bound of the root.

    Raises:
        UsageError: another digest, a bad URL, no or too many models, a bad policy, or bytes that are no root.
        StateError: ``state_exists``.
    """
    if Digest.of(root) != root_sha256:
        raise UsageError(
            "the root is not the one whose digest was given",
            code="root_digest",
            expected=root_sha256,
            actual=Digest.of(root),
            hint="get the digest from somebody you trust, on another way than the file",
        )
    _check_root(root, limits=limits)
    config = DeviceConfig(check_server_url(server, unsafe_plain_http=unsafe_plain_http), models, root_sha256, unsafe_plain_http)
    if not 1 <= len(set(models)) == len(models) <= MAX_MODELS:
        raise UsageError("a device follows 1 to 64 different models", code="device_models", actual=len(models))
    policy_text = DEFAULT_POLICY_TEXT.encode() if policy is None else policy
    parse_policy(policy_text, models=models)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StateError(
            "there is something in this folder already",
            code="state_exists",
            where=str(path),
            hint="choose another folder; an existing device is never overwritten",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-new-"))
    try:
        _fill(DeviceFolder(making), root=root, config=config, policy=policy_text)
        if prepare is not None:
            prepare(open_device(making))
        making.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return open_device(path)


def open_device(path: Path) -> Device:
    """Reads a folder made by ``init_device``.

    Raises:
        StateError: missing, damaged, or owned or writable by somebody else.
        UsageError: a configuration or policy with an unknown key or a wrong value; the key is named.
    """
    folder = DeviceFolder(path)
    try:
        found = path.stat()
    except OSError as e:
        raise StateError("no device here", code="state_missing", where=str(path), hint="run `sealift device init`") from e
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise StateError(
            "the device's folder belongs to somebody else or is open to others",
            code="state_owner",
            where=str(path),
            expected=f"a folder of user {os.geteuid()} that nobody else can write",
            actual=f"user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}",
        )
    config = read_config(folder)
    root = read_root(folder, config)
    policy = parse_policy(_read(folder.policy, MAX_CONFIG_BYTES), where=str(folder.policy), models=config.models)
    return Device(folder, config, policy, load_identity(folder.identity), root)


def read_config(folder: DeviceFolder) -> DeviceConfig:
    """``device.toml``.

    Raises:
        StateError: missing. UsageError: an unknown key or a wrong value.
    """
    return parse_config(_read(folder.config, MAX_CONFIG_BYTES), where=str(folder.config))


def read_root(folder: DeviceFolder, config: DeviceConfig) -> bytes:
    """The root that trust starts from: the one whose digest a person gave at ``init``.

    Raises:
        StateError: missing, or another (``root_digest``).
    """
    root = _read(folder.root, DEFAULT_LIMITS.max_root_bytes)
    if Digest.of(root) != config.root_sha256:
        raise StateError(
            "root.json is not the root given at init",
            code="root_digest",
            where=str(folder.root),
            expected=config.root_sha256,
            actual=Digest.of(root),
            hint="put the original file back",
        )
    return root


def _check_root(data: bytes, *, limits: Limits) -> None:
    if len(data) > limits.max_root_bytes:
        raise UsageError("the root is too long", code="root_syntax", expected=limits.max_root_bytes, actual=len(data))
    try:
        parse_role(data, where="root")
        with mapped_errors("root"):
            root = Metadata[Root].from_bytes(data)
            root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except VerificationError as e:
        raise UsageError(
            f"not a root that signs itself: {e}"[:300], code="root_syntax", hint="give the root of the ceremony"
        ) from e


def _fill(folder: DeviceFolder, *, root: bytes, config: DeviceConfig, policy: bytes) -> None:
    folder.path.chmod(0o700)
    write_new(folder.root, root, mode=0o400)
    write_new(folder.config, config.to_toml().encode(), mode=0o600)
    write_new(folder.policy, policy, mode=0o600)
    create_identity(folder.identity)
    create_store_key(folder.path)
    create_database(folder.state)
    with open_state(folder.state) as state, state.transaction():
        state.write_mirror()
    for made in (folder.blobs, folder.metadata):
        made.mkdir(mode=0o700)
    folder.empty.mkdir(mode=0o555)
    sync_folder(folder.path)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as e:
        raise StateError("a file of the device is missing", code="state_missing", where=str(path), actual=e.strerror) from e
    if len(data) > max_bytes:
        raise StateError("a file of the device is too long", code="state_damaged", where=str(path))
    return data
