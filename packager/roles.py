"""Reads ``roles.toml``: who may sign what, with which threshold and lifetime. Public keys only.

schema = 1
[root]
keys = ["root-a.pub", "root-b.pub"]     # paths beside this file
threshold = 2
[targets]   [snapshot]   [timestamp]    # likewise
[lines.digits.release]                  # one pair for each product line
[lines.digits.audit]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from securesystemslib.signer import Key

from device_client.bundle.path import check_name
from device_client.errors import SealiftError, UsageError
from device_client.trust.keys import load_public_key
from device_client.trust.rules import LIFETIME_CAPS, check_keys_unique

_TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
_LINE_ROLES = ("release", "audit")
_EXAMPLE = "keys/roles.toml of the source is an example"
# Half of the cap: long enough to plan a renewal, short enough to limit a freeze (DESIGN 4).
_DEFAULT_DAYS = {kind: cap.days for kind, cap in LIFETIME_CAPS.items()} | {"root": 365, "targets": 180}


@dataclass(frozen=True)
class RoleKeys:
    """Keys that may sign a role, how many must, and how long a version of the role lives."""

    keys: tuple[Key, ...]
    threshold: int
    lifetime: timedelta


@dataclass(frozen=True)
class Roles:
    """The content of ``roles.toml``; ``delegated`` is keyed by role name (``release-digits``)."""

    root: RoleKeys
    targets: RoleKeys
    snapshot: RoleKeys
    timestamp: RoleKeys
    delegated: dict[str, RoleKeys]


def load_roles(path: Path) -> Roles:
    """Reads and checks a roles file.

    Raises:
        UsageError: not TOML, a missing or unknown table or key, a threshold that cannot be met, a line without both
            roles, a key that stands in two places, a lifetime above its cap.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise UsageError(
            "cannot read the roles file", code="file_missing", where=str(path), actual=e.strerror, hint=_EXAMPLE
        ) from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"cannot read the roles file: {e}"[:200], code="roles_syntax", where=str(path), hint=_EXAMPLE) from e
    unknown = sorted(set(table) - {"schema", "lines", *_TOP_LEVEL})
    if unknown or table.get("schema") != 1:
        raise _wrong(path, "schema = 1 and the tables root, targets, snapshot, timestamp, lines", unknown or "another schema")
    delegated: dict[str, RoleKeys] = {}
    for line, pair in _table(table, "lines", path).items():
        check_name(line, what="line", where=str(path))
        if not isinstance(pair, dict) or set(pair) != set(_LINE_ROLES):
            raise _wrong(path, f"lines.{line}.release and lines.{line}.audit", pair)
        for kind in _LINE_ROLES:
            delegated[f"{kind}-{line}"] = _read_role(pair[kind], kind=kind, where=f"lines.{line}.{kind}", path=path)
    roles = Roles(
        **{kind: _read_role(_table(table, kind, path), kind=kind, where=kind, path=path) for kind in _TOP_LEVEL},
        delegated=delegated,
    )
    _check_separation(roles, path)
    return roles


def _check_separation(roles: Roles, path: Path) -> None:
    online = {key.keyid: key for key in (*roles.snapshot.keys, *roles.timestamp.keys)}
    places: list[tuple[str, tuple[Key, ...]]] = [
        ("root", roles.root.keys),
        ("targets", roles.targets.keys),
        ("snapshot and timestamp", tuple(online.values())),
        *((name, role.keys) for name, role in roles.delegated.items()),
    ]
    try:
        check_keys_unique(places)
    except SealiftError as e:
        raise UsageError(str(e), code="roles_share_keys", where=str(path), hint="give every role keys of its own") from e


def _read_role(table: object, *, kind: str, where: str, path: Path) -> RoleKeys:
    if not isinstance(table, dict) or not {"keys"} <= set(table) <= {"keys", "threshold", "expires_days"}:
        raise _wrong(path, f"{where}: keys, and optionally threshold and expires_days", table)
    names = table["keys"]
    threshold = table.get("threshold", 2 if kind in _LINE_ROLES else 1)
    days = table.get("expires_days", _DEFAULT_DAYS.get(kind, 7))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(path, f"{where}.keys: a list of file names", names)
    if type(threshold) is not int or not 1 <= threshold <= len(names):
        raise _wrong(path, f"{where}.threshold between 1 and {len(names)}", threshold)
    cap = LIFETIME_CAPS.get(kind, timedelta(days=30)).days
    if type(days) is not int or not 1 <= days <= cap:
        raise _wrong(path, f"{where}.expires_days between 1 and {cap}", days)
    return RoleKeys(tuple(load_public_key(path.parent / name) for name in names), threshold, timedelta(days=days))


def _table(table: dict[str, object], key: str, path: Path) -> dict[str, object]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise _wrong(path, f"a table [{key}]", value)
    return value


def _wrong(path: Path, expected: str, actual: object) -> UsageError:
    return UsageError(
        "wrong roles file", code="roles_syntax", where=str(path), expected=expected, actual=repr(actual)[:120], hint=_EXAMPLE
    )
