"""Carries verdicts over to a new release of the same bytes: nothing was attacked again, and the new statement says so.

The old statements are verified like any others; the new ones differ in ``reissue_of`` alone (digest of the old envelope) and in the
variant's name. Evidence, times and expiry stay. A waiver is not carried over: whoever wants one for the new release signs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from securesystemslib.signer import Key, Signer

from audits.attest import SignedStatements, sign_statements
from audits.targets import BundleTargets
from device_client.bundle.digest import Digest
from device_client.errors import TrustError
from device_client.trust.attestation import WAIVED, verify_attestation
from device_client.trust.attestation_set import verify_attestation_set


def reissue(
    old: Sequence[tuple[str, bytes]],
    *,
    keys: Sequence[Key],
    signers: Sequence[Signer],
    now: datetime,
    targets: BundleTargets,
    threshold: int = 1,
) -> dict[str, SignedStatements]:
    """Signed statements on the variants of the new bundle, by id.

    Args:
        old: statements on the same bytes: where from, and the envelope.
        keys: public keys of the auditors who signed them.
        signers: keys that sign the new ones.
        now: the clock, against the old expiry.
        targets: the new bundle.
        threshold: signatures by different keys on the old statements.

    Raises:
        UsageError: no key, or no old statement.
        FormatError, TrustError: an old statement does not hold, is about other bytes or a waiver (``waiver_reissued``), or a
            variant of the new bundle has none.
    """
    names = {variant.model.digest: variant.id for variant in targets.variants}
    alone = [verify_attestation(data, keys=keys, threshold=threshold, now=now, where=where) for where, data in old]
    # the old release may have called the same bytes by another name
    former = {**names, **{item.audit.subject: item.audit.subject_name for item in alone if item.audit.subject in names}}
    verified = verify_attestation_set(old, variants=former, keys=keys, now=now, threshold=threshold)
    statements = {}
    for (where, data), item in zip(old, verified, strict=True):
        if item.audit.verdict == WAIVED:
            raise TrustError(
                "a waiver is not carried over to another release",
                code="waiver_reissued",
                where=where,
                hint="audit the new release, or waive it: `sealift audit waive`",
            )
        name = names[item.audit.subject]
        statements[name] = replace(item.audit, subject_name=name, reissue_of=Digest.of(data))
    return sign_statements(statements, signers=signers, now=now, targets=targets)
