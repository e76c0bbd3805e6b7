"""From a stored audit to signed statements: for each variant the full statement, and a thin one beside it.

Signs what the evidence says, whatever the verdict; a gate decides what it accepts. Refused here: an expired audit, an
edited one (``store.read_stored``), and subjects that are not exactly the variants of the bundle. All envelopes together are
read back through the verifier that signing uses before one of them is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer

from audits.evidence import Audit
from audits.random_operators import find_random_operators
from audits.statements import privacy_audit, thin_statement
from audits.store import StoredAudit
from audits.targets import BundleTargets
from device_client.errors import IntegrityError, PolicyError, TrustError, UsageError
from device_client.trust.attestation import PAYLOAD_TYPE, PrivacyAudit, build_statement
from device_client.trust.attestation_set import verify_attestation_set
from device_client.trust.dsse import sign_envelope
from device_client.trust.files import write_new
from device_client.trust.times import format_time

SUFFIX = ".dsse.json"
THIN_SUFFIX = ".test-result.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


@dataclass(frozen=True)
class SignedStatements:
    """What is written for one variant.

    Attributes:
        full: envelope of the ``privacy-audit`` statement.
        thin: envelope of the in-toto test-result statement; None for a waiver, where no test ran.
    """

    full: bytes
    thin: bytes | None


def attest(stored: StoredAudit, *, signers: Sequence[Signer], now: datetime, targets: BundleTargets) -> dict[str, SignedStatements]:
    """The signed statements of each variant, by variant id.

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
    statements = {item.id: privacy_audit(audit, item, evidence=stored.evidence) for item in audit.variants}
    return sign_statements(statements, signers=signers, now=now, targets=targets)


def sign_statements(
    statements: Mapping[str, PrivacyAudit], *, signers: Sequence[Signer], now: datetime, targets: BundleTargets
) -> dict[str, SignedStatements]:
    """Signs the statements on all variants of a bundle and reads them back as one set.

    Raises:
        UsageError: no key.
        FormatError, TrustError: what was made would be refused.
    """
    check_signers(signers)
    signed = {name: sign_one(audit, signers=signers) for name, audit in statements.items()}
    keys = [signer.public_key for signer in signers]
    read_back = verify_attestation_set(
        [(name, item.full) for name, item in signed.items()],
        variants={variant.model.digest: variant.id for variant in targets.variants},
        keys=keys,
        threshold=len(keys),
        now=now,
    )
    if tuple(item.audit for item in read_back) != tuple(statements.values()):
        raise TrustError("the envelope does not say what was signed", code="attestation_subject", where=targets.path)
    return signed


def sign_one(audit: PrivacyAudit, *, signers: Sequence[Signer]) -> SignedStatements:
    """Both envelopes of one statement; a waiver has no thin one."""
    full = sign_envelope(build_statement(audit), payload_type=PAYLOAD_TYPE, signers=signers)
    if not audit.tests:
        return SignedStatements(full, None)
    return SignedStatements(full, sign_envelope(thin_statement(audit), payload_type=PAYLOAD_TYPE, signers=signers))


def check_signers(signers: Sequence[Signer]) -> None:
    """Refuses to sign with nothing.

    Raises:
        UsageError: ``key_missing``.
    """
    if not signers:
        raise UsageError("no key to sign with", code="key_missing", hint="give --key file:PATH")


def write_attestations(signed: Mapping[str, SignedStatements], out: Path) -> dict[str, Path]:
    """Writes ``<variant>.dsse.json`` and ``<variant>.test-result.json``; never overwrites. Returns the former, by variant.

    Raises:
        UsageError: a file exists, or a variant's id is not a file name.
    """
    files: dict[Path, bytes] = {}
    for name, item in signed.items():
        files[statement_path(out, name)] = item.full
        if item.thin is not None:
            files[out / f"{name}{THIN_SUFFIX}"] = item.thin
    for path in files:
        if path.exists():
            raise UsageError("the file exists", code="file_exists", where=str(path), hint="choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        write_new(path, data, mode=0o644)
    return {name: statement_path(out, name) for name in signed}


def statement_path(out: Path, name: str) -> Path:
    """Where the full statement on a variant is written.

    Raises:
        UsageError: the variant's id is not a file name.
    """
    if not _FILE_NAME.match(name):
        raise UsageError("the variant's id is not a file name", code="variant_name", where=name[:100])
    return out / f"{name}{SUFFIX}"


def _check_subjects(audit: Audit, targets: BundleTargets) -> None:
    """Digests, names, and what the bytes at hand say about themselves."""
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
    recorded = {subject.id: subject.facts.random_operators for subject in audit.variants}
    for variant in targets.variants:
        found = find_random_operators(variant.model.data)
        if recorded[variant.id] != found:
            raise IntegrityError(
                "the random operators of the model are not those of the audit",
                code="audit_edited",
                where=variant.id,
                expected=", ".join(found) or "none",
                actual=", ".join(recorded[variant.id]) or "none",
                hint="run the audit again",
            )
