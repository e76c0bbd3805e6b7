"""All statements on one bundle: every variant has one, made under one policy, and under the one that was asked for.

`audit verify --bundle` and `sign --role audit-LINE` both decide through ``verify_attestation_set``, so that nothing is signed that
a verification would refuse. Pure: the statements, the variants and what is expected come in as values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from securesystemslib.signer import Key

from device_client.bundle.digest import Digest
from device_client.errors import TrustError, UsageError
from device_client.trust.attestation import WAIVED, PrivacyAudit, VerifiedAudit, verify_attestation
from device_client.trust.expected_policy import ExpectedPolicy


def verify_attestation_set(
    envelopes: Sequence[tuple[str, bytes]],
    *,
    variants: Mapping[Digest, str],
    keys: Sequence[Key],
    now: datetime,
    threshold: int = 1,
    waiver_threshold: int = 1,
    expected: ExpectedPolicy | None = None,
) -> tuple[VerifiedAudit, ...]:
    """Returns the statements on a bundle, in the order given.

    Checks, in order: (1) each statement alone, (2) it is about a variant of the bundle, under that variant's id, (3) no two are
    about one variant, (4) all were made under one policy, suite and threat model, (5) and under the expected one, its tier and
    its required tests, (6) no variant is left out.

    Args:
        envelopes: where each statement is from, and its bytes.
        variants: id of each variant by the digest of the bytes that a runtime gets.
        keys: of the auditors.
        now: the clock.
        threshold: different keys that must have signed each statement.
        waiver_threshold: the same for waivers.
        expected: the policy that was asked for.

    Raises:
        UsageError: no statement (``attestation_missing``).
        FormatError, LimitError, TrustError: as ``verify_attestation``; ``attestation_subject``, ``attestation_twice``,
            ``attestation_policy``, ``attestation_tier``, ``attestation_tests``, ``attestation_incomplete``.
    """
    if not envelopes:
        raise UsageError(
            "an audit role signs only with an attestation", code="attestation_missing", hint="make one with `sealift audit attest`"
        )
    found: list[VerifiedAudit] = []
    seen: dict[Digest, str] = {}
    for where, data in envelopes:
        verified = verify_attestation(data, keys=keys, now=now, threshold=threshold, waiver_threshold=waiver_threshold, where=where)
        audit = verified.audit
        _check_subject(audit, variants, where)
        if audit.subject in seen:
            raise TrustError(
                "two attestations are about one variant",
                code="attestation_twice",
                where=where,
                actual=f"{audit.subject_name}, as {seen[audit.subject]}",
                hint="give one for each variant",
            )
        seen[audit.subject] = where
        _check_alike(audit, (found or [verified])[0].audit, where)
        if expected is not None:
            _check_expected(audit, expected, where)
        found.append(verified)
    left_out = sorted(name for digest, name in variants.items() if digest not in seen)
    if left_out:
        raise TrustError(
            "a variant of the bundle has no attestation",
            code="attestation_incomplete",
            where=left_out[0],
            expected=f"one for each of {len(variants)} variants",
            actual=len(seen),
            hint="give the attestation of every variant, or pack a bundle without the one that was not audited",
        )
    return tuple(found)


def _check_subject(audit: PrivacyAudit, variants: Mapping[Digest, str], where: str) -> None:
    name = variants.get(audit.subject)
    if name is None:
        raise TrustError(
            "the attestation is about bytes that are not in this bundle",
            code="attestation_subject",
            where=where,
            actual=audit.subject,
            hint="give the attestation of this bundle's variants",
        )
    if name != audit.subject_name:
        raise TrustError(
            "the attestation calls the variant by another name",
            code="attestation_subject",
            where=where,
            expected=name,
            actual=audit.subject_name,
            hint="issue it again for this bundle: `sealift audit attest --reissue`",
        )


def _check_alike(audit: PrivacyAudit, first: PrivacyAudit, where: str) -> None:
    """One entry of the audit role holds one policy, suite and threat model for all variants; a tier is each verdict's own."""
    if (audit.policy, audit.suite, audit.threat_model) != (first.policy, first.suite, first.threat_model):
        raise TrustError(
            "the attestations were made under two policies",
            code="attestation_policy",
            where=where,
            expected=f"{first.policy.id} {first.policy.version} {first.policy.digest}, {first.suite}, {first.threat_model}",
            actual=f"{audit.policy.id} {audit.policy.version} {audit.policy.digest}, {audit.suite}, {audit.threat_model}",
            hint="audit all variants under one",
        )


def _check_expected(audit: PrivacyAudit, expected: ExpectedPolicy, where: str) -> None:
    if audit.policy != expected.policy:
        raise TrustError(
            "the attestation was made under another policy",
            code="attestation_policy",
            where=where,
            expected=f"{expected.policy.id} {expected.policy.version} {expected.policy.digest}",
            actual=f"{audit.policy.id} {audit.policy.version} {audit.policy.digest}",
            hint="audit again under the policy that was agreed upon",
        )
    if (audit.tier, audit.threat_model) != (expected.tier, expected.threat_model):
        raise TrustError(
            "the attestation is of another tier or threat model",
            code="attestation_tier",
            where=where,
            expected=f"{expected.tier}, {expected.threat_model}",
            actual=f"{audit.tier}, {audit.threat_model}",
        )
    missing = [test for test in expected.required if test not in {item.id for item in audit.tests}]
    if missing and audit.verdict != WAIVED:
        raise TrustError(
            "the attestation lacks a test that the policy requires",
            code="attestation_tests",
            where=where,
            expected=", ".join(expected.required),
            actual=f"no {missing[0]}",
            hint="run the audit again under this policy",
        )
