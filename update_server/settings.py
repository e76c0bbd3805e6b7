"""The settings of one server: ``server.toml`` in its data folder, written by `server init`. No secrets."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from device_client.errors import UsageError
from device_client.trust.files import write_new

FILE_NAME = "server.toml"
SCHEMA = 1
DEFAULT_DATABASE = "sqlite:server.db"
DEFAULT_BLOBS = "file:blobs"


@dataclass(frozen=True)
class Settings:
    """What `server serve` needs beside the folder.

    Attributes:
        snapshot_key: key URI of the snapshot role.
        timestamp_key: key URI of the timestamp role.
        database: ``sqlite:PATH``, relative to the data folder.
        blobs: ``file:PATH``, relative to the data folder.
        accept_loopback_devices: devices on this machine need no operator.
        public_urls: base URLs under which devices know this server.
    """

    snapshot_key: str
    timestamp_key: str
    database: str = DEFAULT_DATABASE
    blobs: str = DEFAULT_BLOBS
    accept_loopback_devices: bool = False
    public_urls: tuple[str, ...] = ()

    def database_path(self, data: Path) -> Path:
        """Where the database is."""
        return data / _after_scheme(self.database, "sqlite")

    def blobs_path(self, data: Path) -> Path:
        """The folder of the blobs."""
        return data / _after_scheme(self.blobs, "file")

    def to_toml(self) -> str:
        """The file form; a JSON string is a TOML string."""
        return "\n".join([f"schema = {SCHEMA}", *(f"{key} = {json.dumps(value)}" for key, value in asdict(self).items()), ""])


def store_settings(data: Path, settings: Settings) -> None:
    """Writes the file into a folder that has none."""
    write_new(data / FILE_NAME, settings.to_toml().encode())


def load_settings(data: Path) -> Settings:
    """Reads the file.

    Raises:
        UsageError: no such folder, not TOML, an unknown or missing key, a wrong type or scheme.
    """
    path = data / FILE_NAME
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        raise UsageError(
            "not a server's data folder", code="server_data", where=str(data), hint="make one with `sealift server init`"
        ) from e
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"cannot read the settings: {e}"[:200], code="settings_syntax", where=str(path)) from e
    known = {field.name for field in fields(Settings)}
    if table.pop("schema", None) != SCHEMA or set(table) != known:
        raise _wrong(path, f"schema = {SCHEMA} and {', '.join(sorted(known))}", ", ".join(table))
    settings = Settings(**{**table, "public_urls": _urls(table["public_urls"], path)})
    for name in ("snapshot_key", "timestamp_key", "database", "blobs"):
        if not isinstance(table[name], str):
            raise _wrong(path, f"{name}: text", table[name])
    if not isinstance(settings.accept_loopback_devices, bool):
        raise _wrong(path, "accept_loopback_devices: true or false", settings.accept_loopback_devices)
    check_storage(settings)
    return settings


def check_storage(settings: Settings) -> None:
    """Refuses stores that this version does not have.

    Raises:
        UsageError: ``storage_url``.
    """
    _after_scheme(settings.database, "sqlite")
    _after_scheme(settings.blobs, "file")


def _after_scheme(url: str, scheme: str) -> str:
    found, separator, rest = url.partition(":")
    has_host = rest.startswith("//") and not rest.startswith("///")
    if found != scheme or not separator or not rest.strip("/") or has_host:
        raise UsageError("unknown storage URL", code="storage_url", actual=url[:200], expected=f"{scheme}:PATH")
    return rest.removeprefix("//")  # sqlite:///path is the same as sqlite:/path


def _urls(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(path, "public_urls: a list of URLs", value)
    return tuple(value)


def _wrong(path: Path, expected: str, actual: object) -> UsageError:
    return UsageError("wrong settings", code="settings_syntax", where=str(path), expected=expected, actual=str(actual)[:200])
