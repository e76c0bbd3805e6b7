"""From a stored audit to signed statements: one DSSE in-toto statement for each variant.

Signs what the evidence says, whatever the verdict; a gate decides what it accepts. Refused here: an expired audit, an
edited one (``store.read_stored``), and subjects that are not exactly the variants of the bundle. Every envelope is
read back through the verifier that devices' gates use before it is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer

from audits.evidence import SUITE, Audit, SubjectEvidence, readable_details
from audits.store import StoredAudit
from audits.targets import BundleTargets
from device_client.bundle.digest import Digest
from device_client.errors import PolicyError, TrustError, UsageError
from device_client.trust.attestation import PAYLOAD_TYPE, PrivacyAudit, build_statement, verify_attestation
from device_client.trust.custom import PolicyRef
from device_client.trust.dsse import sign_envelope
from device_client.trust.files import write_new
from device_client.trust.times import format_time

SUFFIX = ".dsse.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def attest(stored: StoredAudit, *, signers: Sequence[Signer], now: datetime, targets: BundleTargets) -> dict[str, bytes]:
    """The signed envelope of each variant, by variant id.

    Args:
        stored: a folder that was read and checked.
        signers: keys of the audit role; one signature each.
        now: the clock, against the audit's expiry.
        targets: the audited bundle: every subject must be one of its variants, and none may be left out.

    Raises:
        PolicyError: ``audit_expired``.
        TrustError: ``attestation_subject``.
        UsageError: no variant, or no key.
    """
    audit = stored.audit
    if not signers:
        raise UsageError("no key to sign with", code="key_missing", hint="give --key file:PATH")
    if not audit.variants:
        raise UsageError("the audit has no variant to attest", code="audit_empty")
    if not audit.audited_at <= now < audit.expires:
        raise PolicyError(
            "the audit is not valid now",
            code="audit_expired",
            expected=f"{format_time(audit.audited_at)} to {format_time(audit.expires)}",
            actual=format_time(now),
            hint="run the audit again",
        )
    _check_subjects(audit, targets)
    return {subject.id: _sign(audit, subject, stored.evidence, signers, now) for subject in audit.variants}


def write_attestations(envelopes: dict[str, bytes], out: Path) -> dict[str, Path]:
    """Writes ``<variant>.dsse.json`` files; never overwrites.

    Raises:
        UsageError: a file exists, or a variant's id is not a file name.
    """
    paths = {}
    for name in envelopes:
        if not _FILE_NAME.match(name):
            raise UsageError("the variant's id is not a file name", code="variant_name", where=name[:100])
        paths[name] = out / f"{name}{SUFFIX}"
        if paths[name].exists():
            raise UsageError("the file exists", code="file_exists", where=str(paths[name]), hint="choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        write_new(path, envelopes[name], mode=0o644)
    return paths


def _check_subjects(audit: Audit, targets: BundleTargets) -> None:
    attested = {subject.id: subject.digest for subject in audit.variants}
    present = {variant.id: variant.model.digest for variant in targets.variants}
    if attested != present or audit.bundle["manifest"] != str(targets.manifest):
        raise TrustError(
            "the audit is about another bundle",
            code="attestation_subject",
            where=targets.path,
            expected=audit.bundle["manifest"],
            actual=targets.manifest,
            hint="audit this bundle",
        )


def _sign(audit: Audit, subject: SubjectEvidence, evidence: Digest, signers: Sequence[Signer], now: datetime) -> bytes:
    statement = PrivacyAudit(
        subject=subject.digest,
        subject_name=subject.id,
        verdict=subject.verdict.value,
        tier=audit.policy.tier,
        policy=PolicyRef(audit.policy.id, audit.policy.version, audit.policy.digest),
        suite=SUITE,
        threat_model=audit.policy.threat_model,
        original=audit.original,
        tests=_summary(audit, subject),
        evidence=evidence,
        audited_at=audit.audited_at,
        expires=audit.expires,
    )
    envelope = sign_envelope(build_statement(statement), payload_type=PAYLOAD_TYPE, signers=signers)
    keys = [signer.public_key for signer in signers]
    read_back = verify_attestation(envelope, keys=keys, threshold=len(keys), subject=subject.digest, now=now, where=subject.id)
    if read_back.audit != statement:
        raise TrustError("the envelope does not say what was signed", code="attestation_subject", where=subject.id)
    return envelope


def _summary(audit: Audit, subject: SubjectEvidence) -> tuple[dict[str, object], ...]:
    """For people and later tools; no verifier decides on it."""
    with readable_details("audit.json"):
        return _summary_of(audit, subject)


def _summary_of(audit: Audit, subject: SubjectEvidence) -> tuple[dict[str, object], ...]:
    tests: list[dict[str, object]] = [
        {
            "id": "inversion.instance",
            "result": subject.verdict.value,
            "reasons": list(subject.reasons),
            "p_value": subject.findings.p_value,
            "p_adjusted": subject.findings.p_adjusted,
            "alpha": audit.policy.decision.alpha,
            "converged_share": subject.findings.converged_share,
            "gradient": str(subject.detail["access"].get("gradient", "none")),
        }
    ]
    strongest = min(subject.detail["tests"], key=lambda test: float(test["p_value"]), default=None)
    if strongest is not None:
        names = ("attack", "statistic", "estimate", "threshold", "p_value")
        tests.append({"id": "inversion.strongest", **{name: strongest[name] for name in names}})
    tests += [{"id": "inversion.delta", **delta} for delta in subject.detail["delta"]]
    run = audit.controls
    tests.append(
        {
            "id": "controls",
            "planted_smallest_caught": run.smallest_caught,
            "null_alarms": list(run.null_alarms),
            "relabelling_alarms": run.relabelling_alarms,
            "relabellings": audit.policy.controls.relabellings,
        }
    )
    return tuple(tests)
