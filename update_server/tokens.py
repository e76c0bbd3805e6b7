"""Bearer tokens: 256 random bits, stored as SHA-256, each bound to exactly one subject.

A slow password hash would add nothing: the token is uniformly random, so its digest cannot be searched.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from device_client.trust.times import format_time, parse_time

LIFETIME = timedelta(days=365)
_TOKEN_BYTES = 32


class Kind(Enum):
    """What a token is for."""

    PUBLISHER = "publisher"
    DEVICE = "device"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Bearer:
    """Whom a token stands for; ``subject`` is a role, a device id, or empty for the operator."""

    kind: Kind
    subject: str
    expires: datetime | None

    def is_expired(self, now: datetime) -> bool:
        """Whether the token has ended."""
        return self.expires is not None and now >= self.expires


def issue_token(connection: sqlite3.Connection, *, kind: Kind, subject: str, expires: datetime | None) -> str:
    """A new token that replaces every earlier one of the same subject; the only moment at which its text exists here."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    connection.execute("DELETE FROM tokens WHERE kind = ? AND subject = ?", (kind.value, subject))
    connection.execute(
        "INSERT INTO tokens(sha256, kind, subject, expires) VALUES (?, ?, ?, ?)",
        (_hash(token), kind.value, subject, None if expires is None else format_time(expires)),
    )
    return token


def find_bearer(connection: sqlite3.Connection, token: str) -> Bearer | None:
    """Whom the token stands for, expired or not; None if it is unknown.

    The look-up goes by digest, so its timing tells an attacker about a digest and not about a token.
    """
    wanted = _hash(token)
    row = connection.execute("SELECT sha256, kind, subject, expires FROM tokens WHERE sha256 = ?", (wanted,)).fetchone()
    if row is None or not hmac.compare_digest(row["sha256"], wanted):
        return None
    expires = None if row["expires"] is None else parse_time(row["expires"], "tokens.expires")
    return Bearer(Kind(row["kind"]), row["subject"], expires)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
