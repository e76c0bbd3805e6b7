"""What was changed after the fact is refused, each with its own code: bundle, policy, evidence, statements.

``CASES`` names every case with the code of its refusal; a benchmark counts them. Statements are given to `audit verify` and to
`sign` alike. Where an auditor's own key signs the change, only what the statement says about itself, and the policy, can tell.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from audits.attest import attest
from audits.commands_statements import expected_policy
from audits.evidence import Audit, SubjectEvidence
from audits.policy import Policy, load_policy
from audits.reissue import reissue
from audits.run import RunResult
from audits.store import DIGEST_FILE, read_stored, write_audit
from audits.targets import BundleTargets, load_bundle
from audits.verdict import rule
from audits.waive import statements_of
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.bundle.verified import verify_bundle
from device_client.errors import SealiftError
from device_client.trust.attestation import PAYLOAD_TYPE, build_statement
from device_client.trust.attestation_set import verify_attestation_set
from device_client.trust.dsse import sign_envelope
from packager.sign import prepare_audit
from tests.unit.audits.conftest import NOW, Case
from tests.unit.bundle.samples import sample_bundle, write_layout
from tests.unit.packager.people import AUDIT, RELEASE, People

Document = dict[str, Any]
REASON = "no personal data"


@dataclass(frozen=True)
class Town:
    """Everything honest: a bundle of two variants, its audit, its statements, and the people who sign."""

    folder: Path
    people: People
    targets: BundleTargets
    policy: Policy
    audit: Audit
    envelopes: tuple[bytes, ...]
    thin: bytes

    @property
    def auditor(self) -> CryptoSigner:
        return self.people.signers[AUDIT][0]

    @property
    def now(self) -> datetime:
        return NOW

    def statement(self, index: int = 0) -> Document:
        value: Document = json.loads(base64.b64decode(json.loads(self.envelopes[index])["payload"]))
        return value

    def seal(self, statement: Document | bytes, *signers: CryptoSigner) -> bytes:
        payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
        return sign_envelope(payload, payload_type=PAYLOAD_TYPE, signers=list(signers or (self.auditor,)))

    def verify(self, envelopes: list[bytes], *, policy: Policy | None = None, threshold: int = 1, now: datetime = NOW) -> None:
        verify_attestation_set(
            [(f"file {index}", data) for index, data in enumerate(envelopes)],
            variants={variant.model.digest: variant.id for variant in self.targets.variants},
            keys=[signer.public_key for signer in self.people.signers[AUDIT]],
            now=now,
            threshold=threshold,
            waiver_threshold=2,
            expected=expected_policy(policy or self.policy),
        )

    def sign(self, envelopes: list[bytes], *, policy: Policy | None = None, now: datetime = NOW) -> None:
        source, _, digest = bundle_source(self.folder)
        prepare_audit(
            verify_bundle(source, digest),
            staging=self.people.staging,
            attestations=envelopes,
            floor=None,
            now=now,
            expected=expected_policy(policy or self.policy),
        )


def bundle_source(folder: Path) -> Any:
    models = {name: (folder / f"{name}.onnx").read_bytes() for name in ("int8-static", "fp32")}
    return sample_bundle(models=models)


@pytest.fixture(scope="module")
def town(good: Case, good_run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("town")
    (folder / "int8-static.onnx").write_bytes(good.variant)
    (folder / "fp32.onnx").write_bytes(good.original)
    source, _, digest = bundle_source(folder)
    targets = load_bundle(write_layout(folder / "bundle", source, digest))
    result = _with_a_second_variant(good_run, targets)
    stored = write_audit(result, folder / "audit", private=False)
    people = People(folder / "repo", now=NOW).hold_ceremony()
    signed = attest(stored, signers=people.signers[AUDIT][:1], now=NOW, targets=targets)
    thin = next(iter(signed.values())).thin
    assert thin is not None
    return Town(folder, people, targets, stored.audit.policy, stored.audit, tuple(item.full for item in signed.values()), thin)


def _with_a_second_variant(result: RunResult, targets: BundleTargets) -> RunResult:
    """The honest run, as if the original had been shipped too: its findings are those of the original."""
    (family,) = result.audit.families
    first, int8 = result.audit.subjects
    families = (
        replace(
            family,
            findings={**family.findings, "fp32": family.findings["original"]},
            detail={**family.detail, "fp32": family.detail["original"]},
        ),
    )
    ruling = rule("fp32", first.facts, families, result.audit.policy)
    second = SubjectEvidence("fp32", first.digest, first.size_bytes, first.facts, ruling)
    bundle = {"manifest": str(targets.manifest), "path": targets.path}
    audit = replace(result.audit, families=families, subjects=(first, int8, second), bundle=bundle)
    return replace(result, audit=audit)


def code_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except SealiftError as refusal:
        return refusal.code
    return None


def flip(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def test_everything_honest_is_accepted(town: Town) -> None:
    assert read_stored(town.folder / "audit").audit.to_bytes() == town.audit.to_bytes()
    town.verify(list(town.envelopes))
    town.sign(list(town.envelopes))


# The bundle


def _blob(folder: Path, largest: int) -> Path:
    return sorted((folder / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)[-1 - largest]


def flip_blob(folder: Path, *, largest: int) -> None:
    path = _blob(folder, largest)
    path.write_bytes(flip(path.read_bytes(), path.stat().st_size // 2))


def flip_manifest(folder: Path) -> None:
    digest = json.loads((folder / "index.json").read_bytes())["manifests"][0]["digest"].removeprefix("sha256:")
    path = folder / "blobs" / "sha256" / digest
    path.write_bytes(flip(path.read_bytes(), 40))


def swap_index(folder: Path) -> None:
    path = folder / "index.json"
    document = json.loads(path.read_bytes())
    document["manifests"][0]["digest"] = str(Digest.of(b"other"))
    path.write_bytes(canonical_json(document))


def truncate(folder: Path) -> None:
    path = _blob(folder, 0)
    path.write_bytes(path.read_bytes()[:-1])


BUNDLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of the first model": (partial(flip_blob, largest=0), "blob_digest_mismatch"),
    "one bit of the second model": (partial(flip_blob, largest=1), "blob_digest_mismatch"),
    "one bit of the manifest": (flip_manifest, "blob_digest_mismatch"),
    "an index that names another manifest": (swap_index, "blob_missing"),
    "a model cut short": (truncate, "blob_size_mismatch"),
    "a blob that is gone": (lambda folder: _blob(folder, 0).unlink(), "blob_missing"),
    "a blob that nobody listed": (
        lambda folder: (folder / "blobs" / "sha256" / Digest.of(b"more").hex).write_bytes(b"more"), "blob_unlisted",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "code"), BUNDLE.values(), ids=BUNDLE.keys())
def test_a_changed_bundle_is_not_audited_or_attested(
    change: Callable[[Path], object], code: str, town: Town, tmp_path: Path
) -> None:
    folder = shutil.copytree(town.folder / "bundle", tmp_path / "bundle")
    assert code_of(lambda: load_bundle(folder)) is None
    change(folder)
    assert code_of(lambda: load_bundle(folder)) == code


# The policy

POLICY: dict[str, tuple[str, str]] = {
    "one number of the policy": ("[decision]\nalpha = 0.02\npermutations = 1999\nbootstraps = 300\n", "attestation_policy"),
    "another tier": ('tier = "standard"\n', "attestation_policy"),
    "another version": ("version = 2\n", "attestation_policy"),
    "another id": ('id = "mine"\n', "attestation_policy"),
    "fewer restarts": ("[inversion]\nrestarts = 1\n", "attestation_policy"),
    "a longer expiry": ("expiry_days = 400\n", "attestation_policy"),
    "an unknown key": ("tolerance = 1.0\n", "policy_unknown_key"),
}


@pytest.mark.parametrize(("text", "code"), POLICY.values(), ids=POLICY.keys())
def test_statements_do_not_hold_under_another_policy(text: str, code: str, town: Town, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    assert code_of(lambda: town.verify(list(town.envelopes), policy=load_policy(path))) == code
    assert code_of(lambda: town.sign(list(town.envelopes), policy=load_policy(path))) == code


# The evidence


def put(*path: str | int, value: Any) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return edit


def drop(*path: str | int) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return edit


def a_leak_edited_away(document: Document) -> None:
    """The finding says leak, the verdict still says pass."""
    document["families"][0]["findings"]["int8-static"][0].update(p_value=0.001, p_adjusted=0.001)


def other_random_operators(document: Document) -> None:
    """Ruled consistently: only the bytes at hand can tell."""
    for subject in document["subjects"][1:2]:
        subject["random_operators"] = ["RandomNormal"]
        reason = "the graph draws random numbers (RandomNormal)"
        subject["verdict"] = subject["tests"][0]["result"] = "WARNED"
        subject["tests"][0]["reasons"] = [reason]
        subject["reasons"] = [f"inversion.instance: {reason}"]


def a_second_finding(document: Document) -> None:
    """The honest finding is there, and a better one after it."""
    found = document["families"][0]["findings"]["int8-static"]
    found.append({**found[0], "p_value": 1.0, "p_adjusted": 1.0})


FOUND = ("families", 0, "findings", "int8-static")
EVIDENCE: dict[str, tuple[Callable[[Document], None], str]] = {
    "a pass made of a leak": (a_leak_edited_away, "audit_edited"),
    "a verdict": (put("subjects", 1, "verdict", value="WARNED"), "audit_edited"),
    "reasons": (put("subjects", 1, "reasons", value=["all is well"]), "audit_edited"),
    "the result of one test": (put("subjects", 1, "tests", 0, "result", value="WARNED"), "audit_edited"),
    "a test that was removed": (put(*FOUND, value=[]), "audit_edited"),
    "the findings on a model": (drop(*FOUND), "audit_edited"),
    "a p-value": (put(*FOUND, 0, "p_adjusted", value=0.999), "audit_edited"),
    "a p-value that is none": (put(*FOUND, 0, "p_value", value=-0.1), "field_value"),
    "a blind test made to see": (put(*FOUND, 0, "blind", value=["parity did not hold"]), "audit_edited"),
    "an inconclusive test presented as a pass": (put(*FOUND, 0, "undone", value=["no attack converged"]), "audit_edited"),
    "controls that were removed": (put("families", 0, "controls", value=[]), "audit_edited"),
    "a control that did not hold": (put("families", 0, "controls", -1, "held", value=False), "audit_edited"),
    "a greater power": (put("families", 0, "power", value=0.05), "audit_edited"),
    "a family that was removed": (put("families", value=[]), "audit_edited"),
    "a gradient that nobody had": (put("subjects", 1, "gradient", value="exact"), "audit_edited"),
    "random operators that the graph does not have": (other_random_operators, "audit_edited"),
    "a second finding on one test": (a_second_finding, "audit_edited"),
    "a number of the policy inside": (put("policy", "values", "decision", "alpha", value=0.02), "audit_edited"),
    "the digest of the policy": (put("policy", "digest", value=str(Digest.of(b"other"))), "audit_edited"),
    "a test that the policy no longer requires": (put("policy", "values", "tests", "required", value=[]), "audit_syntax"),
    "an added field": (put("approved", value=True), "field_unknown"),
    "an added field of a finding": (put(*FOUND, 0, "approved", value=True), "field_unknown"),
    "another version of the document": (put("schema", value="sealift.audit/1"), "field_value"),
    "the digest of the images": (put("images", "digest", value=str(Digest.of(b"other"))), "audit_edited"),
    "the digest of a model": (put("subjects", 1, "digest", value=str(Digest.of(b"other"))), "attestation_subject"),
    "a model that was left out": (drop("subjects", 1), "attestation_subject"),
    "the digest of the bundle": (put("bundle", "manifest", value=str(Digest.of(b"other"))), "attestation_subject"),
    "the time of expiry, into the past": (put("expires", value="2026-03-01T11:59:59Z"), "audit_expired"),
    "the time of the audit, into the future": (put("audited_at", value="2026-03-01T12:00:01Z"), "audit_expired"),
}


@pytest.mark.parametrize(("change", "code"), EVIDENCE.values(), ids=EVIDENCE.keys())
def test_changed_evidence_is_not_attested_even_with_its_digest_renewed(
    change: Callable[[Document], None], code: str, town: Town, tmp_path: Path
) -> None:
    folder = shutil.copytree(town.folder / "audit", tmp_path / "audit")
    document = json.loads((folder / "audit.json").read_bytes())
    change(document)
    _renew(folder, canonical_json(document))
    assert code_of(lambda: attest(read_stored(folder), signers=[town.auditor], now=NOW, targets=town.targets)) == code


RAW_EVIDENCE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a key twice in the evidence": (lambda data: data.replace(b'{"audited_at"', b'{"suite":"x","audited_at"', 1), "json_syntax"),
    "a space in the evidence": (lambda data: data.replace(b",", b", ", 1), "audit_edited"),
    "a number that is none": (lambda data: data.replace(b'"duration_s":', b'"duration_s":NaN,"x":', 1), "json_syntax"),
}


@pytest.mark.parametrize(("change", "code"), RAW_EVIDENCE.values(), ids=RAW_EVIDENCE.keys())
def test_evidence_in_another_form_is_not_read(change: Callable[[bytes], bytes], code: str, town: Town, tmp_path: Path) -> None:
    folder = shutil.copytree(town.folder / "audit", tmp_path / "audit")
    _renew(folder, change((folder / "audit.json").read_bytes()))
    assert code_of(lambda: read_stored(folder)) == code


FILES = {f"one bit of {name}": (name, "audit_edited") for name in ("audit.json", "images.npz", DIGEST_FILE)}


@pytest.mark.parametrize(("name", "code"), FILES.values(), ids=FILES.keys())
def test_one_bit_of_a_file_is_seen(name: str, code: str, town: Town, tmp_path: Path) -> None:
    folder = shutil.copytree(town.folder / "audit", tmp_path / "audit")
    path = folder / name
    path.write_bytes(flip(path.read_bytes(), path.stat().st_size // 3))
    assert code_of(lambda: read_stored(folder)) == code


def _renew(folder: Path, data: bytes) -> None:
    (folder / "audit.json").write_bytes(data)
    (folder / DIGEST_FILE).write_text(f"{Digest.of(data).hex}  audit.json\n", encoding="ascii")


# Statements: each case gives the envelopes that somebody hands in


def envelope_edit(town: Town, edit: Callable[[Document], None]) -> list[bytes]:
    """The first envelope changed after signing."""
    document = json.loads(town.envelopes[0])
    edit(document)
    return [json.dumps(document).encode(), town.envelopes[1]]


def payload_bit(document: Document) -> None:
    payload = base64.b64decode(document["payload"])
    document["payload"] = base64.b64encode(flip(payload, len(payload) // 2)).decode()


def signature_bit(document: Document) -> None:
    signature = base64.b64decode(document["signatures"][0]["sig"])
    document["signatures"][0]["sig"] = base64.b64encode(flip(signature, 3)).decode()


def same_key_twice(document: Document, *, keyid: str | None) -> None:
    first = document["signatures"][0]
    document["signatures"].append({**first, "keyid": keyid or first["keyid"]})


def resigned(*edits: Callable[[Document], None]) -> Callable[[Town], list[bytes]]:
    """The first statement edited and signed anew by the auditor; the second is honest."""

    def make(town: Town) -> list[bytes]:
        statement = town.statement()
        for edit in edits:
            edit(statement)
        return [town.seal(statement), town.envelopes[1]]

    return make


def both(*edits: Callable[[Document], None]) -> Callable[[Town], list[bytes]]:
    """Both statements edited alike and signed anew by the auditor."""

    def make(town: Town) -> list[bytes]:
        statements = [town.statement(index) for index in (0, 1)]
        for statement in statements:
            for edit in edits:
                edit(statement)
        return [town.seal(statement) for statement in statements]

    return make


def one_test_more(statement: Document) -> None:
    """A required test replaced by an easier one, with controls of its own family."""
    statement["predicate"]["tests"][0]["id"] = "inversion.easy"


def waivers(town: Town, *signers: CryptoSigner, **changes: Any) -> list[bytes]:
    made = statements_of(town.targets, policy=town.policy, reason=REASON, days=30, now=NOW)
    return [town.seal(build_statement(replace(item, **changes)), *signers) for item in made.values()]


def of_another_bundle(town: Town) -> list[bytes]:
    statement = town.statement()
    statement["subject"][0]["digest"]["sha256"] = Digest.of(b"another model").hex
    return [*town.envelopes, town.seal(statement)]


def other_threat_model(town: Town) -> list[bytes]:
    statement = town.statement(1)
    statement["predicate"]["threat_model"] = "label_only"
    return [town.envelopes[0], town.seal(statement)]


def doubled_key(town: Town) -> list[bytes]:
    payload = json.dumps(town.statement()).encode().replace(b'"verdict"', b'"verdict": "PASSED", "verdict"', 1)
    return [town.seal(payload), town.envelopes[1]]


def doubled_key_outside(town: Town) -> list[bytes]:
    return [town.envelopes[0].replace(b'{"payload"', b'{"payloadType":"text/plain","payload"', 1), town.envelopes[1]]


TEST, CONTROL = ("predicate", "tests", 0), ("predicate", "controls", 0)
STATEMENTS: dict[str, tuple[Callable[[Town], list[bytes]], str]] = {
    "one bit of the payload": (lambda town: envelope_edit(town, payload_bit), "signature_threshold"),
    "one bit of the signature": (lambda town: envelope_edit(town, signature_bit), "signature_threshold"),
    "another payload type": (lambda town: envelope_edit(town, put("payloadType", value="text/plain")), "field_value"),
    "no signature": (lambda town: envelope_edit(town, put("signatures", value=[])), "signature_threshold"),
    "a key that nobody knows": (
        lambda town: [town.seal(town.statement(), CryptoSigner.generate_ed25519()), town.envelopes[1]], "signature_threshold",
    ),
    "a release key as auditor": (
        lambda town: [town.seal(town.statement(), *town.people.signers[RELEASE]), town.envelopes[1]], "signature_threshold",
    ),
    "one key twice under one id": (lambda town: envelope_edit(town, partial(same_key_twice, keyid=None)), "dsse_syntax"),
    "a key twice in an envelope's JSON": (doubled_key_outside, "json_syntax"),
    "a key twice in a statement's JSON": (doubled_key, "json_syntax"),
    "no statement": (lambda _: [], "attestation_missing"),
    "the other variant left out": (lambda town: [town.envelopes[0]], "attestation_incomplete"),
    "the other variant's verdict instead": (lambda town: [town.envelopes[1], town.envelopes[1]], "attestation_twice"),
    "another variant's name": (resigned(put("subject", 0, "name", value="fp16")), "attestation_subject"),
    "another bundle's statement": (of_another_bundle, "attestation_subject"),
    "two subjects in one statement": (
        lambda town: [town.seal({**town.statement(), "subject": town.statement()["subject"] * 2}), town.envelopes[1]], "too_many",
    ),
    "no subject": (resigned(put("subject", value=[])), "attestation_subject"),
    "the digest of another hash": (resigned(put("subject", 0, "digest", value={"sha1": "00"})), "field_unknown"),
    "the thin statement in place of the full one": (lambda town: [town.thin, town.envelopes[1]], "field_value"),
    "an older predicate": (resigned(put("predicateType", value="urn:sealift:predicate:privacy-audit:v1")), "field_value"),
    "a newer predicate": (resigned(put("predicateType", value="urn:sealift:predicate:privacy-audit:v3")), "field_value"),
    "an added field": (resigned(put("predicate", "approved", value=True)), "field_unknown"),
    "an added field of a test": (resigned(put(*TEST, "note", value="")), "field_unknown"),
    "a field that is gone": (resigned(drop("predicate", "gradient")), "field_missing"),
    "an inconclusive test presented as a pass": (resigned(put(*TEST, "result", value="INCONCLUSIVE")), "attestation_verdict"),
    "a failed test presented as a pass": (resigned(put(*TEST, "result", value="FAILED")), "attestation_verdict"),
    "a failure turned into a warning": (
        resigned(put(*TEST, "result", value="FAILED"), put("predicate", "verdict", value="WARNED")), "attestation_verdict",
    ),
    "a pass without tests": (resigned(put("predicate", "tests", value=[])), "attestation_verdict"),
    "a pass without controls": (resigned(put("predicate", "controls", value=[])), "attestation_verdict"),
    "a pass although controls failed": (resigned(put(*CONTROL, "held", value=False)), "attestation_verdict"),
    "a pass by an audit without power": (resigned(put(*CONTROL, "power", value=None)), "attestation_verdict"),
    "a pass without evidence": (resigned(put("predicate", "evidence", value=None)), "attestation_verdict"),
    "a p-value that is none": (resigned(put(*TEST, "p_value", value=2)), "field_value"),
    "a verdict that does not exist": (resigned(put("predicate", "verdict", value="GOOD")), "field_value"),
    "an expiry in the past": (resigned(put("predicate", "expires", value="2026-03-01T12:00:00Z")), "time_order"),
    "an audit in the future": (
        resigned(put("predicate", "audited_at", value="2026-03-01T12:10:01Z")), "attestation_early",
    ),
    "another policy on one variant": (
        resigned(put("predicate", "policy", "digest", value=str(Digest.of(b"easy")))), "attestation_policy",
    ),
    "another policy on all variants": (
        both(put("predicate", "policy", "digest", value=str(Digest.of(b"easy")))), "attestation_policy",
    ),
    "another threat model on one variant": (other_threat_model, "attestation_policy"),
    "a waiver by one of two auditors": (waivers, "signature_threshold"),
    "a waiver without a reason": (lambda town: waivers(town, *town.people.signers[AUDIT], reason=None), "attestation_verdict"),
    "a waiver with an empty reason": (lambda town: waivers(town, *town.people.signers[AUDIT], reason=" "), "attestation_verdict"),
    "a waiver dressed as an audit": (
        lambda town: waivers(town, *town.people.signers[AUDIT], evidence=Digest.of(b"x")), "attestation_verdict",
    ),
    "a pass made of a waiver": (
        lambda town: waivers(town, *town.people.signers[AUDIT], verdict="PASSED", reason=None), "attestation_verdict",
    ),
    "a deeper tier than the policy's": (both(put("predicate", "tier", value="deep")), "attestation_tier"),
    "another threat model than the policy's": (both(put("predicate", "threat_model", value="sealed_api")), "attestation_tier"),
    "a required test exchanged for another": (both(one_test_more), "attestation_tests"),
    "a statement longer than any": (
        lambda town: [town.envelopes[0] + b" " * 300_000, town.envelopes[1]], "too_large",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "code"), STATEMENTS.values(), ids=STATEMENTS.keys())
def test_changed_statements_are_refused_by_verify_and_by_sign_alike(
    make: Callable[[Town], list[bytes]], code: str, town: Town
) -> None:
    envelopes = make(town)
    assert code_of(lambda: town.verify(envelopes)) == code
    assert code_of(lambda: town.sign(envelopes)) == code


LATER: dict[str, tuple[Callable[[Town], object], str]] = {
    "after its expiry": (lambda town: town.verify(list(town.envelopes), now=town.audit.expires), "attestation_expired"),
    "after its expiry, by a signer": (lambda town: town.sign(list(town.envelopes), now=town.audit.expires), "attestation_expired"),
    "before it was made": (lambda town: town.verify(list(town.envelopes), now=NOW - timedelta(hours=1)), "attestation_early"),
    "by one auditor of two": (lambda town: town.verify(list(town.envelopes), threshold=2), "signature_threshold"),
    "by one auditor under two ids": (
        lambda town: town.verify(
            envelope_edit(town, partial(same_key_twice, keyid=town.people.signers[AUDIT][1].public_key.keyid)), threshold=2
        ),
        "signature_threshold",
    ),
    "a waiver carried over": (lambda town: carried_over(town, waivers(town, *town.people.signers[AUDIT])), "waiver_reissued"),
    "carried over after its expiry": (
        lambda town: carried_over(town, list(town.envelopes), now=town.audit.expires), "attestation_expired",
    ),
    "carried over to other bytes": (lambda town: carried_over(town, of_another_bundle(town)), "attestation_subject"),
    "carried over to a part of a bundle": (lambda town: carried_over(town, [town.envelopes[0]]), "attestation_incomplete"),
    "carried over from a stranger": (
        lambda town: carried_over(town, [town.seal(town.statement(), CryptoSigner.generate_ed25519())]), "signature_threshold",
    ),
}  # fmt: skip


def carried_over(town: Town, old: list[bytes], *, now: datetime = NOW) -> object:
    keys = [signer.public_key for signer in town.people.signers[AUDIT]]
    named = [(f"old {index}", data) for index, data in enumerate(old)]
    return reissue(named, keys=keys, signers=[town.auditor], now=now, targets=town.targets)


@pytest.mark.parametrize(("call", "code"), LATER.values(), ids=LATER.keys())
def test_honest_statements_are_refused_where_they_do_not_belong(call: Callable[[Town], object], code: str, town: Town) -> None:
    assert code_of(lambda: call(town)) == code


CASES: dict[str, str] = {
    f"{part}: {name}": case[1]
    for part, cases in (
        ("bundle", BUNDLE),
        ("policy", POLICY),
        ("evidence", EVIDENCE),
        ("evidence", RAW_EVIDENCE),
        ("files", FILES),
        ("statement", STATEMENTS),
        ("later", LATER),
    )
    for name, case in cases.items()
}


def test_at_least_thirty_cases_are_tried() -> None:
    assert len(CASES) >= 30
