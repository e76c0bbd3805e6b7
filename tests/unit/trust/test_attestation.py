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
from device_client.trust.attestation import PAYLOAD_TYPE, VerifiedAudit, build_statement, verify_attestation
from device_client.trust.custom import PolicyRef
from device_client.trust.dsse import sign_envelope
from device_client.trust.refs import BlobRef
from tests.simulator import NOW
from tests.statements import passed, waived
from tests.unit.trust.edited import Place, code_of, edited, with_a_stranger, without_one_field

ONE, TWO = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
AUDIT = passed(
    Digest.of(b"model"),
    "int8",
    policy=PolicyRef("house", 1, Digest.of(b"policy")),
    suite="sealift-audit 1",
    original=Digest.of(b"original"),
    reissue_of=Digest.of(b"older"),
    evidence=Digest.of(b"audit.json"),
    audited_at=NOW,
    expires=NOW + timedelta(days=30),
)
WAIVER = waived(AUDIT.subject, "int8", policy=AUDIT.policy, audited_at=NOW, expires=AUDIT.expires)
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "int8", "digest": {"sha256": AUDIT.subject.hex}}],
    "predicateType": "urn:sealift:predicate:privacy-audit:v2",
    "predicate": {
        "verdict": "PASSED",
        "reason": None,
        "tier": "quick",
        "policy": {"id": "house", "version": 1, "digest": str(Digest.of(b"policy"))},
        "suite": "sealift-audit 1",
        "threat_model": "white_box",
        "gradient": "exact",
        "original": str(Digest.of(b"original")),
        "tests": [
            {
                "id": "inversion.instance", "family": "instance", "result": "PASSED", "statistic": "mean_gap", "estimate": 0.01,
                "interval": [0.0, 0.02], "threshold": 0.05, "p_value": 0.4,
            }
        ],
        "controls": [
            {
                "family": "instance", "held": True, "planted": 6, "planted_caught": 4, "null": 5, "null_alarms": 0, "power": 0.2,
                "power_unit": "share of a record",
            }
        ],
        "not_tested": [{"id": "membership.lira", "reason": "the policy does not ask for it"}],
        "evidence": str(Digest.of(b"audit.json")),
        "reissue_of": str(Digest.of(b"older")),
        "audited_at": "2026-06-01T12:00:00Z",
        "expires": "2026-07-01T12:00:00Z",
    },
}  # fmt: skip
P = ("predicate",)
TEST, CONTROL = (*P, "tests", 0), (*P, "controls", 0)


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
    assert _verify(_sealed(STATEMENT), limits=Limits(max_json_depth=5)).audit == AUDIT
    assert code_of(lambda: _verify(_sealed(STATEMENT), limits=Limits(max_json_depth=4))) == "too_deep"


def test_an_envelope_of_another_payload_type_is_no_attestation() -> None:
    assert PAYLOAD_TYPE == "application/vnd.in-toto+json"
    assert code_of(lambda: _verify(_sealed(STATEMENT, payload_type="text/plain"))) == "field_value"


def test_the_statement_is_a_closed_schema_in_every_part() -> None:
    assert {code_of(lambda value=value: _verify(_sealed(value))) for value in with_a_stranger(STATEMENT)} == {"field_unknown"}
    assert {code_of(lambda value=value: _verify(_sealed(value))) for value in without_one_field(STATEMENT)} == {"field_missing"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("subject", 0, "name"), "n" * 256),
        ((*P, "suite"), "s" * 128),
        ((*P, "threat_model"), "label_only"),
        ((*P, "gradient"), "none"),
        ((*P, "tier"), "deep"),
        ((*P, "reissue_of"), None),
        ((*P, "not_tested"), [{"id": f"t{index}", "reason": "r" * 512} for index in range(64)]),
        ((*P, "tests"), [{**STATEMENT["predicate"]["tests"][0], "id": f"t{index}"} for index in range(64)]),
        ((*TEST, "estimate"), None),
        ((*TEST, "interval"), None),
        ((*TEST, "interval"), [0.0, 0.0]),
        ((*TEST, "p_value"), 1),
        ((*CONTROL, "planted_caught"), 6),
    ],
)
def test_a_statement_at_its_bounds_is_read(place: Place, value: object) -> None:
    assert _code(place, value) is None


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1", "field_value"),
        (("predicateType",), "https://slsa.dev/provenance/v1", "field_value"),
        (("predicateType",), "urn:sealift:predicate:privacy-audit:v1", "field_value"),
        (("predicateType",), "urn:sealift:predicate:privacy-audit:v3", "field_value"),
        (("subject",), [], "attestation_subject"),
        (("subject",), STATEMENT["subject"] * 2, "too_many"),
        (("subject", 0, "name"), "n" * 257, "field_type"),
        (("subject", 0, "digest", "sha256"), "A" * 64, "digest_syntax"),
        ((*P, "verdict"), "GOOD", "field_value"),
        ((*P, "reason"), 3, "field_type"),
        ((*P, "tier"), "slow", "field_value"),
        ((*P, "suite"), "s" * 129, "field_type"),
        ((*P, "threat_model"), "nobody", "field_value"),
        ((*P, "gradient"), "some", "field_value"),
        ((*P, "original"), "sha256:", "digest_syntax"),
        ((*P, "original"), False, "digest_syntax"),
        ((*P, "tests"), [{}] * 65, "too_many"),
        ((*P, "tests"), ["passed"], "field_type"),
        ((*P, "controls"), [{}] * 17, "too_many"),
        ((*P, "not_tested"), [{"id": "t", "reason": "r" * 513}], "field_type"),
        ((*P, "evidence"), False, "digest_syntax"),
        ((*P, "reissue_of"), "older", "digest_syntax"),
        ((*P, "audited_at"), 0, "time_syntax"),
        ((*P, "expires"), "", "time_syntax"),
        ((*P, "policy", "version"), 0, "field_value"),
        ((*TEST, "id"), "t" * 65, "field_type"),
        ((*TEST, "result"), "WAIVED", "field_value"),
        ((*TEST, "interval"), [0.1], "field_value"),
        ((*TEST, "interval"), [0.2, 0.1], "field_value"),
        ((*TEST, "interval"), [0.1, 0.2, 0.3], "too_many"),
        ((*TEST, "p_value"), 1.1, "field_value"),
        ((*TEST, "p_value"), None, "field_type"),
        ((*CONTROL, "held"), 1, "field_type"),
        ((*CONTROL, "planted_caught"), 7, "field_value"),
        ((*CONTROL, "null_alarms"), 6, "field_value"),
    ],
)
def test_a_statement_with_one_wrong_field_is_refused(place: Place, value: object, code: str) -> None:
    assert _code(place, value) == code


