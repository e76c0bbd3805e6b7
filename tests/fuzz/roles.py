"""A small fixed repository: every role signed by ``fixed_keys``, the same bytes in every run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from securesystemslib.exceptions import FormatError as SslibFormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from device_client.bundle.counter import Counter
from device_client.bundle.path import BundlePath
from device_client.bundle.strict_json import canonical_json
from device_client.trust.custom import ReleaseCustom, Rollout
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time
from tests.fuzz.fixed_keys import signer
from tests.fuzz.targets.custom import audit_record

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PATH = BundlePath("digits", "ocr", "1.0.0")
RELEASE, AUDIT = PATH.of_model.release_role, PATH.of_model.audit_role
DAYS = {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1, RELEASE: 60, AUDIT: 30}
MANIFEST = b"manifest"


def signers(role: str) -> list[CryptoSigner]:
    """Two people for root, release and audit; one key for the others."""
    return [signer(f"{role} {number}") for number in range(2 if role in {"root", RELEASE, AUDIT} else 1)]


@cache
def roles() -> dict[str, Signed]:
    """Every role of the repository, unsigned. Not to be changed: ``copy.deepcopy`` it."""
    root = Root(version=1, consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        for each in signers(role):
            root.add_key(each.public_key, role)
        root.roles[role].threshold = len(signers(role))
    release = Targets(version=1)
    record = ReleaseCustom(Counter(0, 7), Counter(0, 2), BlobRef.of(b"measurements"), Rollout())
    audit = Targets(version=1)
    for signed, path, custom in (
        (release, PATH.release_target, record.to_json()),
        (audit, PATH.audit_target, audit_record().to_json()),
    ):
        digest = BlobRef.of(MANIFEST).digest
        signed.targets[path] = TargetFile(len(MANIFEST), {"sha256": digest.hex}, path, {"custom": custom})
    keys = {each.public_key.keyid: each.public_key for role in (RELEASE, AUDIT) for each in signers(role)}
    delegated = {role: _delegation(role) for role in (RELEASE, AUDIT)}
    meta = {f"{role}.json": MetaFile(1) for role in ("targets", RELEASE, AUDIT)}
    found = {
        "root": root,
        "targets": Targets(version=1, delegations=Delegations(keys, delegated), unrecognized_fields={"epochs": {}}),
        "snapshot": Snapshot(version=1, meta=meta),
        "timestamp": Timestamp(version=1, snapshot_meta=MetaFile(1)),
        RELEASE: release,
        AUDIT: audit,
    }
    for role, signed in found.items():
        signed.expires = NOW + timedelta(days=DAYS[role])
        signed.unrecognized_fields["issued"] = format_time(NOW)
    return found


def role_bytes(role: str) -> bytes:
    """The signed file of a role."""
    metadata: Metadata[Any] = Metadata(roles()[role])
    for each in signers(role):
        metadata.sign(each, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def sealed(value: object, role: str) -> bytes | None:
    """``value`` as a ``signed`` part with good signatures of ``role``, whatever it says; None if it has no canonical form."""
    try:
        body = encode_canonical(value)
    except (SslibFormatError, RecursionError):
        return None
    made = [each.sign(body.encode()) for each in signers(role)]
    return canonical_json({"signed": value, "signatures": [{"keyid": one.keyid, "sig": one.signature} for one in made]})


def with_bins() -> Targets:
    """A release role whose entries are spread over four bins."""
    keys = {each.public_key.keyid: each.public_key for each in signers(RELEASE)}
    bins = SuccinctRoles(list(keys), 2, 2, RELEASE)
    signed = Targets(version=1, delegations=Delegations(keys, succinct_roles=bins), expires=NOW + timedelta(days=60))
    signed.unrecognized_fields["issued"] = format_time(NOW)
    return signed


def _delegation(role: str) -> DelegatedRole:
    keyids = [each.public_key.keyid for each in signers(role)]
    return DelegatedRole(role, keyids, 2, terminating=True, paths=[f"{role.split('-', maxsplit=1)[0]}/{PATH.line}/*/*"])
