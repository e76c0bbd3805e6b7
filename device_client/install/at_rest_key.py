"""The key under which blobs are encrypted on the disk: made once, kept by a provider, recorded in ``store-key.json``.

Two providers. ``systemd-creds`` seals the key to this machine's TPM2, so that the card alone gives a thief nothing. A key
file protects against nobody who has the card, and says so. A key that systemd seals to its own host key would lie on the same card
as that host key: it is used only when asked for by name, and labelled alike.

    create_store_key(folder)                    # at `device init`
    key = StoreKey(folder)
    key.load()                                  # 32 bytes; asks the provider once

Does not protect the key in memory, nor against whoever is root on the device.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, LimitError, StateError
from device_client.install.sealed import KEY_BYTES, key_id
from device_client.trust.files import write_atomic

logger = logging.getLogger(__name__)

RECORD_NAME = "store-key.json"
CREDENTIAL_NAME = "sealift-store-key"  # for LoadCredentialEncrypted= in a unit, too
NO_PROTECTION = "no protection against a stolen card"
_SCHEMA = 1
_MAX_RECORD_BYTES = 4096
_MAX_CREDENTIAL_BYTES = 64 * 1024
_SYSTEMD_CREDS = Path("/usr/bin/systemd-creds")
_TPM = Path("/sys/class/tpm")
_PROGRAM_S = 60.0  # a TPM is slow, and may be locked for some seconds


class KeyProvider(Protocol):
    """Keeps one key in the device's folder."""

    @property
    def name(self) -> str:
        """How ``store-key.json`` calls it."""
        ...

    @property
    def protection(self) -> str:
        """What it protects against, for people."""
        ...

    def keep(self, folder: Path, key: bytes) -> None:
        """Stores the key.

        Raises:
            StateError: it cannot, here and now.
        """
        ...

    def load(self, folder: Path) -> bytes:
        """The key that ``keep`` was given.

        Raises:
            FileNotFoundError: it is gone for good.
            StateError: it cannot be had, here and now.
        """
        ...


@dataclass(frozen=True)
class KeyFile:
    """``store.key``, mode 0600."""

    name = "file"
    protection = f"encrypted under store.key, a file beside them: {NO_PROTECTION}"

    def keep(self, folder: Path, key: bytes) -> None:
        """Writes the file."""
        write_atomic(folder / "store.key", key, mode=0o600)

    def load(self, folder: Path) -> bytes:
        """Reads the file; another user who may read it, too, is an error."""
        path = folder / "store.key"
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise StateError(
                    "other users may read the key of the stored blobs",
                    code="store_key_exposed",
                    where=str(path),
                    expected=f"a file of user {os.geteuid()}, mode 600",
                    actual=f"user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}",
                    hint="find out who read it; remove store-key.json for a new key, and poll",
                )
            return file.read(KEY_BYTES + 1)


@dataclass(frozen=True)
class SystemdCreds:
    """``store.cred``, encrypted by ``systemd-creds``.

    Attributes:
        seal: to what: ``tpm2``, or ``host`` (systemd's own key file, on this disk).
        program: the tool.
    """

    seal: str = "tpm2"
    program: Path = _SYSTEMD_CREDS

    @property
    def name(self) -> str:
        """``tpm2`` or ``host``."""
        return f"systemd-creds:{self.seal}"

    @property
    def protection(self) -> str:
        """What the seal is worth."""
        if self.seal == "tpm2":
            return "encrypted under a key sealed to this machine's TPM2"
        return f"encrypted under a key sealed to systemd's host key, a file on this machine: {NO_PROTECTION}"

    def is_usable(self) -> bool:
        """True if the tool, and a TPM2 where one is needed, are there; tried in ``create_store_key``."""
        return self.program.exists() and (self.seal != "tpm2" or (_TPM.is_dir() and any(_TPM.iterdir())))

    def keep(self, folder: Path, key: bytes) -> None:
        """Encrypts the key, and reads it back before anything depends on it."""
        data = self._run("encrypt", f"--name={CREDENTIAL_NAME}", f"--with-key={self.seal}", "-", "-", given=key)
        write_atomic(folder / "store.cred", data, mode=0o600)
        if self.load(folder) != key:
            raise StateError("the key did not come back as it was", code="store_key_provider", where=self.name)

    def load(self, folder: Path) -> bytes:
        """From the service manager if it has decrypted it for this process already, else from the tool."""
        handed = os.environ.get("CREDENTIALS_DIRECTORY")
        if handed and (Path(handed) / CREDENTIAL_NAME).is_file():
            return _read_bounded(Path(handed) / CREDENTIAL_NAME, KEY_BYTES)
        path = folder / "store.cred"
        if not path.exists():
            raise FileNotFoundError(str(path))
        return self._run("decrypt", f"--name={CREDENTIAL_NAME}", "-", "-", given=_read_bounded(path, _MAX_CREDENTIAL_BYTES))

    def _run(self, *arguments: str, given: bytes) -> bytes:
        try:
            done = subprocess.run(
                [str(self.program), *arguments],
                input=given,
                capture_output=True,
                timeout=_PROGRAM_S,
                check=True,
                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            )
        except (OSError, subprocess.SubprocessError) as e:
            said = getattr(e, "stderr", None) or b""
            raise StateError(
                "systemd-creds did not give the key of the stored blobs",
                code="store_key_provider",
                where=self.name,
                actual="".join(char for char in said.decode("utf-8", "replace")[-200:] if char.isprintable()) or type(e).__name__,
                hint="look at the TPM; for a new key remove store-key.json and poll: all blobs are downloaded again",
            ) from e
        return done.stdout[:_MAX_CREDENTIAL_BYTES]


