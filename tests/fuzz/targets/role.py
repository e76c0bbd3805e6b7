"""TUF roles: ``parse_role`` on the bytes as they are, and the rules behind it on the same ``signed`` part under good signatures.

Signing here, rather than in the mutator, lets every input reach what its holder of keys could reach.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from securesystemslib.formats import encode_canonical
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from device_client.bundle.fields import Fields
from device_client.trust.custom import parse_audit_custom, parse_release_custom
from device_client.trust.foreign_errors import mapped_errors
from device_client.trust.rules import (
    check_lifetime,
    check_root_keys,
    check_separation,
    check_top_level,
    epoch_of,
    issued_at,
    keys_of,
    parse_role,
    verify_delegated,
)
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.roles import AUDIT, NOW, PATH, RELEASE, role_bytes, roles, sealed, with_bins
from tests.fuzz.target import accepted, promise

MAX_BYTES = 16_384
WORDS = (
    b'"signed"', b'"signatures"', b'"keyid"', b'"sig"', b'"_type"', b'"version"', b'"spec_version"', b'"1.0.31"', b'"expires"',
    b'"issued"', b'"keys"', b'"roles"', b'"keyids"', b'"threshold"', b'"consistent_snapshot"', b'"meta"', b'"snapshot.json"',
    b'"targets.json"', b'"length"', b'"hashes"', b'"sha256"', b'"targets"', b'"delegations"', b'"paths"', b'"path_hash_prefixes"',
    b'"terminating"', b'"succinct_roles"', b'"bit_length"', b'"name_prefix"', b'"custom"', b'"epochs"', b'"keytype"', b'"scheme"',
    b'"keyval"', b'"public"', b'"ed25519"', b'"ecdsa"', b'"rsa"', b'"ml-dsa"', b"2026-06-01T12:00:00Z", b"root", b"timestamp",
    RELEASE.encode(), AUDIT.encode(), PATH.release_target.encode(), PATH.audit_target.encode(),
)  # fmt: skip
_OWN = {RELEASE: "release/digits/", AUDIT: "audit/digits/"}


def fuzz_one(data: bytes) -> None:
    """See the module."""
    metadata = accepted(lambda: parse_role(data, where="fuzz"))
    if metadata is None:
        return
    value = json.loads(data)["signed"]
    _check_form(metadata, value)
    _rules(metadata.signed)
    for role in (RELEASE, AUDIT) if isinstance(metadata.signed, Targets) else ():
        _delegated(value, role)
    if type(metadata.signed) in _LOAD:
        name, load = _LOAD[type(metadata.signed)]
        file = sealed(value, name)
        if file is not None:
            accepted(lambda: _mapped(lambda: load(_trusted_root(), file)))


def _check_form(metadata: Metadata[Any], value: object) -> None:
    """python-tuf checks signatures over its own form of what it read: that must be the form of what the file says."""
    if metadata.signed.expires.year < 1000:  # written without its zeros, so that no signature of anybody fits it
        return
    signed_bytes = accepted(lambda: _mapped(lambda: metadata.signed_bytes))
    if signed_bytes is None:  # a fraction, which has no canonical form
        return
    promise(signed_bytes == encode_canonical(value).encode(), "signatures are checked over something else than the file says")
    again = metadata.to_bytes(JSONSerializer(compact=True))
    promise(parse_role(again, where="again").signed == metadata.signed, "written back, it is another role")


def _rules(signed: Signed) -> None:
    """Every rule on the role alone; each may refuse, none may fail."""
    for rule in _RULES.get(type(signed), ()):
        accepted(lambda: _mapped(lambda: rule(signed)))  # noqa: B023 - called at once
    accepted(lambda: issued_at(signed, where="fuzz"))
    accepted(lambda: check_lifetime(signed, role=RELEASE))
    accepted(lambda: check_top_level(signed.type, signed))


def _delegated(value: object, role: str) -> None:
    file = sealed(value, role)
    if file is None:
        return
    targets = roles()["targets"]
    assert isinstance(targets, Targets)
    verified = accepted(lambda: _mapped(lambda: verify_delegated(targets, role, file, now=NOW)))
    if verified is None:
        return
    promise(all(path.startswith(_OWN[role]) for path in verified.signed.targets), "a path of another role")
    promise(verified.signed.expires > NOW, "expired")
    delegations = verified.signed.delegations
    promise(delegations is None or not delegations.roles, "a role that delegates further")
    for entry in verified.signed.targets.values():
        for parse in (parse_release_custom, parse_audit_custom):
            accepted(lambda: parse(Fields(entry.unrecognized_fields, where="entry").raw("custom"), "custom"))  # noqa: B023


def _mapped(call: Callable[[], Any]) -> Any:
    with mapped_errors("fuzz"):
        return call()


def _trusted_root() -> TrustedMetadataSet:
    trusted = TrustedMetadataSet(role_bytes("root"), EnvelopeType.METADATA)
    trusted.reference_time = NOW
    return trusted


def _load_snapshot(trusted: TrustedMetadataSet, file: bytes) -> None:
    trusted.update_timestamp(role_bytes("timestamp"))
    trusted.update_snapshot(file)


def _load_targets(trusted: TrustedMetadataSet, file: bytes) -> None:
    _load_snapshot(trusted, role_bytes("snapshot"))
    trusted.update_targets(file)
    for role in (RELEASE, AUDIT):
        trusted.update_delegated_targets(role_bytes(role), role, "targets")


_LOAD: dict[type, tuple[str, Callable[[TrustedMetadataSet, bytes], object]]] = {
    Root: ("root", lambda trusted, file: trusted.update_root(file)),
    Timestamp: ("timestamp", lambda trusted, file: trusted.update_timestamp(file)),
    Snapshot: ("snapshot", _load_snapshot),
    Targets: ("targets", _load_targets),
}
_RULES: dict[type, tuple[Callable[[Any], object], ...]] = {
    Root: (check_root_keys, lambda root: check_separation(root, roles()["targets"], PATH.of_model)),  # type: ignore[arg-type]
    Targets: (
        lambda targets: keys_of(targets, RELEASE),
        lambda targets: check_separation(roles()["root"], targets, PATH.of_model),  # type: ignore[arg-type]
        lambda targets: epoch_of(targets, PATH.of_model),
    ),
}


def seeds() -> Iterator[bytes]:
    """Every role of the fixed repository, its next version, and a role with bins."""
    for role, signed in roles().items():
        yield role_bytes(role)
        later = copy.deepcopy(signed)
        later.version = 2
        yield Metadata(later).to_bytes(JSONSerializer(compact=True))
    yield Metadata(with_bins()).to_bytes(JSONSerializer(compact=True))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """JSON changes."""
    return mutate_json(data, rng)
