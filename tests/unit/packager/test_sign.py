"""Signing for release and audit roles in a shared folder: who may, what is refused, what is shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from device_client.bundle import Counter, Digest, VerifiedBundle, verify_bundle
from device_client.errors import SealiftError
from device_client.trust.attestation import PAYLOAD_TYPE, build_statement, verify_attestation
from device_client.trust.channel import parse_channel
from device_client.trust.custom import Rollout, parse_audit_custom, parse_release_custom
from device_client.trust.dsse import sign_envelope
from device_client.trust.expected_policy import ExpectedPolicy
from device_client.trust.refs import BlobRef
from device_client.trust.rules import parse_role, verify_delegated
from packager.ceremony import hold_first_ceremony
from packager.commands_sign import read_attestations
from packager.publish import plan_publish, publish_plan
from packager.sign import Draft, open_draft, prepare_audit, prepare_release, same_content, store_signed
from packager.staging import DirStaging
from tests.statements import passed, waived
from tests.unit.bundle.samples import sample_bundle, sample_contract, write_layout
from tests.unit.packager.people import AUDIT, RELEASE, People


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "repo").hold_ceremony()


def _bundle(version: str = "1.0.0", *, n: int = 7) -> VerifiedBundle:
    contract = replace(sample_contract(version=version), counter=Counter(0, n))
    source, _, digest = sample_bundle(contract)
    return verify_bundle(source, digest)


def _release(people: People, bundle: VerifiedBundle, *, floor: Counter | None = None) -> Draft:
    return prepare_release(
        bundle, staging=people.staging, measurements=b'{"latency":1}', floor=floor, rollout=Rollout(), now=people.now
    )


def _attest(
    people: People, bundle: VerifiedBundle, *, signer: CryptoSigner | None = None, subject: Digest | None = None
) -> list[bytes]:
    variants = {variant.model.digest: variant.id for variant in bundle.contract.variants}
    about = {subject: "v"} if subject else variants
    times = {"audited_at": people.now, "expires": people.now + timedelta(days=20)}
    statements = [build_statement(passed(digest, name, **times)) for digest, name in about.items()]
    signers = [signer or people.signers[AUDIT][0]]
    return [sign_envelope(statement, payload_type=PAYLOAD_TYPE, signers=signers) for statement in statements]


def _sign(people: People, draft: Draft, *signers: CryptoSigner) -> None:
    store_signed(draft, signers=signers or people.signers[draft.role], staging=people.staging, replace=False, now=people.now)


def _published(people: People, role: str) -> Metadata[Targets]:
    data = people.staging.role_bytes(role)
    assert data is not None
    return parse_role(data, where=role)


def _code(action: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(SealiftError) as refusal:
        action(*args, **kwargs)  # type: ignore[operator]
    return refusal.value.code


def test_two_calls_by_two_people_meet_the_threshold(people: People) -> None:
    draft = _release(people, _bundle())
    _sign(people, draft, people.signers[RELEASE][0])
    assert draft.signatures.needed == 1
    again = open_draft(RELEASE, staging=people.staging)
    assert again is not None
    assert again.signatures.missing == (people.signers[RELEASE][1].public_key.keyid,)
    _sign(people, again, people.signers[RELEASE][1])
    targets = _published(people, "targets").signed
    assert verify_delegated(targets, RELEASE, people.staging.draft(RELEASE) or b"", now=people.now)


def test_the_release_draft_names_manifest_channel_and_measurements(people: People) -> None:
    bundle = _bundle()
    draft = _release(people, bundle, floor=Counter(0, 3))
    entries = draft.metadata.signed.targets
    record = parse_release_custom(entries[bundle.path.release_target].custom, "test")
    assert (record.counter, record.floor) == (Counter(0, 7), Counter(0, 3))
    assert record.measurements == BlobRef.of(b'{"latency":1}')
    channel = entries[bundle.path.of_model.channel_target]
    (data,) = [data for ref, data in draft.blobs.items() if ref.digest.hex == channel.hashes["sha256"]]
    assert parse_channel(data).latest == "1.0.0"
    assert draft.changes[0].startswith("version none -> 1")
    assert any(line.startswith(f"add {bundle.path.release_target}") for line in draft.changes)


def test_a_key_outside_the_role_cannot_sign(people: People) -> None:
    draft = _release(people, _bundle())
    assert _code(_sign, people, draft, people.signers[AUDIT][0]) == "key_not_in_role"
    assert people.staging.draft(RELEASE) is None


def test_a_counter_not_above_the_published_one_is_refused(people: People) -> None:
    _sign(people, _release(people, _bundle()))
    people.staging.publish(RELEASE)
    assert _code(_release, people, _bundle("1.1.0", n=7)) == "counter_not_above"
    assert _code(_release, people, _bundle("1.1.0", n=6)) == "counter_not_above"
    assert _code(_release, people, _bundle("1.0.0", n=8)) == "version_exists"
    assert _release(people, _bundle("1.1.0", n=8)).metadata.signed.version == 2


def test_a_floor_above_the_counter_is_refused(people: People) -> None:
    assert _code(_release, people, _bundle(), floor=Counter(0, 8)) == "floor_above_counter"


def test_a_draft_from_another_hour_is_not_signed(people: People) -> None:
    draft = _release(people, _bundle())
    people.now += timedelta(minutes=11)
    assert _code(_sign, people, draft) == "issued_clock"


def test_an_audit_role_signs_only_with_a_verified_attestation(people: People) -> None:
    bundle = _bundle()
    assert _code(_audit, people, bundle, []) == "attestation_missing"
    stranger = CryptoSigner.generate_ed25519()
    assert _code(_audit, people, bundle, _attest(people, bundle, signer=stranger)) == "signature_threshold"
    assert _code(_audit, people, bundle, _attest(people, bundle, signer=people.signers[RELEASE][0])) == "signature_threshold"
    assert _code(_audit, people, bundle, _attest(people, bundle, subject=Digest.of(b"other"))) == "attestation_subject"


def test_every_variant_needs_its_attestation_and_all_the_agreed_policy(people: People) -> None:
    bundle = _bundle()
    attestations = _attest(people, bundle)
    assert _code(_audit, people, bundle, attestations[:1]) == "attestation_incomplete"
    assert _code(_audit, people, bundle, [attestations[0], *attestations]) == "attestation_twice"
    agreed = verify_attestation(
        attestations[0], keys=[item.public_key for item in people.signers[AUDIT]], now=people.now, where="test"
    ).audit
    expected = ExpectedPolicy(agreed.policy, agreed.tier, agreed.threat_model, tuple(test.id for test in agreed.tests))
    assert _audit(people, bundle, attestations, expected=expected).role == AUDIT
    for other, code in (
        (replace(expected, policy=replace(agreed.policy, digest=Digest.of(b"other"))), "attestation_policy"),
        (replace(expected, policy=replace(agreed.policy, version=9)), "attestation_policy"),
        (replace(expected, tier="another"), "attestation_tier"),
        (replace(expected, threat_model="another"), "attestation_tier"),
        (replace(expected, required=("made.up",)), "attestation_tests"),
    ):
        assert _code(_audit, people, bundle, attestations, expected=other) == code


def test_a_waiver_is_signed_into_the_role_only_with_the_signatures_of_its_threshold(people: People) -> None:
    bundle = _bundle()
    times = {"audited_at": people.now, "expires": people.now + timedelta(days=20)}
    statements = [build_statement(waived(item.model.digest, item.id, **times)) for item in bundle.contract.variants]

    def sealed(count: int) -> list[bytes]:
        signers = people.signers[AUDIT][:count]
        return [sign_envelope(statement, payload_type=PAYLOAD_TYPE, signers=signers) for statement in statements]

    assert _code(_audit, people, bundle, sealed(1)) == "signature_threshold"
    draft = _audit(people, bundle, sealed(2))
    record = parse_audit_custom(draft.metadata.signed.targets[bundle.path.audit_target].custom, "test")
    assert {verdict.verdict for verdict in record.variants.values()} == {"WAIVED"}


def _audit(people: People, bundle: VerifiedBundle, attestations: list[bytes], *, expected: ExpectedPolicy | None = None) -> Draft:
    return prepare_audit(bundle, staging=people.staging, attestations=attestations, floor=None, now=people.now, expected=expected)


def test_the_audit_entry_carries_a_verdict_per_variant_and_the_release_floor(people: People) -> None:
    bundle = _bundle()
    _sign(people, _release(people, bundle, floor=Counter(0, 3)))
    draft = _audit(people, bundle, _attest(people, bundle))
    record = parse_audit_custom(draft.metadata.signed.targets[bundle.path.audit_target].custom, "test")
    assert set(record.variants) == {variant.model.digest for variant in bundle.contract.variants}
    assert (record.seq, record.floor, record.status) == (1, Counter(0, 3), "active")


def test_seq_counts_over_all_entries_of_the_model(people: People) -> None:
    first, second = _bundle(), _bundle("1.1.0", n=8)
    _sign(people, _audit(people, first, _attest(people, first)))
    people.staging.publish(AUDIT)
    draft = _audit(people, second, _attest(people, second))
    assert parse_audit_custom(draft.metadata.signed.targets[second.path.audit_target].custom, "test").seq == 2


def test_the_same_call_by_a_second_person_joins_the_draft(people: People) -> None:
    first, later = _release(people, _bundle()), _release(people, _bundle())
    later.metadata.signed.unrecognized_fields["issued"] = "2020-01-01T00:00:00Z"
    assert same_content(first, later)
    assert not same_content(first, _release(people, _bundle("1.1.0", n=8)))


def test_publish_sends_blobs_first_and_refuses_a_draft_below_its_threshold(people: People, tmp_path: Path) -> None:
    source, _, digest = sample_bundle(sample_contract())
    folder = write_layout(tmp_path / "bundle", source, digest)
    bundle = verify_bundle(source, digest)
    bundles = [(folder, bundle)]
    assert _code(plan_publish, bundles, staging=people.staging, roles=(), now=people.now) == "draft_missing"
    draft = _release(people, bundle)
    _sign(people, draft, people.signers[RELEASE][0])
    assert _code(plan_publish, bundles, staging=people.staging, roles=(), now=people.now) == "signature_threshold"
    _sign(people, draft, people.signers[RELEASE][1])
    plan = plan_publish(bundles, staging=people.staging, roles=(), now=people.now)
    assert plan.roles == ((RELEASE, 1),)
    publish_plan(plan, staging=people.staging)
    assert people.staging.draft(RELEASE) is None
    assert all(people.staging.has_blob(BlobRef(item.digest, item.size)) for item in bundle.manifest.layers)


def test_a_failed_ceremony_writes_nothing(tmp_path: Path) -> None:
    people = People(tmp_path / "repo")
    too_few = [people.signers["root"][0], *people.signers["targets"]]
    staging = DirStaging(tmp_path / "repo")
    assert _code(hold_first_ceremony, people.roles(), signers=too_few, staging=staging, now=people.now) == "threshold_missing"
    stranger = [*people.signers["root"], *people.signers["targets"], CryptoSigner.generate_ed25519()]
    assert _code(hold_first_ceremony, people.roles(), signers=stranger, staging=staging, now=people.now) == "key_not_in_role"
    assert not (tmp_path / "repo").exists()


def test_a_second_ceremony_in_the_same_folder_is_refused(people: People) -> None:
    signers = [*people.signers["root"], *people.signers["targets"]]
    again = _code(hold_first_ceremony, people.roles(), signers=signers, staging=people.staging, now=people.now)
    assert again == "repository_exists"


def test_a_folder_of_attestations_stands_for_all_of_them(tmp_path: Path) -> None:
    for name, text in (("b.dsse.json", b"2"), ("a.dsse.json", b"1"), ("a.test-result.json", b"thin")):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "other.json").write_bytes(b"3")
    assert read_attestations([tmp_path, tmp_path / "other.json"]) == [b"1", b"2", b"3"]
    assert _code(read_attestations, [tmp_path / "none"]) == "file_missing"
