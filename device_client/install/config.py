"""``device.toml``: which server a device asks, for which models, and the root it was given. An unknown key is an error."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from device_client.agent.settings import AgentSettings, read_agent_settings
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, UsageError
from device_client.install.download_config import DEFAULT_DOWNLOAD, DownloadConfig, parse_download
from device_client.install.service_settings import ServiceSettings, read_service_settings

SCHEMA = 1
MAX_CONFIG_BYTES = 64 * 1024
MAX_MODELS = 64
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class DeviceConfig:
    """``server`` without a trailing slash; ``root_sha256`` binds ``root.json`` to what the person gave at ``init``."""

    server: str
    models: tuple[ModelPath, ...]
    root_sha256: Digest
    unsafe_plain_http: bool = False
    service: ServiceSettings = field(default_factory=ServiceSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    download: DownloadConfig = DEFAULT_DOWNLOAD

    def to_toml(self) -> str:
        """The file form."""
        models = ", ".join(json.dumps(str(model)) for model in self.models)
        return (
            "# Written by `sealift device init`. An unknown key is an error.\n"
            f"schema = {SCHEMA}\n"
            f"server = {json.dumps(self.server)}\n"
            f"models = [{models}]\n"
            f"root_sha256 = {json.dumps(self.root_sha256.hex)}\n"
            f"unsafe_plain_http = {json.dumps(self.unsafe_plain_http)}  # true: the device's token can be read on the way\n"
        )


def parse_config(data: bytes, *, where: str) -> DeviceConfig:
    """Reads ``device.toml``.

    Raises:
        UsageError: not TOML, an unknown key, or a wrong value (``device_config``).
    """
    try:
        known = ("schema", "server", "models", "root_sha256", "unsafe_plain_http", "service", "agent", "download")
        fields = Fields(tomllib.loads(data.decode("utf-8")), where=where, known=known)
        fields.integer("schema", minimum=SCHEMA, maximum=SCHEMA)
        unsafe = fields.boolean("unsafe_plain_http") if "unsafe_plain_http" in fields else False
        return DeviceConfig(
            server=check_server_url(fields.text("server"), unsafe_plain_http=unsafe),
            models=fields.items("models", lambda value, _: ModelPath.parse(str(value)), max_items=MAX_MODELS),
            root_sha256=Digest(fields.text("root_sha256")),
            unsafe_plain_http=unsafe,
            service=read_service_settings(fields),
            agent=read_agent_settings(fields.raw("agent") if "agent" in fields else {}, where=f"{where}.agent"),
            download=parse_download(fields),
        )
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"not a TOML file: {e}", code="device_config", where=where) from e
    except FormatError as e:
        raise UsageError(e.what, code="device_config", where=e.where or where, expected=e.expected, actual=e.actual) from e


def check_server_url(url: str, *, unsafe_plain_http: bool) -> str:
    """The base URL without trailing slashes.

    Raises:
        UsageError: not a plain ``https://`` URL (``http://`` only to this machine, or by the unsafe setting).
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as e:
        raise UsageError("not a URL", code="server_url", actual=url[:200]) from e
    plain = (
        parts.query or parts.fragment or parts.username or parts.password or any(c.isspace() or not c.isprintable() for c in url)
    )
    if parts.scheme not in {"http", "https"} or not host or plain:
        raise UsageError("not a server's URL", code="server_url", expected="https://HOST[:PORT][/PATH]", actual=url[:200])
    if parts.scheme == "http" and host not in _LOOPBACK and not unsafe_plain_http:
        raise UsageError(
            "plain http to another machine",
            code="server_url",
            expected="https://",
            actual=url[:200],
            hint="models are protected by their signatures, but the device's token is not; --unsafe-plain-http accepts that",
        )
    return url.rstrip("/")
