"""Rules on TUF roles that devices, publishers and the server all apply, each a small pure function.

Which role may list which path, how a delegated role is verified, which times a role must carry. Works on python-tuf's
metadata objects; does no IO.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.exceptions import FormatError as SslibFormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.keys import public_value
from device_client.trust.times import format_time, parse_time

# An offline role that lives longer gives a thief of the online keys longer to freeze devices (DESIGN 4).
LIFETIME_CAPS = {
    "root": timedelta(days=400),
    "targets": timedelta(days=180),
    "release": timedelta(days=90),
    "audit": timedelta(days=30),
}
STRONG_HASHES = frozenset({"sha256", "sha512"})
ONLINE_ROLES = ("snapshot", "timestamp")
_OWN_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}\.json\Z")  # MODEL/VERSION.json, as in bundle/path.py


def parse_role(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> Metadata[Any]:
    """Reads role bytes strictly before python-tuf does, without checking any signature.

    Raises:
        FormatError, LimitError: not strict JSON, or not TUF metadata.
    """
    value = read_role(data, where=where, limits=limits)
    try:
        metadata = Metadata.from_bytes(data)
        is_whole = metadata.signed_bytes == signed_form(value)
    except (DeserializationError, RepositoryError, ValueError) as e:
        check_keys_known(value, where=where)
        raise FormatError(f"not TUF metadata: {e}"[:200], code="metadata_syntax", where=where) from e
    if not is_whole:
        raise FormatError("python-tuf reads it as something else than it says", code="metadata_syntax", where=where)
    return metadata


def signed_form(value: object) -> bytes:
    """The canonical form of a role's ``signed`` part as the file has it: what its keys signed.

    Not python-tuf's ``signed_bytes``: that is the form of what it understood, and it takes a date in another spelling and drops
    what it does not know in a timestamp's ``meta``, so that anyone on the way could write there.

    Raises:
        DeserializationError: no ``signed`` part, or one without a canonical form.
    """
    try:
        form = encode_canonical(value["signed"])  # type: ignore[index]
    except (KeyError, TypeError, SslibFormatError) as e:
        raise DeserializationError("no signed part in canonical form") from e
    return str(form).encode()


def read_role(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> object:
    """Role bytes as strict JSON: python-tuf's reader takes the last of two equal keys, and NaN.

    Raises:
        FormatError, LimitError: two readers could take it differently, or it is beyond its bound.
    """
    return parse_strict(data, max_bytes=limits.max_targets_bytes, where=where, limits=limits)


def check_keys_known(value: object, *, where: str) -> None:
    """Says so when a role cannot be read because this client is too old for a key in it (K12).

    Raises:
        FormatError: ``key_type``.
    """
    signed = value.get("signed") if isinstance(value, dict) else None
    delegations = signed.get("delegations") if isinstance(signed, dict) else None
    for holder in (signed, delegations):
        keys = holder.get("keys") if isinstance(holder, dict) else None
        for key in keys.values() if isinstance(keys, dict) else ():
            kind = (key.get("keytype"), key.get("scheme")) if isinstance(key, dict) else None
            if kind is not None and all(isinstance(part, str) for part in kind) and kind not in KEY_FOR_TYPE_AND_SCHEME:
                raise FormatError(
                    "a key type this client does not know",
                    code="key_type",
                    where=where,
                    actual=ascii(f"{kind[0]}/{kind[1]}")[:80],
                    hint="this client is too old: update it; what it knows and runs is unchanged",
                )


def check_form(signed: Signed, *, where: str) -> None:
    """What python-tuf lets pass: ``true`` for a number, and files named by hashes that can be forged.

    Raises:
        FormatError: ``metadata_syntax``.
        TrustError: ``hash_weak``.
    """
    numbers: list[object] = [signed.version]
    if isinstance(signed, Root):
        numbers += [role.threshold for role in signed.roles.values()]
    if isinstance(signed, Targets):
        numbers += [entry.length for entry in signed.targets.values()]
        numbers += _numbers_of(signed.delegations)
    metas = [signed.snapshot_meta] if isinstance(signed, Timestamp) else []
    metas += signed.meta.values() if isinstance(signed, Snapshot) else []
    for meta in metas:
        numbers += [meta.version, meta.length]
        check_hashes(meta.hashes or {}, where=where)
    if any(type(number) is bool for number in numbers):
        raise FormatError("a truth value in place of a number", code="metadata_syntax", where=where)


def _numbers_of(delegations: Delegations | None) -> list[object]:
    if delegations is None:
        return []
    if delegations.succinct_roles is not None:
        return [delegations.succinct_roles.threshold, delegations.succinct_roles.bit_length]
    return [role.threshold for role in (delegations.roles or {}).values()]


def check_hashes(hashes: Mapping[str, str], *, where: str) -> None:
    """Where hashes name a file, one of them is such that nobody can make a second file of it; python-tuf checks them all.

    Raises:
        TrustError: ``hash_weak``.
    """
    if hashes and not STRONG_HASHES & set(hashes):
        raise TrustError(
            "named by weak hashes only",
            code="hash_weak",
            where=where,
            expected=" or ".join(sorted(STRONG_HASHES)),
            actual=ascii(", ".join(sorted(hashes)))[:80],
        )


def issued_at(signed: Signed, *, where: str) -> datetime:
    """When the role was signed, from its own ``issued`` field.

    Raises:
        TrustError: ``issued_missing``, or ``issued_order`` when it is not before ``expires``.
    """
    value = signed.unrecognized_fields.get("issued")
    if value is None:
        raise TrustError("the role does not say when it was issued", code="issued_missing", where=where)
    issued = parse_time(value, f"{where}.issued")
    if not issued < signed.expires:
        raise TrustError("the role expires before it was issued", code="issued_order", where=where)
    return issued


def check_top_level(role: str, signed: Signed) -> None:
    """What Sealift asks of a top-level role beyond TUF: honest times.

    Targets must say when it was issued; root, snapshot and timestamp may leave it out, and then set no floor for trusted time.

    Raises:
        TrustError, FormatError: what ``check_lifetime`` and ``issued_at`` raise.
    """
    if role == "targets" or "issued" in signed.unrecognized_fields:
        check_lifetime(signed, role=role)


def check_lifetime(signed: Signed, *, role: str) -> None:
    """Refuses an offline role whose ``expires - issued`` exceeds the cap of its kind; never looks at a clock.

    Raises:
        TrustError: ``expiry_over_cap``, and what ``issued_at`` raises.
    """
    lifetime = signed.expires - issued_at(signed, where=role)
    cap = LIFETIME_CAPS.get(role.partition("-")[0])
    if cap is not None and lifetime > cap:
        raise TrustError(
            "the role lives longer than its cap",
            code="expiry_over_cap",
            where=role,
            expected=f"at most {cap.days} days",
            actual=f"{lifetime.days} days",
        )


def delegation_for(targets: Targets, role: str) -> DelegatedRole:
    """The delegation of top-level targets to ``role``.

    Raises:
        TrustError: ``role_unknown``.
    """
    found = None if targets.delegations is None or targets.delegations.roles is None else targets.delegations.roles.get(role)
    if found is None:
        raise TrustError("no such delegated role", code="role_unknown", where=role, hint="`sealift keys show` lists the roles")
    return found


def expected_pattern(role: str) -> str:
    """The one path pattern that a delegated role of Sealift may have: ``release/<line>/*/*`` or ``audit/<line>/*/*``.

    Raises:
        TrustError: ``role_unknown`` for a name of neither kind.
    """
    kind, _, line = role.partition("-")
    if kind not in {"release", "audit"} or not line:
        raise TrustError("not a release or audit role", code="role_unknown", where=role)
    return f"{kind}/{line}/*/*"


def keys_of(targets: Targets, role: str) -> list[Key]:
    """The public keys that may sign a delegated role.

    Raises:
        TrustError: ``role_unknown``, or ``metadata_invalid`` when targets names a key that it does not hold.
    """
    return keys_named(targets, delegation_for(targets, role), where=role)


def keys_of_top_level(root: Root, role: str) -> list[Key]:
    """The public keys that may sign a top-level role.

    Raises:
        TrustError: ``metadata_invalid`` when root names a key that it does not hold.
    """
    return keys_named(root, root.get_delegated_role(role), where=role)


def keys_named(delegator: Root | Targets, role: Role, *, where: str) -> list[Key]:
    """The public keys that ``delegator`` names for ``role``.

    Raises:
        TrustError: ``metadata_invalid`` when it names one that it does not hold.
    """
    try:
        return [delegator.get_key(keyid) for keyid in role.keyids]
    except ValueError as e:
        raise TrustError("the delegation names a key that is not there", code="metadata_invalid", where=where) from e


def check_keys_unique(roles: Iterable[tuple[str, Iterable[Key]]]) -> None:
    """Refuses one key in two roles, or under two ids in one role, compared by decoded value.

    Raises:
        TrustError: ``roles_share_keys``.
    """
    owners: dict[bytes, str] = {}
    for role, keys in roles:
        for key in keys:
            value = public_value(key)
            if value in owners:
                where = f"{owners[value]} and {role}"
                raise TrustError("one key stands in two places", code="roles_share_keys", where=where, actual=key.keyid)
            owners[value] = role


def check_root_keys(root: Root) -> None:
    """No role of root has one key under two ids, which would count twice towards its threshold (K11).

    Raises:
        TrustError: ``roles_share_keys``.
        FormatError: ``key_type``, a key that cannot be decoded.
    """
    for role in root.roles:
        check_keys_unique([(role, keys_of_top_level(root, role))])


def check_separation(root: Root, targets: Targets, model: ModelPath) -> None:
    """Release, audit and the online roles have no key in common.

    Raises:
        TrustError: ``roles_share_keys``.
    """
    release, audit = model.release_role, model.audit_role
    online = {key.keyid: key for role in ONLINE_ROLES for key in keys_of_top_level(root, role)}
    check_keys_unique(
        [
            (release, keys_of(targets, release)),
            (audit, keys_of(targets, audit)),
            ("online", list(online.values())),
        ]
    )


def verify_delegated(
    targets: Targets, role: str, data: bytes, *, now: datetime, limits: Limits = DEFAULT_LIMITS
) -> Metadata[Targets]:
    """Verifies a delegated role's bytes as a device would: used by `sign` and by the server before publishing.

    Checks, in order: (1) syntax, (2) the delegation and its pattern, (3) signatures to the threshold, (4) keys counted
    once, (5) times, (6) only paths of its own pattern, no further delegation.

    Raises:
        FormatError, LimitError, TrustError: with the code of the rule.
    """
    metadata = parse_role(data, where=role, limits=limits)
    if not isinstance(metadata.signed, Targets):
        raise FormatError("not a targets role", code="metadata_syntax", where=role, actual=metadata.signed.type)
    delegation = delegation_for(targets, role)
    pattern = expected_pattern(role)
    if delegation.paths != [pattern] or not delegation.terminating:
        raise TrustError(
            "the delegation is not of the agreed form",
            code="delegation_ambiguous",
            where=role,
            expected=pattern,
            actual=delegation.paths,
        )
    check_keys_unique([(role, keys_of(targets, role))])
    try:
        targets.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as e:
        raise TrustError(
            "the role's signatures do not meet its threshold",
            code="signature_threshold",
            where=role,
            expected=f"{delegation.threshold} signatures",
        ) from e
    check_lifetime(metadata.signed, role=role)
    if metadata.signed.is_expired(now):
        raise TrustError("the role has expired", code="metadata_expired", where=role, actual=format_time(metadata.signed.expires))
    check_contents(metadata.signed, delegation)
    return metadata


def check_contents(signed: Targets, delegation: DelegatedRole) -> None:
    """A delegated role lists only well-formed paths of its pattern and delegates to nobody.

    Raises:
        TrustError: ``path_outside_role`` or ``delegation_nested``.
    """
    if signed.delegations is not None:
        raise TrustError("a delegated role delegates further", code="delegation_nested", where=delegation.name)
    check_paths(signed, delegation)


def check_paths(signed: Targets, delegation: DelegatedRole) -> None:
    """Every path is ``<kind>/<line>/<model>/<name>.json`` of the role's own line: what no file system or URL reads otherwise.

    Raises:
        TrustError: ``path_outside_role``.
    """
    own = expected_pattern(delegation.name).removesuffix("*/*")
    for path in signed.targets:
        if not path.startswith(own) or not _OWN_PATH.match(path, len(own)) or ".." in path:
            raise TrustError(
                "the role lists a path that is not its own",
                code="path_outside_role",
                where=delegation.name,
                expected=f"{own}MODEL/VERSION.json",
                actual=ascii(path)[:200],
            )


def epoch_of(targets: Targets, model: ModelPath) -> int:
    """The epoch that top-level targets sets for a model; 0 where it says nothing (DESIGN 3).

    Raises:
        FormatError: ``epochs`` is not a map of small integers.
    """
    if "epochs" not in targets.unrecognized_fields:
        return 0
    epochs = Fields(targets.unrecognized_fields["epochs"], where="targets.epochs")
    return epochs.integer(str(model), maximum=2**31 - 1) if str(model) in epochs else 0
