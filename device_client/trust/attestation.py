"""Privacy-audit attestations: an in-toto Statement v1 in a DSSE envelope, one for each variant.

The subject is the digest of the bytes the runtime gets. `audit attest` builds it, `audit verify`, `sign` and the
server's admission verify it through this one function. Predicate fields are documented in ``docs/audit-method.md``;
nothing that decides lives in an optional field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, TrustError
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.custom import TIERS, VERDICTS, PolicyRef
from device_client.trust.dsse import verify_envelope
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time, parse_time

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:sealift:predicate:privacy-audit:v1"
_PREDICATE_FIELDS = (
    "verdict", "tier", "policy", "suite", "threat_model", "original", "tests", "evidence", "audited_at", "expires",
)  # fmt: skip


@dataclass(frozen=True)
class PrivacyAudit:
    """What one statement says about one variant.

    Attributes:
        subject: digest of the bytes that were loaded and attacked.
        original: digest of the uncompressed model that it was compared with, if there was one.
        tests: evidence summary for people and later tools; JSON objects that no verifier decides on.
        evidence: digest of ``audit.json``.
    """

    subject: Digest
    subject_name: str
    verdict: str
    tier: str
    policy: PolicyRef
    suite: str
    threat_model: str
    original: Digest | None
    tests: tuple[dict[str, object], ...]
    evidence: Digest
    audited_at: datetime
    expires: datetime


@dataclass(frozen=True)
class VerifiedAudit:
    """A statement whose signatures, subject and expiry were checked by ``verify_attestation``."""

    audit: PrivacyAudit
    envelope: BlobRef
    keyids: tuple[str, ...]


def build_statement(audit: PrivacyAudit) -> bytes:
    """The in-toto Statement as canonical JSON, to be signed as a DSSE payload."""
    predicate: dict[str, object] = {
        "verdict": audit.verdict,
        "tier": audit.tier,
        "policy": audit.policy.to_json(),
        "suite": audit.suite,
        "threat_model": audit.threat_model,
        "original": None if audit.original is None else str(audit.original),
        "tests": list(audit.tests),
        "evidence": str(audit.evidence),
        "audited_at": format_time(audit.audited_at),
        "expires": format_time(audit.expires),
    }
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": audit.subject_name, "digest": {"sha256": audit.subject.hex}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )


def verify_attestation(
    data: bytes,
    *,
    keys: Sequence[Key],
    now: datetime,
    threshold: int = 1,
    subject: Digest | None = None,
    where: str = "attestation",
    limits: Limits = DEFAULT_LIMITS,
) -> VerifiedAudit:
    """Returns what the auditors signed.

    Checks, in order: (1) envelope and signatures, (2) statement and predicate schema, (3) subject, (4) times.

    Raises:
        FormatError, LimitError: not such a statement.
        TrustError: ``signature_threshold``, ``attestation_subject``, ``attestation_expired``.
    """
    signed = verify_envelope(
        data, payload_type=PAYLOAD_TYPE, keys=keys, threshold=threshold, max_bytes=limits.max_attestation_bytes, where=where
    )
    audit = _parse_statement(signed.payload, where=where, limits=limits)
    if subject is not None and audit.subject != subject:
        raise TrustError(
            "the attestation is about other bytes", code="attestation_subject", where=where, expected=subject, actual=audit.subject
        )
    if not audit.audited_at < audit.expires:
        raise FormatError("the attestation expires before it begins", code="time_order", where=where)
    if now >= audit.expires:
        raise TrustError(
            "the attestation has expired",
            code="attestation_expired",
            where=where,
            actual=format_time(audit.expires),
            hint="run the audit again",
        )
    return VerifiedAudit(audit, BlobRef.of(data), signed.keyids)


def _parse_statement(payload: bytes, *, where: str, limits: Limits) -> PrivacyAudit:
    value = parse_strict(payload, max_bytes=limits.max_attestation_bytes, where=where, limits=limits)
    statement = Fields(value, where=where, known=("_type", "subject", "predicateType", "predicate"))
    statement.text("_type", choices=(STATEMENT_TYPE,))
    statement.text("predicateType", choices=(PREDICATE_TYPE,))
    subjects = statement.items("subject", _read_subject, max_items=1)
    if len(subjects) != 1:
        raise FormatError("not exactly one subject", code="attestation_subject", where=where)
    predicate = statement.fields("predicate", known=_PREDICATE_FIELDS)
    original = predicate.raw("original")
    return PrivacyAudit(
        subject=subjects[0][1],
        subject_name=subjects[0][0],
        verdict=predicate.text("verdict", choices=VERDICTS),
        tier=predicate.text("tier", choices=TIERS),
        policy=PolicyRef.read(predicate.fields("policy", known=("id", "version", "digest"))),
        suite=predicate.text("suite", max_chars=128),
        threat_model=predicate.text("threat_model", max_chars=64),
        original=None if original is None else Digest.parse(original, where=f"{where}.original"),
        tests=predicate.items("tests", _read_object, max_items=64),
        evidence=Digest.parse(predicate.raw("evidence"), where=f"{where}.evidence"),
        audited_at=parse_time(predicate.raw("audited_at"), f"{where}.audited_at"),
        expires=parse_time(predicate.raw("expires"), f"{where}.expires"),
    )


def _read_subject(value: object, where: str) -> tuple[str, Digest]:
    fields = Fields(value, where=where, known=("name", "digest"))
    return fields.text("name", max_chars=256), Digest(fields.fields("digest", known=("sha256",)).text("sha256"))


def _read_object(value: object, where: str) -> dict[str, object]:
    fields = Fields(value, where=where)
    return {key: fields.raw(key) for key in fields.keys()}  # noqa: SIM118
