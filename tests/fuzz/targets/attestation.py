"""Envelopes and attestations: the input as an envelope, and as the payload of one that is signed.

Signing here, rather than in the mutator, lets every input reach the statement behind a good signature.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from device_client.bundle.digest import Digest
from device_client.errors import TrustError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.attestation import PAYLOAD_TYPE, RESULTS, build_statement, verify_attestation
from device_client.trust.custom import TIERS, VERDICTS, PolicyRef
from device_client.trust.dsse import read_unverified_payload, sign_envelope, verify_envelope
from tests.fuzz.fixed_keys import signer
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.target import accepted, check_strict, promise
from tests.statements import passed, waived

MAX_BYTES = 16_384
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AUDITORS = (signer("auditor 1"), signer("auditor 2"))
STRANGER = signer("stranger")
KEYS = [found.public_key for found in AUDITORS]
AUDIT = passed(
    Digest.of(b"model"),
    "int8-static",
    policy=PolicyRef("clinic", 3, Digest.of(b"policy")),
    original=Digest.of(b"original"),
    audited_at=NOW - timedelta(days=1),
    expires=NOW + timedelta(days=30),
)
WAIVED = waived(AUDIT.subject, "int8-static", audited_at=AUDIT.audited_at, expires=AUDIT.expires)
WORDS = (
    b'"payload"', b'"payloadType"', b'"signatures"', b'"keyid"', b'"sig"', b'"_type"', b'"subject"', b'"predicateType"',
    b'"predicate"', b'"verdict"', b'"reason"', b'"tier"', b'"policy"', b'"suite"', b'"threat_model"', b'"gradient"', b'"original"',
    b'"tests"', b'"controls"', b'"not_tested"', b'"evidence"', b'"reissue_of"', b'"audited_at"', b'"expires"', b'"name"',
    b'"id"', b'"family"', b'"result"', b'"statistic"', b'"estimate"', b'"interval"', b'"threshold"', b'"p_value"', b'"held"',
    b'"planted"', b'"planted_caught"', b'"null"', b'"null_alarms"', b'"power"', b'"power_unit"', b'"digest"', b'"sha256"',
    b"sha256:", b"2026-06-01T12:00:00Z", PAYLOAD_TYPE.encode(), *(word.encode() for word in (*VERDICTS, *TIERS)),
    *(key.keyid.encode() for key in KEYS),
)  # fmt: skip


def fuzz_one(data: bytes) -> None:
    """See the module."""
    check_strict(data, max_bytes=DEFAULT_LIMITS.max_attestation_bytes)
    _as_envelope(data)
    _as_statement(data)


def _as_envelope(data: bytes) -> None:
    bound = DEFAULT_LIMITS.max_attestation_bytes
    claimed = accepted(lambda: read_unverified_payload(data, payload_type=PAYLOAD_TYPE, max_bytes=bound, where="fuzz"))
    for threshold in (1, 2):
        verify = partial(verify_envelope, data, payload_type=PAYLOAD_TYPE, keys=KEYS, max_bytes=bound, where="fuzz")
        signed = accepted(partial(verify, threshold=threshold))
        if signed is not None:
            promise(claimed is not None and claimed[0] == signed.payload, "two payloads in one envelope")
            promise(len(set(signed.keyids)) >= threshold, "fewer keys than the threshold")
            promise(set(signed.keyids) <= {key.keyid for key in KEYS}, "a stranger counted")
    accepted(lambda: verify_attestation(data, keys=KEYS, now=NOW))


def _as_statement(data: bytes) -> None:
    sealed = sign_envelope(data, payload_type=PAYLOAD_TYPE, signers=[AUDITORS[0]])
    verified = accepted(lambda: verify_attestation(sealed, keys=KEYS, now=NOW))
    if verified is None:
        return
    audit = verified.audit
    again = sign_envelope(build_statement(audit), payload_type=PAYLOAD_TYPE, signers=[AUDITORS[0]])
    promise(verify_attestation(again, keys=KEYS, now=NOW).audit == audit, "written back, it is another statement")
    promise(audit.audited_at < audit.expires and audit.expires > NOW, "an expired statement")
    waived_well = bool(audit.verdict == "WAIVED" and audit.reason and not audit.tests)
    worst = min((test.result for test in audit.tests), key=RESULTS.index, default="INCONCLUSIVE")
    promise(waived_well or audit.verdict == worst, "a verdict that its tests do not give")
    for other in ({"subject": Digest.of(b"something else")}, {"keys": [STRANGER.public_key]}, {"threshold": 2}):
        try:
            verify_attestation(sealed, **{"keys": KEYS, "now": NOW, **other})  # type: ignore[arg-type]
        except TrustError:
            continue
        promise(False, "accepted for another subject, by a stranger, or below the threshold")


def seeds() -> Iterator[bytes]:
    """Envelopes by one, two and strange keys; statements good and bad."""
    good = build_statement(AUDIT)
    for signers in ((AUDITORS[0],), AUDITORS, (STRANGER,), ()):
        yield sign_envelope(good, payload_type=PAYLOAD_TYPE, signers=list(signers))
    yield sign_envelope(good, payload_type="text/plain", signers=[AUDITORS[0]])
    for change in (
        AUDIT,
        replace(AUDIT, original=None, tests=()),
        replace(AUDIT, original=None, reissue_of=AUDIT.subject, not_tested=()),
        replace(AUDIT, verdict="FAILED", tests=tuple(replace(test, result="FAILED") for test in AUDIT.tests)),
        replace(AUDIT, verdict="FAILED"),
        WAIVED,
        replace(WAIVED, reason=" "),
        replace(AUDIT, expires=NOW),
        replace(AUDIT, audited_at=AUDIT.expires),
    ):
        yield build_statement(change)
    for key, value in (("subject", []), ("_type", "x"), ("predicate", {}), ("more", 1)):
        yield json.dumps({**json.loads(good), key: value}).encode()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """JSON changes, of the envelope or of the payload inside it."""
    try:
        envelope = json.loads(data)
        payload = base64.b64decode(envelope["payload"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return mutate_json(data, rng)
    if rng.random() < 0.5:
        return mutate_json(data, rng)
    return sign_envelope(mutate_json(payload, rng), payload_type=PAYLOAD_TYPE, signers=[rng.choice((*AUDITORS, STRANGER))])