CONTRADICTIONS: dict[str, tuple[Place, object]] = {
    "a pass although a test failed": ((*TEST, "result"), "FAILED"),
    "a pass although a test is inconclusive": ((*TEST, "result"), "INCONCLUSIVE"),
    "a pass although a test warned": ((*TEST, "result"), "WARNED"),
    "a pass without a test": ((*P, "tests"), []),
    "a warning without a reason in the tests": ((*P, "verdict"), "WARNED"),
    "a failure that no test found": ((*P, "verdict"), "FAILED"),
    "a pass without controls": ((*P, "controls"), []),
    "a pass although controls did not hold": ((*CONTROL, "held"), False),
    "a pass by an audit without power": ((*CONTROL, "power"), None),
    "a pass although no planted leak was caught": ((*CONTROL, "planted_caught"), 0),
    "a pass without a null control": ((*CONTROL, "null"), 0),
    "a pass by the controls of another family": ((*CONTROL, "family"), "membership"),
    "one test twice": ((*P, "tests"), STATEMENT["predicate"]["tests"] * 2),
    "one family's controls twice": ((*P, "controls"), STATEMENT["predicate"]["controls"] * 2),
    "a test that ran and did not": ((*P, "not_tested"), [{"id": "inversion.instance", "reason": "no time"}]),
    "an audit without evidence": ((*P, "evidence"), None),
    "an audit with a reason to waive": ((*P, "reason"), "no time"),
    "a waiver with tests": ((*P, "verdict"), "WAIVED"),
}


@pytest.mark.parametrize(("place", "value"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_statement_that_contradicts_itself_is_refused_although_it_is_signed(place: Place, value: object) -> None:
    changed = edited(STATEMENT, place, value)
    if (place, value) == ((*CONTROL, "null"), 0):
        changed["predicate"]["controls"][0]["null_alarms"] = 0
    assert code_of(lambda: _verify(_sealed(changed))) == "attestation_verdict"


@pytest.mark.parametrize("result", ["FAILED", "INCONCLUSIVE", "WARNED"])
def test_a_bad_verdict_needs_no_good_controls(result: str) -> None:
    honest = edited(edited(STATEMENT, (*TEST, "result"), result), (*P, "verdict"), result)
    assert _verify(_sealed(edited(honest, (*CONTROL, "held"), False))).audit.verdict == result


def test_a_waiver_gives_its_reason_and_nothing_that_looks_like_an_audit() -> None:
    waiver = json.loads(build_statement(WAIVER))
    assert _verify(_sealed(waiver)).audit == WAIVER
    for place, value in (
        ((*P, "reason"), None),
        ((*P, "reason"), "  "),
        ((*P, "evidence"), str(Digest.of(b"none"))),
        ((*P, "controls"), STATEMENT["predicate"]["controls"]),
    ):
        assert code_of(lambda place=place, value=value: _verify(_sealed(edited(waiver, place, value)))) == "attestation_verdict"


def test_a_waiver_needs_as_many_auditors_as_the_role() -> None:
    keys, waiver = [ONE.public_key, TWO.public_key], json.loads(build_statement(WAIVER))
    assert code_of(lambda: _verify(_sealed(waiver, ONE), keys=keys, waiver_threshold=2)) == "signature_threshold"
    assert _verify(_sealed(waiver, ONE, TWO), keys=keys, waiver_threshold=2).audit == WAIVER
    assert _verify(_sealed(STATEMENT, ONE), keys=keys, waiver_threshold=2).audit == AUDIT


def test_an_attestation_from_the_future_is_refused_but_for_clocks_that_differ_by_minutes() -> None:
    data = _sealed(STATEMENT)
    assert _verify(data, now=NOW - timedelta(minutes=10)).audit == AUDIT
    assert code_of(lambda: _verify(data, now=NOW - timedelta(minutes=10, seconds=1))) == "attestation_early"
