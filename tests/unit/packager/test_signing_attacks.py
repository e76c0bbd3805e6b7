"""A shared folder or server without any key tries to have honest people sign what they were not shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, Metadata, Root, TargetFile, Targets

from device_client.bundle import Counter, Digest, VerifiedBundle
from device_client.errors import SealiftError
from device_client.trust.custom import ReleaseCustom, Rollout
from device_client.trust.refs import BlobRef
from device_client.trust.rules import parse_role
from device_client.trust.times import format_time
from packager.commands_sign import sign
from packager.repository import to_bytes
from packager.sign import Draft, open_draft, prepare_release, store_signed
from tests.unit.packager.people import RELEASE, People
from tests.unit.packager.test_sign import _attest, _audit, _bundle

EVIL = f"release/{RELEASE.removeprefix('release-')}/ocr/6.6.6.json"


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "repo").hold_ceremony()


def _prepare(people: People, bundle: VerifiedBundle | None = None) -> Draft:
    return prepare_release(
        bundle or _bundle(),
        staging=people.staging,
        measurements=b"{}",
        floor=None,
        rollout=Rollout(None, 1),
        now=people.now,
    )


def _forged_release(people: People) -> Metadata[Targets]:
    """A "published" version that lists one more bundle; nobody who may sign it has."""
    forged = Targets(version=1, expires=people.now + timedelta(days=20))
    forged.unrecognized_fields["issued"] = format_time(people.now)
    custom = ReleaseCustom(Counter(0, 1), Counter(0, 0), BlobRef.of(b"x"), Rollout()).to_json()
    forged.targets[EVIL] = TargetFile(1, {"sha256": Digest.of(b"evil").hex}, EVIL, {"custom": custom})
    return Metadata(forged)


def _code(action: Callable[[], object]) -> str:
    with pytest.raises(SealiftError) as refusal:
        action()
    return refusal.value.code


def _stored(people: People) -> Draft:
    draft = _prepare(people)
    store_signed(draft, signers=people.signers[RELEASE][:1], staging=people.staging, replace=False, now=people.now)
    return draft


def test_a_forged_published_version_is_not_carried_over_into_what_people_sign(people: People) -> None:
    people.staging.write_role(RELEASE, 1, to_bytes(_forged_release(people)))
    assert _code(lambda: _prepare(people)) == "signature_threshold"


def test_a_forged_published_version_signed_by_another_role_is_refused(people: People) -> None:
    forged = _forged_release(people)
    for signer in [*people.signers["root"], *people.signers["snapshot"], people.signers[RELEASE][0]]:
        forged.sign(signer, append=True)
    people.staging.write_role(RELEASE, 1, to_bytes(forged))
    assert _code(lambda: _prepare(people)) == "signature_threshold"


def test_forged_targets_and_root_are_refused(people: People) -> None:
    for role in ("targets", "root"):
        data = people.staging.role_bytes(role)
        assert data is not None
        forged = parse_role(data, where=role)
        forged.signed.version = 2
        forged.signatures.clear()
        forged.sign(CryptoSigner.generate_ed25519())
        people.staging.write_role(role, 2, to_bytes(forged))
        assert _code(lambda: _prepare(people)) == "signature_threshold"


def test_a_repository_with_a_root_of_its_own_is_told_by_the_digest(people: People, tmp_path: Path) -> None:
    other = People(tmp_path / "other").hold_ceremony()
    assert _stored(people).root_digest != _stored(other).root_digest
    key = tmp_path / "no.pem"
    arguments = ["--repo", str(tmp_path / "other"), "--role", RELEASE, "--key", f"file:{key}", "--yes", "--root-sha256"]
    refused = CliRunner().invoke(sign, [*arguments, _prepare(people).root_digest.hex])
    assert isinstance(refused.exception, SealiftError)
    assert refused.exception.code == "root_digest"
    good = CliRunner().invoke(sign, [*arguments, str(_prepare(other).root_digest)])
    assert isinstance(good.exception, SealiftError)
    assert good.exception.code == "key_missing"


def _change_share(draft: Draft) -> None:
    _custom(draft)["rollout"] = {"max_percent": 100}


def _change_floor(draft: Draft) -> None:
    _custom(draft)["floor"] = [0, 7]


def _custom(draft: Draft) -> dict[str, object]:
    (entry,) = [entry for path, entry in draft.metadata.signed.targets.items() if not path.endswith("channel.json")]
    custom: dict[str, object] = entry.custom
    return custom


@pytest.mark.parametrize(
    ("change", "line"), [(_change_share, "max_percent = 100"), (_change_floor, "custom.floor = [0, 7]")], ids=["share", "floor"]
)
def test_a_changed_field_of_a_record_is_shown_to_the_second_signer(
    people: People, change: Callable[[Draft], None], line: str
) -> None:
    draft = _stored(people)
    assert not any(line in shown for shown in draft.changes)
    change(draft)
    people.staging.put_draft(RELEASE, to_bytes(draft.metadata), replace=True)
    again = open_draft(RELEASE, staging=people.staging)
    assert again is not None
    assert any(line in shown for shown in again.changes)


def test_verdicts_and_the_channels_words_are_shown(people: People) -> None:
    assert any("says latest 1.0.0, counter 0.7, floor 0.0" in line for line in _prepare(people).changes)
    bundle = _bundle()
    changes = _audit(people, bundle, _attest(people, bundle)).changes
    assert any('verdict = "PASSED"' in line for line in changes)
    assert any('custom.status = "active"' in line for line in changes)


def test_a_new_root_key_and_a_lower_threshold_are_shown(people: People) -> None:
    data = people.staging.role_bytes("root")
    assert data is not None
    root: Metadata[Root] = parse_role(data, where="root")
    stranger = CryptoSigner.generate_ed25519().public_key
    root.signed.version = 2
    root.signed.add_key(stranger, "root")
    root.signed.roles["root"].threshold = 1
    people.staging.put_draft("root", to_bytes(root), replace=True)
    draft = open_draft("root", staging=people.staging)
    assert draft is not None
    assert "change roles.root.threshold: 2 -> 1" in draft.changes
    assert any(f"keys.{stranger.keyid}.keyval.public" in line for line in draft.changes)


def test_a_hostile_draft_cannot_write_on_the_terminal(people: People) -> None:
    draft = _stored(people)
    path = "release/clinic/x/1.json"
    draft.metadata.signed.targets[path] = TargetFile(1, {"sha256": "0" * 64}, path, {"custom": {"note": "\x1b[2K\r"}})
    people.staging.put_draft(RELEASE, to_bytes(draft.metadata), replace=True)
    again = open_draft(RELEASE, staging=people.staging)
    assert again is not None
    assert any(path in line for line in again.changes)
    assert all(line.isprintable() for line in again.changes)


def test_a_hostile_path_is_refused_and_cannot_write_on_the_terminal_either(people: People) -> None:
    draft = _stored(people)
    draft.metadata.signed.targets["release/clinic/x/\x1b[2K\r.json"] = TargetFile(1, {"sha256": "0" * 64}, "x")
    people.staging.put_draft(RELEASE, to_bytes(draft.metadata), replace=True)
    with pytest.raises(SealiftError) as refusal:
        open_draft(RELEASE, staging=people.staging)
    assert refusal.value.code == "path_outside_role"
    assert str(refusal.value).isprintable()


def _root_document(people: People, draft: Draft) -> Metadata[Root]:
    data = people.staging.role_bytes("root")
    assert data is not None
    return parse_role(data, where="root")


def _far_version(people: People, draft: Draft) -> Metadata[Targets]:
    draft.metadata.signed.version = 2**40
    return draft.metadata


def _long_life(people: People, draft: Draft) -> Metadata[Targets]:
    draft.metadata.signed.expires += timedelta(days=1000)
    return draft.metadata


def _foreign_path(people: People, draft: Draft) -> Metadata[Targets]:
    draft.metadata.signed.targets["audit/clinic/ocr/1.json"] = TargetFile(1, {"sha256": "0" * 64}, "x")
    return draft.metadata


def _nested(people: People, draft: Draft) -> Metadata[Targets]:
    draft.metadata.signed.delegations = Delegations({}, {})
    return draft.metadata


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (_root_document, "metadata_syntax"),
        (_far_version, "draft_version"),
        (_long_life, "expiry_over_cap"),
        (_foreign_path, "path_outside_role"),
        (_nested, "delegation_nested"),
    ],
)
def test_a_draft_that_is_not_the_roles_next_version_is_not_opened_for_signing(
    people: People, forge: Callable[[People, Draft], Metadata[Root] | Metadata[Targets]], code: str
) -> None:
    people.staging.put_draft(RELEASE, to_bytes(forge(people, _stored(people))), replace=True)
    assert _code(lambda: open_draft(RELEASE, staging=people.staging)) == code
