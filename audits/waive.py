"""Waivers: the audit team signs that it did not audit, why, and until when. Devices refuse it unless their owner says otherwise.

A waiver names the policy that was not applied, and the tests that were not made. It counts with the signatures of as many
auditors as the audit role needs; auditors on different machines add theirs one after the other to the same files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer

from audits.attest import SignedStatements, check_signers, sign_statements, statement_path
from audits.evidence import SUITE
from audits.policy import Policy
from audits.statement_file import read_statement
from audits.targets import BundleTargets
from device_client.errors import TrustError, UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.attestation import (
    MAX_REASON_CHARS,
    PAYLOAD_TYPE,
    WAIVED,
    PrivacyAudit,
    build_statement,
    verify_attestation,
)
from device_client.trust.custom import PolicyRef
from device_client.trust.dsse import read_unverified_payload, sign_envelope
from device_client.trust.files import write_atomic

MAX_WAIVER_DAYS = 90

_HINT = "give a folder that holds a waiver of every variant, or one that does not exist"


def waive(
    targets: BundleTargets, *, policy: Policy, reason: str, days: int, signers: Sequence[Signer], now: datetime
) -> dict[str, SignedStatements]:
    """A signed waiver of each variant, by its id.

    Args:
        targets: the bundle that is not audited.
        policy: what it would have been audited under.
        reason: for people, 1 to 512 characters; it is public.
        days: until the waiver expires, 1 to 90.
        signers: keys of the audit role.
        now: the clock.

    Raises:
        UsageError: no key, no reason (``waiver_reason``), or too many days.
    """
    return sign_statements(
        statements_of(targets, policy=policy, reason=reason, days=days, now=now), signers=signers, now=now, targets=targets
    )


def statements_of(targets: BundleTargets, *, policy: Policy, reason: str, days: int, now: datetime) -> dict[str, PrivacyAudit]:
    """What waivers say, unsigned; arguments as in ``waive``."""
    text = reason.strip()
    if not 1 <= len(text) <= MAX_REASON_CHARS or not text.isprintable():
        raise UsageError(
            "a waiver needs a reason",
            code="waiver_reason",
            where="--reason",
            expected=f"1 to {MAX_REASON_CHARS} printable characters",
            hint="say why the bundle ships without an audit, in words that anybody may read",
        )
    if not 1 <= days <= MAX_WAIVER_DAYS:
        raise UsageError(
            "a waiver is for a limited time",
            code="waiver_reason",
            where="--expires-days",
            expected=f"1 to {MAX_WAIVER_DAYS}",
            actual=days,
        )
    ref = PolicyRef(policy.id, policy.version, policy.digest)
    return {
        variant.id: PrivacyAudit(
            subject=variant.model.digest,
            subject_name=variant.id,
            verdict=WAIVED,
            reason=text,
            tier=policy.tier,
            policy=ref,
            suite=SUITE,
            threat_model=policy.threat_model,
            gradient="none",
            original=None,
            tests=(),
            controls=(),
            not_tested=tuple((test, "waived") for test in policy.tests.required),
            evidence=None,
            reissue_of=None,
            audited_at=now,
            expires=now + timedelta(days=days),
        )
        for variant in targets.variants
    }


def add_signatures(
    targets: BundleTargets, out: Path, *, policy: Policy, reason: str, days: int, signers: Sequence[Signer], now: datetime
) -> dict[str, Path]:
    """Signs the waivers that another auditor wrote to ``out``, if they say what this one would say; times are the first one's.

    Raises:
        UsageError: no key, or one of the files cannot be read.
        FormatError: not a waiver.
        TrustError: it says something else (``waiver_differs``).
    """
    check_signers(signers)
    paths, additions = {}, {}
    for name, wanted in statements_of(targets, policy=policy, reason=reason, days=days, now=now).items():
        path = paths[name] = statement_path(out, name)
        additions[path] = _signed_too(read_statement(path, hint=_HINT), wanted, signers, now=now, where=str(path))
    for path, data in additions.items():
        write_atomic(path, data, mode=0o644)
    return paths


def _signed_too(data: bytes, wanted: PrivacyAudit, signers: Sequence[Signer], *, now: datetime, where: str) -> bytes:
    payload, _ = read_unverified_payload(
        data, payload_type=PAYLOAD_TYPE, max_bytes=DEFAULT_LIMITS.max_attestation_bytes, where=where
    )
    own = sign_envelope(payload, payload_type=PAYLOAD_TYPE, signers=signers)
    keys = [signer.public_key for signer in signers]
    found = verify_attestation(own, keys=keys, threshold=len(keys), now=now, where=where).audit
    lifetime = wanted.expires - wanted.audited_at
    if build_statement(found) != payload or found != _at(wanted, found.audited_at, lifetime):
        raise TrustError(
            "the waiver says something else than this one would",
            code="waiver_differs",
            where=where,
            expected=_said(wanted),
            actual=_said(found),
            hint="agree with the other auditor on bundle, reason, days and policy",
        )
    both = json.loads(data)
    mine = json.loads(own)["signatures"]
    ids = {item["keyid"] for item in mine}
    both["signatures"] = [*(item for item in both["signatures"] if item["keyid"] not in ids), *mine]
    return json.dumps(both, sort_keys=True, separators=(",", ":")).encode()


def _said(audit: PrivacyAudit) -> str:
    days = (audit.expires - audit.audited_at).days
    return f"{audit.verdict}: {audit.reason}; {days} days; policy {audit.policy.id} {audit.policy.version}"


def _at(audit: PrivacyAudit, begin: datetime, lifetime: timedelta) -> PrivacyAudit:
    return replace(audit, audited_at=begin, expires=begin + lifetime)
