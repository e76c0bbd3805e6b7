"""Audit attestations: what the statement must say, about which bytes, and until when."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from device_client.bundle.digest import Digest
from device_client.limits import Limits
from device_client.trust.attestation import PAYLOAD_TYPE, PrivacyAudit, VerifiedAudit, build_statement, verify_attestation
from device_client.trust.custom import PolicyRef
from device_client.trust.dsse import sign_envelope
from device_client.trust.refs import BlobRef
from tests.simulator import NOW
from tests.unit.trust.edited import Place, code_of, edited, with_a_stranger, without_one_field

ONE, TWO = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
AUDIT = PrivacyAudit(
    subject=Digest.of(b"model"),
    subject_name="int8",
    verdict="PASSED",
    tier="quick",
    policy=PolicyRef("house", 1, Digest.of(b"policy")),
    suite="sealift-inversion 1",
    threat_model="white_box",
    original=Digest.of(b"original"),
    tests=({"id": "inversion.instance", "estimate": 0.01, "bounds": [0, {"high": 1}]},),
    evidence=Digest.of(b"audit.json"),
    audited_at=NOW,
    expires=NOW + timedelta(days=30),
)
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "int8", "digest": {"sha256": AUDIT.subject.hex}}],
    "predicateType": "urn:sealift:predicate:privacy-audit:v1",
    "predicate": {
        "verdict": "PASSED",
        "tier": "quick",
        "policy": {"id": "house", "version": 1, "digest": str(Digest.of(b"policy"))},
        "suite": "sealift-inversion 1",
        "threat_model": "white_box",
        "original": str(Digest.of(b"original")),
        "tests": [{"id": "inversion.instance", "estimate": 0.01, "bounds": [0, {"high": 1}]}],
        "evidence": str(Digest.of(b"audit.json")),
        "audited_at": "2026-06-01T12:00:00Z",
        "expires": "2026-07-01T12:00:00Z",
    },
}


def _sealed(statement: object, *signers: CryptoSigner, payload_type: str = "application/vnd.in-toto+json") -> bytes:
    return sign_envelope(json.dumps(statement).encode(), payload_type=payload_type, signers=signers or [ONE])


def _verify(data: bytes, **changes: Any) -> VerifiedAudit:
    return verify_attestation(data, **({"keys": [ONE.public_key], "now": NOW} | changes))


def _code(place: Place, value: object) -> str | None:
    return code_of(lambda: _verify(_sealed(edited(STATEMENT, place, value))))


def test_the_statement_is_written_as_documented_and_read_back() -> None:
    assert json.loads(build_statement(AUDIT)) == STATEMENT
    assert build_statement(AUDIT) == build_statement(replace(AUDIT, tests=tuple(AUDIT.tests)))
    data = _sealed(STATEMENT)
    verified = _verify(data)
    assert verified.audit == AUDIT
    assert verified.envelope == BlobRef.of(data)
    assert verified.keyids == (ONE.public_key.keyid,)


def test_a_model_without_an_original_says_so() -> None:
    alone = replace(AUDIT, original=None)
    assert json.loads(build_statement(alone)) == edited(STATEMENT, ("predicate", "original"), None)
    assert _verify(_sealed(json.loads(build_statement(alone)))).audit == alone


def test_as_many_auditors_as_asked_for_must_have_signed() -> None:
    keys = [ONE.public_key, TWO.public_key]
    assert len(_verify(_sealed(STATEMENT, ONE, TWO), keys=keys, threshold=2).keyids) == 2
    assert code_of(lambda: _verify(_sealed(STATEMENT, ONE), keys=keys, threshold=2)) == "signature_threshold"
    assert _verify(_sealed(STATEMENT, ONE), keys=keys).keyids == (ONE.public_key.keyid,)


def test_the_subject_is_compared_when_one_is_asked_for() -> None:
    data = _sealed(STATEMENT)
    assert _verify(data, subject=AUDIT.subject).audit.subject == AUDIT.subject
    assert code_of(lambda: _verify(data, subject=Digest.of(b"other"))) == "attestation_subject"


def test_an_attestation_holds_until_the_second_before_it_expires() -> None:
    data = _sealed(STATEMENT)
    assert _verify(data, now=AUDIT.expires - timedelta(seconds=1)).audit == AUDIT
    assert code_of(lambda: _verify(data, now=AUDIT.expires)) == "attestation_expired"


def test_an_attestation_that_never_holds_is_refused() -> None:
    assert _code(("predicate", "expires"), STATEMENT["predicate"]["audited_at"]) == "time_order"
    assert _code(("predicate", "expires"), "2026-05-01T12:00:00Z") == "time_order"


def test_a_longer_attestation_than_the_limit_is_refused() -> None:
    data = _sealed(STATEMENT)
    assert _verify(data, limits=Limits(max_attestation_bytes=len(data))).audit == AUDIT
    assert code_of(lambda: _verify(data, limits=Limits(max_attestation_bytes=len(data) - 1))) == "too_large"


def test_a_statement_nested_deeper_than_the_limit_is_refused() -> None:
    assert _verify(_sealed(STATEMENT), limits=Limits(max_json_depth=7)).audit == AUDIT
    assert code_of(lambda: _verify(_sealed(STATEMENT), limits=Limits(max_json_depth=5))) == "too_deep"


def test_an_envelope_of_another_payload_type_is_no_attestation() -> None:
    assert PAYLOAD_TYPE == "application/vnd.in-toto+json"
    assert code_of(lambda: _verify(_sealed(STATEMENT, payload_type="text/plain"))) == "field_value"


def test_the_statement_is_a_closed_schema_but_for_the_tests() -> None:
    plain = edited(STATEMENT, ("predicate", "tests"), [])
    assert {code_of(lambda value=value: _verify(_sealed(value))) for value in with_a_stranger(plain)} == {"field_unknown"}
    assert {code_of(lambda value=value: _verify(_sealed(value))) for value in without_one_field(plain)} == {"field_missing"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("subject", 0, "name"), "n" * 256),
        (("predicate", "suite"), "s" * 128),
        (("predicate", "threat_model"), "t" * 64),
        (("predicate", "tests"), [{}] * 64),
        (("predicate", "verdict"), "WAIVED"),
        (("predicate", "tier"), "deep"),
    ],
)
def test_a_statement_at_its_bounds_is_read(place: Place, value: object) -> None:
    assert _code(place, value) is None


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1", "field_value"),
        (("predicateType",), "https://slsa.dev/provenance/v1", "field_value"),
        (("subject",), [], "attestation_subject"),
        (("subject",), STATEMENT["subject"] * 2, "too_many"),
        (("subject", 0, "name"), "n" * 257, "field_type"),
        (("subject", 0, "digest", "sha256"), "A" * 64, "digest_syntax"),
        (("predicate", "verdict"), "GOOD", "field_value"),
        (("predicate", "tier"), "slow", "field_value"),
        (("predicate", "suite"), "s" * 129, "field_type"),
        (("predicate", "threat_model"), "t" * 65, "field_type"),
        (("predicate", "original"), "sha256:", "digest_syntax"),
        (("predicate", "original"), False, "digest_syntax"),
        (("predicate", "tests"), [{}] * 65, "too_many"),
        (("predicate", "tests"), ["passed"], "field_type"),
        (("predicate", "evidence"), None, "digest_syntax"),
        (("predicate", "audited_at"), 0, "time_syntax"),
        (("predicate", "expires"), "", "time_syntax"),
        (("predicate", "policy", "version"), 0, "field_value"),
    ],
)
def test_a_statement_with_one_wrong_field_is_refused(place: Place, value: object, code: str) -> None:
    assert _code(place, value) == code
