"""Drafts: a role's next version while it collects signatures.

A draft holds valid signatures by keys of the role only, and grows: whoever sends one sends at least what is there,
so two co-signers at the same moment cannot drop each other's signature.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Targets

from device_client.errors import FormatError, TrustError
from device_client.trust.keys import public_value
from device_client.trust.rules import delegation_for, keys_of, parse_role
from update_server.problem import ApiError


@dataclass(frozen=True)
class Draft:
    """A prepared version with the keys that signed it. Made by ``verify_draft``."""

    role: str
    version: int
    data: bytes
    keyids: tuple[str, ...]
    threshold: int

    @property
    def missing(self) -> int:
        """Signatures still to come."""
        return max(0, self.threshold - len(self.keyids))


def verify_draft(data: bytes, *, role: str, targets: Targets, published: int) -> Draft:
    """Returns a draft that may be kept: right version, and every signature is valid and by a key of the role.

    The threshold and what the role lists are checked when it is published.

    Raises:
        FormatError, LimitError: not targets metadata.
        TrustError: ``role_unknown``, ``signature_invalid``.
        ApiError: ``draft_version``.
    """
    metadata = parse_role(data, where=role)
    if not isinstance(metadata.signed, Targets):
        raise FormatError("not a targets role", code="metadata_syntax", where=role, actual=metadata.signed.type)
    if metadata.signed.version != published + 1:
        raise ApiError(
            "not the next version of the role",
            status=422,
            code="draft_version",
            where=role,
            expected=published + 1,
            actual=metadata.signed.version,
            hint="prepare it again from what is published",
        )
    keys = {key.keyid: key for key in keys_of(targets, role)}
    signed = {public_value(_check_signature(metadata, keyid, keys, role)): keyid for keyid in metadata.signatures}
    if not signed:
        raise _invalid(role, "no signature")
    return Draft(role, metadata.signed.version, data, tuple(sorted(signed.values())), delegation_for(targets, role).threshold)


def load_draft(connection: sqlite3.Connection, role: str, *, published: int) -> bytes | None:
    """The prepared next version; None if there is none, or if it was published meanwhile."""
    row = connection.execute("SELECT version, bytes FROM drafts WHERE role = ?", (role,)).fetchone()
    return None if row is None or row["version"] <= published else bytes(row["bytes"])


def store_draft(connection: sqlite3.Connection, draft: Draft, *, published: int, replace: bool) -> bool:
    """Stores the draft; returns whether there was none before.

    Raises:
        ApiError: 409 ``draft_conflict``.
    """
    before = load_draft(connection, draft.role, published=published)
    if before is not None and before != draft.data and not replace:
        _check_grows(before, draft)
    connection.execute("INSERT OR REPLACE INTO drafts VALUES (?, ?, ?)", (draft.role, draft.version, draft.data))
    return before is None


def drop_draft(connection: sqlite3.Connection, role: str, *, version: int) -> None:
    """Forgets a draft that was published."""
    connection.execute("DELETE FROM drafts WHERE role = ? AND version <= ?", (role, version))


def _check_grows(before: bytes, draft: Draft) -> None:
    old, new = parse_role(before, where=draft.role), parse_role(draft.data, where=draft.role)
    if old.signed_bytes != new.signed_bytes or not set(old.signatures) <= set(new.signatures):
        raise ApiError(
            "another draft of this version is there",
            status=409,
            code="draft_conflict",
            where=draft.role,
            hint="read the draft and add the signature to it, or replace it",
        )


def _check_signature(metadata: Metadata[Targets], keyid: str, keys: dict[str, Key], role: str) -> Key:
    key = keys.get(keyid)
    if key is None:
        raise _invalid(role, f"signed by {keyid[:16]}, which is not a key of the role")
    try:
        key.verify_signature(metadata.signatures[keyid], metadata.signed_bytes)
    except UnverifiedSignatureError as e:
        raise _invalid(role, f"the signature by {keyid[:16]} is wrong") from e
    return key


def _invalid(role: str, reason: str) -> TrustError:
    return TrustError(
        f"the draft cannot be kept: {reason}",
        code="signature_invalid",
        where=role,
        hint="sign with a key of the role; see `keys show`",
    )
