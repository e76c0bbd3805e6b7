"""Writes root, targets and delegated roles: what is signed offline. Snapshot and timestamp are the server's alone.

Pure functions on python-tuf's metadata objects; files are `staging`'s business. Needs the base install only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Signed, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from device_client.errors import TrustError, UsageError
from device_client.trust.keys import public_value
from device_client.trust.refs import BlobRef
from device_client.trust.rules import LIFETIME_CAPS, delegation_for, expected_pattern, issued_at
from device_client.trust.times import format_time
from packager.roles import RoleKeys, Roles

MAX_CLOCK_DIFFERENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Signatures:
    """Who signed a role and who could still; names are key ids."""

    signed: tuple[str, ...]
    missing: tuple[str, ...]
    threshold: int

    @property
    def needed(self) -> int:
        """Signatures still to come; 0 when the threshold is met."""
        return max(0, self.threshold - len(self.signed))


def to_bytes(metadata: Metadata[Any]) -> bytes:
    """The file form of a role."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def new_root(roles: Roles, *, now: datetime) -> Metadata[Root]:
    """Version 1 of root, unsigned."""
    root = Root(version=1, expires=now + roles.root.lifetime, consistent_snapshot=True)
    for name in ("root", "targets", "snapshot", "timestamp"):
        role: RoleKeys = getattr(roles, name)
        for key in role.keys:
            root.add_key(key, name)
        root.roles[name].threshold = role.threshold
    _stamp(root, now)
    return Metadata(root)


def new_targets(roles: Roles, *, now: datetime) -> Metadata[Targets]:
    """Version 1 of top-level targets, unsigned: it delegates to every line's two roles and lists no target."""
    keys = {key.keyid: key for role in roles.delegated.values() for key in role.keys}
    delegated = {
        name: DelegatedRole(
            name, [key.keyid for key in role.keys], role.threshold, terminating=True, paths=[expected_pattern(name)]
        )
        for name, role in roles.delegated.items()
    }
    targets = Targets(version=1, expires=now + roles.targets.lifetime, delegations=Delegations(keys, delegated))
    _stamp(targets, now)
    return Metadata(targets)


def next_delegated(
    current: Metadata[Targets] | None, role: str, *, entries: Mapping[str, tuple[BlobRef, dict[str, object] | None]], now: datetime
) -> Metadata[Targets]:
    """The next version of a delegated role, unsigned: the published one with ``entries`` added or replaced.

    Args:
        current: the published version, or None before the first.
        role: ``release-<line>`` or ``audit-<line>``.
        entries: target path to the blob it names and its custom record (None for a channel document).
        now: issue time.
    """
    targets = Targets(version=1) if current is None else copy.deepcopy(current.signed)
    targets.version = 1 if current is None else current.signed.version + 1
    targets.expires = now + LIFETIME_CAPS[role.partition("-")[0]]
    for path, (ref, custom) in entries.items():
        extra = {} if custom is None else {"custom": custom}
        targets.targets[path] = TargetFile(ref.length, {"sha256": ref.digest.hex}, path, extra)
    _stamp(targets, now)
    return Metadata(targets)


def add_signature(metadata: Metadata[Any], *, signer: Signer, role_keys: list[Key], role: str, now: datetime) -> None:
    """Adds one signature over the unchanged payload.

    Raises:
        UsageError: the key is not one of the role's.
        TrustError: ``issued_clock`` when the prepared version's issue time is more than 10 minutes from this clock.
    """
    if public_value(signer.public_key) not in {public_value(key) for key in role_keys}:
        raise UsageError(
            "this key may not sign the role",
            code="key_not_in_role",
            where=role,
            actual=signer.public_key.keyid,
            hint="`sealift keys show --repo` lists the keys of each role",
        )
    issued = issued_at(metadata.signed, where=role)
    if abs(now - issued) > MAX_CLOCK_DIFFERENCE:
        raise TrustError(
            "the prepared version was not issued just now",
            code="issued_clock",
            where=role,
            expected=f"within {MAX_CLOCK_DIFFERENCE.seconds // 60} minutes of {format_time(now)}",
            actual=format_time(issued),
            hint="check both clocks, or prepare the version again with --replace",
        )
    metadata.sign(signer, append=True)


def role_keys(role: str, *, root: Metadata[Root], targets: Metadata[Targets] | None) -> tuple[list[Key], int]:
    """The keys and threshold of any offline role.

    Raises:
        UsageError: an online role; only the server signs those.
        TrustError: ``role_unknown``.
    """
    if role in {"snapshot", "timestamp"}:
        raise UsageError("only the server signs this role", code="role_online", where=role)
    delegation: Role
    if role in {"root", "targets"}:
        delegation = root.signed.get_delegated_role(role)
        return [root.signed.get_key(keyid) for keyid in delegation.keyids], delegation.threshold
    if targets is None:
        raise TrustError(
            "no such delegated role", code="role_unknown", where=role, hint="hold the ceremony first: `sealift keys init`"
        )
    delegation = delegation_for(targets.signed, role)
    return [targets.signed.get_key(keyid) for keyid in delegation.keyids], delegation.threshold


def signatures_of(metadata: Metadata[Any], *, keys: list[Key], threshold: int) -> Signatures:
    """Which of ``keys`` have validly signed, each key value counted once."""
    signed: dict[bytes, str] = {}
    for key in keys:
        signature = metadata.signatures.get(key.keyid)
        if signature is not None and _verifies(key, metadata, signature.keyid):
            signed.setdefault(public_value(key), key.keyid)
    missing = tuple(key.keyid for key in keys if public_value(key) not in signed)
    return Signatures(tuple(signed.values()), missing, threshold)


def signatures_on_next_root(metadata: Metadata[Root], *, before: tuple[list[Key], int], own: tuple[list[Key], int]) -> Signatures:
    """Who signed a root that follows another: it needs the threshold of the root before and its own (TUF 5.3.4).

    ``threshold`` is what is signed already and the fewest signatures that would complete it.
    """
    states = [signatures_of(metadata, keys=keys, threshold=threshold) for keys, threshold in (before, own)]
    keys = {key.keyid: key for key in (*before[0], *own[0])}
    signed = signatures_of(metadata, keys=list(keys.values()), threshold=0).signed
    missing = tuple(dict.fromkeys(keyid for state in states if state.needed for keyid in state.missing))
    needs = [state.needed for state in states]
    in_both = len(set(states[0].missing) & set(states[1].missing))  # one signature that counts twice
    return Signatures(signed, missing, len(signed) + sum(needs) - min(in_both, *needs))


def _verifies(key: Key, metadata: Metadata[Any], keyid: str) -> bool:
    try:
        key.verify_signature(metadata.signatures[keyid], metadata.signed_bytes)
    except UnverifiedSignatureError:
        return False
    return True


def _stamp(signed: Signed, now: datetime) -> None:
    signed.unrecognized_fields["issued"] = format_time(now)
