"""Keys, envelopes, attestations and the channel: round trips, and each way to be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.errors import SealiftError, UsageError, VerificationError
from device_client.trust.attestation import PAYLOAD_TYPE, build_statement, verify_attestation
from device_client.trust.channel import Channel, parse_channel
from device_client.trust.dsse import sign_envelope, verify_envelope
from device_client.trust.keys import (
    fingerprint,
    key_from_json,
    key_to_json,
    load_public_key,
    load_signer,
    new_key_file,
    public_value,
)
from tests.simulator import NOW
from tests.statements import passed

AUDITOR, OTHER = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
AUDIT = passed(Digest.of(b"model"), "int8", original=Digest.of(b"original"), audited_at=NOW, expires=NOW + timedelta(days=30))
ENVELOPE = sign_envelope(build_statement(AUDIT), payload_type=PAYLOAD_TYPE, signers=[AUDITOR])


def _verify(data: bytes = ENVELOPE, **changes: object) -> object:
    arguments: dict[str, object] = {"keys": [AUDITOR.public_key], "now": NOW, "subject": AUDIT.subject} | changes
    return verify_attestation(data, **arguments)  # type: ignore[arg-type]


def test_an_attestation_round_trips() -> None:
    assert _verify().audit == AUDIT  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"keys": [OTHER.public_key]}, "signature_threshold"),
        ({"keys": [AUDITOR.public_key, AUDITOR.public_key], "threshold": 2}, "signature_threshold"),
        ({"subject": Digest.of(b"other model")}, "attestation_subject"),
        ({"now": NOW + timedelta(days=31)}, "attestation_expired"),
    ],
)
def test_an_attestation_that_does_not_hold_is_refused(changes: dict[str, object], code: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        _verify(**changes)
    assert refusal.value.code == code


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(ENVELOPE) - 1), value=st.integers(0, 255))
def test_any_one_byte_change_of_an_attestation_is_refused_or_says_the_same(position: int, value: int) -> None:
    changed = bytearray(ENVELOPE)
    changed[position] = value
    try:
        verified = _verify(bytes(changed))
    except VerificationError:
        return
    assert verified.audit == AUDIT  # type: ignore[attr-defined]


def test_an_unknown_predicate_field_is_refused() -> None:
    statement = json.loads(build_statement(AUDIT))
    statement["predicate"]["only_for"] = "somebody"
    data = sign_envelope(json.dumps(statement).encode(), payload_type=PAYLOAD_TYPE, signers=[AUDITOR])
    with pytest.raises(VerificationError) as refusal:
        _verify(data)
    assert refusal.value.code == "field_unknown"


def test_a_statement_that_expires_before_it_begins_is_refused() -> None:
    backwards = replace(AUDIT, expires=NOW - timedelta(days=1))
    data = sign_envelope(build_statement(backwards), payload_type=PAYLOAD_TYPE, signers=[AUDITOR])
    with pytest.raises(VerificationError) as refusal:
        _verify(data)
    assert refusal.value.code == "time_order"


def test_an_envelope_of_another_payload_type_is_refused() -> None:
    with pytest.raises(VerificationError):
        verify_envelope(ENVELOPE, payload_type="text/plain", keys=[AUDITOR.public_key], max_bytes=10_000, where="test")


def test_a_channel_round_trips_and_its_floor_stays_below() -> None:
    channel = Channel("1.0.0", Counter(0, 3), Counter(0, 1))
    assert parse_channel(channel.to_bytes()) == channel
    with pytest.raises(VerificationError):
        parse_channel(replace(channel, floor=Counter(0, 4)).to_bytes())
    with pytest.raises(VerificationError):
        parse_channel(channel.to_bytes().replace(b'"schema":1', b'"schema":2'))


@pytest.mark.parametrize("scheme", ["ed25519", "ecdsa-sha2-nistp256", "ml-dsa-65"])
def test_a_key_file_opens_with_its_passphrase_only(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    public = new_key_file(path, scheme=scheme, passphrase=b"correct horse")
    assert path.stat().st_mode & 0o777 == 0o600
    signer = load_signer(f"file:{path}", passphrase=lambda _: b"correct horse")
    assert public_value(signer.public_key) == public_value(public) == public_value(load_public_key(Path(f"{path}.pub")))
    with pytest.raises(UsageError) as refusal:
        load_signer(f"file:{path}", passphrase=lambda _: b"wrong")
    assert refusal.value.code == "key_passphrase"


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    new_key_file(tmp_path / "a.key", passphrase=b"correct horse")
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(UsageError):
        new_key_file(tmp_path / "a.key", passphrase=b"correct horse")
    assert (tmp_path / "a.key").read_bytes() == before


def test_an_unencrypted_private_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.key").write_bytes(CryptoSigner.generate_ed25519().private_bytes)
    with pytest.raises(UsageError) as refusal:
        load_signer(f"file:{tmp_path / 'plain.key'}", passphrase=lambda _: b"")
    assert refusal.value.code == "key_unencrypted"


def test_the_fingerprint_does_not_depend_on_spelling() -> None:
    value = key_to_json(AUDITOR.public_key)
    shouted = json.loads(json.dumps(value).replace(value["keyval"]["public"], value["keyval"]["public"].upper()))  # type: ignore[index]
    assert fingerprint(key_from_json(shouted, where="key")) == fingerprint(AUDITOR.public_key)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "zz"}},
        {"keytype": "x", "scheme": "y", "keyval": {"public": ""}},
    ],
)
def test_something_else_than_a_key_is_refused(value: object) -> None:
    with pytest.raises(SealiftError):
        key_from_json(value, where="key")
