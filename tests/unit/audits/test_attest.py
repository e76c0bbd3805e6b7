"""Statements say what the evidence says, about exactly the bytes, and only while it is valid."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Signer

from audits.attest import SignedStatements, attest, write_attestations
from audits.run import RunResult
from audits.statements import thin_statement
from audits.store import StoredAudit, read_stored, write_audit
from audits.targets import BundleTargets, Subject
from device_client.bundle.digest import Digest
from device_client.errors import PolicyError, TrustError, UsageError, VerificationError
from device_client.trust.attestation import PAYLOAD_TYPE, verify_attestation
from device_client.trust.dsse import verify_envelope
from tests.statements import TEST, passed
from tests.unit.audits import models
from tests.unit.audits.conftest import NOW, RANGE, Case


@pytest.fixture
def stored(good_run: RunResult, out: Path) -> StoredAudit:
    write_audit(good_run, out, private=False)
    return read_stored(out)


@pytest.fixture(scope="module")
def signer() -> Signer:
    return CryptoSigner.generate_ed25519()


def targets(case: Case, *, manifest: Digest | None = None, variant: bytes | None = None) -> BundleTargets:
    subject = Subject("int8-static", models.checked(variant or case.variant), RANGE)
    return BundleTargets(manifest or Digest.of(b"manifest"), "clinic/digits/1.0.0", (subject,))


def test_one_statement_for_each_variant_says_what_was_found(stored: StoredAudit, signer: Signer, good: Case) -> None:
    envelopes = attest(stored, signers=[signer], now=NOW, targets=targets(good))
    assert list(envelopes) == ["int8-static"]
    subject = Digest.of(good.variant)
    found = verify_attestation(envelopes["int8-static"].full, keys=[signer.public_key], subject=subject, now=NOW).audit
    assert (found.verdict, found.subject, found.evidence) == ("PASSED", subject, stored.evidence)
    assert found.original == Digest.of(good.original)
    assert found.policy.digest == stored.audit.policy.digest
    assert found.expires == NOW + timedelta(days=stored.audit.policy.expiry_days)
    (test,), (controls,) = found.tests, found.controls
    assert (found.gradient, found.reason, found.reissue_of) == ("straight_through", None, None)
    assert (test.id, test.family, test.result) == ("inversion.instance", "instance", "PASSED")
    assert test.interval is not None
    assert test.estimate is not None
    assert test.interval[0] <= test.estimate <= test.interval[1]
    assert test.threshold is not None
    family = stored.audit.family("instance")
    assert family is not None
    assert (controls.family, controls.held, controls.power) == ("instance", True, family.power)
    assert (controls.planted, controls.null, controls.null_alarms) == (3, 4, 0)


def test_a_thin_statement_lies_beside_it_for_tools_that_know_no_privacy_audit(
    stored: StoredAudit, signer: Signer, good: Case
) -> None:
    thin = attest(stored, signers=[signer], now=NOW, targets=targets(good))["int8-static"].thin
    assert thin is not None
    payload = verify_envelope(thin, payload_type=PAYLOAD_TYPE, keys=[signer.public_key], max_bytes=10_000, where="thin").payload
    statement = json.loads(payload)
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["subject"] == [{"name": "int8-static", "digest": {"sha256": Digest.of(good.variant).hex}}]
    predicate = statement["predicate"]
    assert set(predicate) == {"result", "configuration", "passedTests", "warnedTests", "failedTests"}
    assert (predicate["result"], predicate["passedTests"]) == ("PASSED", ["inversion.instance"])
    named = {item["digest"]["sha256"] for item in predicate["configuration"]}
    assert named == {stored.audit.policy.digest.hex, stored.evidence.hex}
    with pytest.raises(VerificationError):  # it is no privacy audit, and cannot be given as one
        verify_attestation(thin, keys=[signer.public_key], now=NOW)


def test_inconclusive_is_failed_in_the_thin_statement_which_knows_no_such_word() -> None:
    blind = passed(Digest.of(b"model"), "v", verdict="INCONCLUSIVE", tests=(replace(TEST, result="INCONCLUSIVE"),))
    predicate = json.loads(thin_statement(blind))["predicate"]
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", ["inversion.instance"])


def test_two_auditors_sign_the_same_statement(stored: StoredAudit, signer: Signer, good: Case) -> None:
    second = CryptoSigner.generate_ed25519()
    envelope = attest(stored, signers=[signer, second], now=NOW, targets=targets(good))["int8-static"].full
    found = verify_attestation(envelope, keys=[signer.public_key, second.public_key], threshold=2, now=NOW)
    assert len(found.keyids) == 2


def test_an_expired_audit_is_not_attested(stored: StoredAudit, signer: Signer, good: Case) -> None:
    for now in (stored.audit.expires, NOW - timedelta(seconds=1)):
        with pytest.raises(PolicyError) as refused:
            attest(stored, signers=[signer], now=now, targets=targets(good))
        assert refused.value.code == "audit_expired"


def test_an_audit_of_other_bytes_or_of_another_bundle_is_not_attested(stored: StoredAudit, signer: Signer, good: Case) -> None:
    for other in (targets(good, variant=good.original), targets(good, manifest=Digest.of(b"other"))):
        with pytest.raises(TrustError) as refused:
            attest(stored, signers=[signer], now=NOW, targets=other)
        assert refused.value.code == "attestation_subject"


def test_no_key_and_no_variant_are_errors(stored: StoredAudit, signer: Signer, good: Case) -> None:
    with pytest.raises(UsageError, match="no key"):
        attest(stored, signers=[], now=NOW, targets=targets(good))
    empty = replace(stored, audit=replace(stored.audit, subjects=stored.audit.subjects[:1]))
    with pytest.raises(UsageError, match="no variant"):
        attest(empty, signers=[signer], now=NOW, targets=targets(good))


def test_every_byte_of_a_statement_is_covered(stored: StoredAudit, signer: Signer, good: Case) -> None:
    envelope = attest(stored, signers=[signer], now=NOW, targets=targets(good))["int8-static"].full
    for position in range(0, len(envelope), 97):
        changed = bytearray(envelope)
        changed[position] ^= 1
        with pytest.raises(VerificationError):
            verify_attestation(bytes(changed), keys=[signer.public_key], now=NOW)


def test_a_statement_signed_by_another_key_or_about_other_bytes_is_refused(stored: StoredAudit, signer: Signer, good: Case) -> None:
    envelope = attest(stored, signers=[signer], now=NOW, targets=targets(good))["int8-static"].full
    with pytest.raises(TrustError, match="too few"):
        verify_attestation(envelope, keys=[CryptoSigner.generate_ed25519().public_key], now=NOW)
    with pytest.raises(TrustError, match="other bytes"):
        verify_attestation(envelope, keys=[signer.public_key], subject=Digest.of(b"other"), now=NOW)


def test_statements_are_never_written_over_others_or_outside_the_folder(tmp_path: Path) -> None:
    write_attestations({"int8": SignedStatements(b"first", b"thin")}, tmp_path / "out")
    with pytest.raises(UsageError, match="exists"):
        write_attestations({"int8": SignedStatements(b"second", None), "fp32": SignedStatements(b"new", None)}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["int8.dsse.json", "int8.test-result.json"]
    with pytest.raises(UsageError, match="not a file name"):
        write_attestations({"../int8": SignedStatements(b"x", None)}, tmp_path / "out")