_PROVIDERS: tuple[KeyProvider, ...] = (SystemdCreds("tpm2"), SystemdCreds("host"), KeyFile())


class StoreKey:
    """The key of one device's store; loaded when first needed, and then kept in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._key: bytes | None = None

    @property
    def protection(self) -> str:
        """What protects the blobs, for ``status``; asks no provider."""
        try:
            provider, _ = _read_record(self._folder)
        except FileNotFoundError:
            return "nothing is stored yet"
        except StateError as error:
            return f"unknown: {error.what}"
        return provider.protection

    def load(self) -> bytes:
        """The key.

        Raises:
            StateError: ``store_key_missing``, or what the provider says.
        """
        with self._lock:
            return self._load()

    def load_or_create(self) -> bytes:
        """The key, or a new one where there is none any more; for writers, under the device's lock.

        What an older key sealed cannot be opened again by anybody; it is found at the next look, and downloaded again.
        """
        with self._lock:
            try:
                return self._load()
            except StateError as error:
                if error.code != "store_key_missing":
                    raise
            create_store_key(self._folder)
            return self._load()

    def _load(self) -> bytes:
        if self._key is None:
            try:
                provider, expected = _read_record(self._folder)
                key = provider.load(self._folder)
            except FileNotFoundError as e:
                raise StateError(
                    "the key of the stored blobs is gone",
                    code="store_key_missing",
                    where=str(self._folder),
                    hint="poll: a new key is made, and the blobs are downloaded again",
                ) from e
            except OSError as e:
                raise StateError(
                    "cannot read the key of the stored blobs",
                    code="store_key_damaged",
                    where=str(self._folder),
                    actual=e.strerror,
                    hint="restore it; or remove store-key.json and poll: all blobs are downloaded again",
                ) from e
            if len(key) != KEY_BYTES or key_id(key) != expected:
                raise StateError(
                    "not the key that was made for this store",
                    code="store_key_damaged",
                    where=provider.name,
                    hint="restore it; or remove store-key.json and poll: all blobs are downloaded again",
                )
            self._key = key
        return self._key


def create_store_key(folder: Path, *, provider: KeyProvider | None = None) -> KeyProvider:
    """Makes a new key and the record of who keeps it; the record is written last.

    Args:
        folder: the device's.
        provider: who shall keep it; None takes a TPM2 where there is one that works, else a key file.

    Raises:
        StateError: the provider that was asked for cannot, or the disk refuses.
    """
    key = secrets.token_bytes(KEY_BYTES)
    try:
        kept = _keep_at_best(folder, key) if provider is None else provider
        if provider is not None:
            provider.keep(folder, key)
        record = {"schema": _SCHEMA, "provider": kept.name, "key_id": key_id(key).hex()}
        write_atomic(folder / RECORD_NAME, json.dumps(record).encode() + b"\n", mode=0o600)
    except OSError as e:
        raise StateError("cannot write the store's key", code="store_unwritable", where=str(folder), actual=e.strerror) from e
    return kept


def _keep_at_best(folder: Path, key: bytes) -> KeyProvider:
    sealed = SystemdCreds("tpm2")
    if sealed.is_usable():
        try:
            sealed.keep(folder, key)
        except StateError as error:
            logger.warning("there is a TPM, but it does not keep the key: %s", error)
        else:
            return sealed
    plain = KeyFile()
    plain.keep(folder, key)
    return plain


def _read_record(folder: Path) -> tuple[KeyProvider, bytes]:
    """The provider and the id of the key that it keeps.

    Raises:
        FileNotFoundError: no key was ever made.
        StateError: ``store_key_damaged``.
    """
    path = folder / RECORD_NAME
    try:
        data = _read_bounded(path, _MAX_RECORD_BYTES)
        fields = Fields(
            parse_strict(data, max_bytes=_MAX_RECORD_BYTES, where=RECORD_NAME),
            where=RECORD_NAME,
            known=("schema", "provider", "key_id"),
        )
        fields.integer("schema", minimum=_SCHEMA, maximum=_SCHEMA)
        providers = {provider.name: provider for provider in _PROVIDERS}
        return providers[fields.text("provider", choices=tuple(providers))], bytes.fromhex(fields.text("key_id", max_chars=16))
    except (FormatError, LimitError, ValueError) as e:
        raise StateError(
            "the record of the store's key is damaged",
            code="store_key_damaged",
            where=str(path),
            hint="remove it and poll: a new key is made, and all blobs are downloaded again",
        ) from e


def _read_bounded(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(max_bytes + 1)
