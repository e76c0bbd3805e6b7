"""The ``[service]`` table of ``device.toml``: who may use the local inference service, and its bounds.

[service]
users = ["camera", 1001]     # who may run models; the owner always may
voters = ["camera"]          # who may vote on a new version
socket = "/run/sealift/inference.sock"
socket_mode = "0660"
group = "camera"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from device_client.bundle.fields import Fields
from device_client.errors import FormatError
from device_client.limits import MIB

_MAX_USERS = 64
_MODE = re.compile(r"0[0-7]{3}\Z")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?\Z")
_KEYS = (
    "users", "voters", "socket", "socket_mode", "group", "connections", "connections_per_user", "max_message_bytes",
    "deadline_ms", "load_timeout_s", "silence_s", "idle_minutes",
)  # fmt: skip


@dataclass(frozen=True)
class ServiceSettings:
    """Defaults: the owner of the device's folder alone, over a socket inside that folder.

    ``users``, ``voters``: names or numbers of users. ``socket``: absolute path, or None for ``run/inference.sock`` in the
    device's folder. ``deadline_ms``: longest time for one inference, waiting included. ``load_timeout_s``: longest time for a
    worker to load a model. ``silence_s``: how long a client may take for one message, and twice as long between two.
    ``idle_minutes``: an unused worker ends after that; 0 means never.
    """

    users: tuple[str | int, ...] = ()
    voters: tuple[str | int, ...] = ()
    socket: str | None = None
    socket_mode: int = 0o600
    group: str | None = None
    connections: int = 32
    connections_per_user: int = 16
    max_message_bytes: int = 64 * MIB
    deadline_ms: int = 10_000
    load_timeout_s: int = 120
    silence_s: int = 30
    idle_minutes: int = 10


def read_service_settings(fields: Fields) -> ServiceSettings:
    """Reads the table.

    Args:
        fields: the whole file; the table may be missing.

    Raises:
        FormatError: an unknown key or a wrong value.
    """
    if "service" not in fields:
        return ServiceSettings()
    table, default = fields.fields("service", known=_KEYS), ServiceSettings()

    def integer(key: str, otherwise: int, *, minimum: int, maximum: int) -> int:
        return table.integer(key, minimum=minimum, maximum=maximum) if key in table else otherwise

    return ServiceSettings(
        users=table.items("users", _user, max_items=_MAX_USERS) if "users" in table else (),
        voters=table.items("voters", _user, max_items=_MAX_USERS) if "voters" in table else (),
        socket=_path(table) if "socket" in table else None,
        socket_mode=_mode(table) if "socket_mode" in table else default.socket_mode,
        group=table.text("group", max_chars=32) if "group" in table else None,
        connections=integer("connections", default.connections, minimum=1, maximum=256),
        connections_per_user=integer("connections_per_user", default.connections_per_user, minimum=1, maximum=256),
        max_message_bytes=integer("max_message_bytes", default.max_message_bytes, minimum=4096, maximum=1024 * MIB),
        deadline_ms=integer("deadline_ms", default.deadline_ms, minimum=1, maximum=600_000),
        load_timeout_s=integer("load_timeout_s", default.load_timeout_s, minimum=1, maximum=3600),
        silence_s=integer("silence_s", default.silence_s, minimum=1, maximum=3600),
        idle_minutes=integer("idle_minutes", default.idle_minutes, minimum=0, maximum=7 * 24 * 60),
    )


def _user(value: object, where: str) -> str | int:
    if type(value) is int and 0 <= value < 2**32 - 1:
        return value
    if isinstance(value, str) and _USER.match(value):
        return value
    raise FormatError("not a user", code="field_value", where=where, expected="a user's name or number", actual=ascii(value)[:60])


def _path(table: Fields) -> str:
    path = table.text("socket", max_chars=100)  # the kernel takes 107 bytes
    if not path.startswith("/") or not path.isprintable() or not path.isascii():
        raise FormatError("not an absolute path", code="field_value", where=f"{table.where}.socket", actual=ascii(path)[:100])
    return path


def _mode(table: Fields) -> int:
    text = table.text("socket_mode", max_chars=8)
    if not _MODE.match(text) or int(text, 8) & 0o111:
        raise FormatError(
            "not the mode of a socket",
            code="field_value",
            where=f"{table.where}.socket_mode",
            expected='such as "0660"',
            actual=text,
        )
    return int(text, 8)
