"""The table ``[download]`` of ``device.toml``: how much, how fast and from where a device may download.

[download]
parallel = 4
max_bytes_per_s = 250_000
max_bytes_per_poll = 50_000_000
reserve_bytes = 33_554_432
metered = "refuse"
metered_command = ["/usr/local/bin/is-metered"]
redirect_origins = ["https://cdn.example"]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

from device_client.bundle.fields import Fields, read_text
from device_client.errors import FormatError

T = TypeVar("T")
_MAX_ORIGINS = 8
_MAX_PARALLEL = 16
# Below this the deadline of a download, which counts 4 KiB/s for each connection, would cut what the limit itself slows down.
_MIN_RATE_BYTES_S = _MAX_PARALLEL * 4096
_KNOWN = (
    "parallel",
    "max_bytes_per_s",
    "max_bytes_per_poll",
    "reserve_bytes",
    "metered",
    "metered_command",
    "redirect_origins",
)


@dataclass(frozen=True)
class DownloadConfig:
    """What the owner of a device allows.

    Attributes:
        parallel: blobs at once, 1 to 16.
        max_bytes_per_s: over all connections; None for no limit.
        max_bytes_per_poll: of blobs; what is missing then comes with the next poll. None for no limit.
        reserve_bytes: that stay free on the disk.
        may_use_metered: False asks ``metered_command`` first.
        metered_command: exits with 0 on a metered connection, with 1 on another; anything else counts as metered.
        redirect_origins: where the server may send a device for a blob, as ``https://host[:port]``.
    """

    parallel: int = 4
    max_bytes_per_s: int | None = None
    max_bytes_per_poll: int | None = None
    reserve_bytes: int = 32 * 1024 * 1024
    may_use_metered: bool = True
    metered_command: tuple[str, ...] = ()
    redirect_origins: tuple[str, ...] = ()


DEFAULT_DOWNLOAD = DownloadConfig()


def parse_download(fields: Fields) -> DownloadConfig:
    """Reads the table ``download`` of ``fields``, or gives the defaults where there is none.

    Raises:
        FormatError: an unknown key, or a wrong value.
    """
    if "download" not in fields:
        return DEFAULT_DOWNLOAD
    table, usual = fields.fields("download", known=_KNOWN), DEFAULT_DOWNLOAD

    def optional(key: str, minimum: int, maximum: int = 2**53 - 1) -> int | None:
        return table.integer(key, minimum=minimum, maximum=maximum) if key in table else None

    config = DownloadConfig(
        parallel=optional("parallel", 1, _MAX_PARALLEL) or usual.parallel,
        max_bytes_per_s=optional("max_bytes_per_s", _MIN_RATE_BYTES_S),
        max_bytes_per_poll=optional("max_bytes_per_poll", 1),
        reserve_bytes=_or(optional("reserve_bytes", 0), usual.reserve_bytes),
        may_use_metered="metered" not in table or table.text("metered", choices=("allow", "refuse")) == "allow",
        metered_command=table.items("metered_command", read_text, max_items=32) if "metered_command" in table else (),
        redirect_origins=(
            table.items("redirect_origins", _read_origin, max_items=_MAX_ORIGINS) if "redirect_origins" in table else ()
        ),
    )
    if config.may_use_metered == bool(config.metered_command):
        raise FormatError(
            "'metered' and 'metered_command' go together",
            code="field_value",
            where=f"{table.where}.metered_command",
            expected='metered = "refuse" with a command, or neither',
        )
    if config.metered_command and not PurePosixPath(config.metered_command[0]).is_absolute():
        raise FormatError("not an absolute path", code="field_value", where=f"{table.where}.metered_command[0]")
    return config


def origin_of(url: str) -> str | None:
    """``https://host:port`` of a plain https URL, in the form that origins are compared in; None if it is not one."""
    if len(url) > 2048 or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        return None
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.fragment:
        return None
    return f"https://{parts.hostname}:{port}"


def _read_origin(value: object, where: str) -> str:
    text = read_text(value, where)
    origin, parts = origin_of(text), urlsplit(text)
    if origin is None or parts.path.strip("/") or parts.query:
        raise FormatError("not an origin", code="field_value", where=where, expected="https://HOST[:PORT]", actual=ascii(text)[:80])
    return origin


def _or(value: T | None, usual: T) -> T:
    return usual if value is None else value
