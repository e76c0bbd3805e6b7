"""Envelopes: which signatures count, how often a key counts, and what is no envelope."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from device_client.errors import LimitError, TrustError
from device_client.trust.dsse import SignedPayload, read_unverified_payload, sign_envelope, verify_envelope
from tests.unit.trust.edited import REMOVED, Place, code_of, edited, with_a_stranger, without_one_field

ONE, TWO, THREE = (CryptoSigner.generate_ed25519() for _ in range(3))
TYPE, PAYLOAD = "application/test", b"what was signed"
BOTH = sign_envelope(PAYLOAD, payload_type=TYPE, signers=[ONE, TWO])
DOCUMENT: dict[str, Any] = json.loads(BOTH)


def _verify(data: bytes, *keys: Key, threshold: int | None = None, max_bytes: int = 10_000) -> SignedPayload:
    given = {} if threshold is None else {"threshold": threshold}
    return verify_envelope(data, payload_type=TYPE, keys=keys, max_bytes=max_bytes, where="envelope", **given)


def _changed(place: Place, value: object) -> bytes:
    return json.dumps(edited(DOCUMENT, place, value)).encode()


def _twin(signer: CryptoSigner) -> CryptoSigner:
    """The same key under another id."""
    public = signer.public_key
    return CryptoSigner(signer._private_key, SSlibKey("f" * 64, public.keytype, public.scheme, dict(public.keyval)))


def test_the_payload_and_the_keys_that_counted_are_returned() -> None:
    found = _verify(BOTH, THREE.public_key, TWO.public_key, ONE.public_key, threshold=2)
    assert found.payload == PAYLOAD
    assert found.keyids == tuple(sorted([ONE.public_key.keyid, TWO.public_key.keyid]))


def test_the_same_payload_and_keys_give_the_same_compact_bytes() -> None:
    assert sign_envelope(PAYLOAD, payload_type=TYPE, signers=[ONE, TWO]) == BOTH
    assert b" " not in BOTH
    assert BOTH.index(b'"payload"') < BOTH.index(b'"payloadType"') < BOTH.index(b'"signatures"')
    assert b'{"keyid":' in BOTH


def test_one_signature_is_enough_unless_more_are_asked_for() -> None:
    data = sign_envelope(PAYLOAD, payload_type=TYPE, signers=[ONE])
    assert _verify(data, ONE.public_key).keyids == (ONE.public_key.keyid,)
    assert code_of(lambda: _verify(data, ONE.public_key, TWO.public_key, threshold=2)) == "signature_threshold"


def test_keys_that_did_not_sign_or_signed_badly_do_not_hide_those_after_them() -> None:
    forged = _changed(("signatures", 0, "sig"), base64.b64encode(b"x" * 64).decode())
    signed_first, signed_second = (entry["keyid"] for entry in DOCUMENT["signatures"])
    by_id = {signer.public_key.keyid: signer.public_key for signer in (ONE, TWO)}
    assert _verify(BOTH, THREE.public_key, ONE.public_key).keyids == (ONE.public_key.keyid,)
    assert _verify(forged, by_id[signed_first], by_id[signed_second]).keyids == (signed_second,)
    assert code_of(lambda: _verify(forged, by_id[signed_first])) == "signature_threshold"


def test_a_key_counts_once_whatever_its_ids() -> None:
    twin = _twin(ONE)
    data = sign_envelope(PAYLOAD, payload_type=TYPE, signers=[ONE, twin])
    assert code_of(lambda: _verify(data, ONE.public_key, twin.public_key, threshold=2)) == "signature_threshold"
    assert len(_verify(data, ONE.public_key, twin.public_key).keyids) == 1


def test_a_threshold_below_one_is_never_met() -> None:
    for threshold in (0, -1):
        with pytest.raises(TrustError) as refusal:
            _verify(BOTH, ONE.public_key, threshold=threshold)
        assert refusal.value.code == "signature_threshold"


def test_an_unsigned_payload_is_given_with_the_ids_it_claims() -> None:
    payload, keyids = read_unverified_payload(BOTH, payload_type=TYPE, max_bytes=10_000, where="envelope")
    assert (payload, set(keyids)) == (PAYLOAD, {ONE.public_key.keyid, TWO.public_key.keyid})
    assert code_of(lambda: read_unverified_payload(BOTH, payload_type="x", max_bytes=10_000, where="e")) == "field_value"
    assert code_of(lambda: read_unverified_payload(BOTH, payload_type=TYPE, max_bytes=len(BOTH) - 1, where="e")) is not None


def test_an_envelope_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    assert _verify(BOTH, ONE.public_key, max_bytes=len(BOTH)).payload == PAYLOAD
    with pytest.raises(LimitError):
        _verify(BOTH, ONE.public_key, max_bytes=len(BOTH) - 1)


def test_a_payload_may_fill_its_envelope() -> None:
    data = sign_envelope(b"p" * 2000, payload_type=TYPE, signers=[ONE])
    assert _verify(data, ONE.public_key, max_bytes=len(data)).payload == b"p" * 2000


def test_an_envelope_is_a_closed_schema() -> None:
    strangers = [json.dumps(value).encode() for value in with_a_stranger(DOCUMENT)]
    missing = [json.dumps(value).encode() for value in without_one_field(DOCUMENT)]
    assert {code_of(lambda data=data: _verify(data, ONE.public_key)) for data in strangers} == {"field_unknown"}
    assert {code_of(lambda data=data: _verify(data, ONE.public_key)) for data in missing} == {"field_missing"}


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("payloadType",), "text/plain", "field_value"),
        (("payload",), "!!!!", "dsse_syntax"),
        (("payload",), DOCUMENT["payload"] + "\n", "dsse_syntax"),
        (("payload",), "é", "dsse_syntax"),
        (("payload",), 1, "field_type"),
        (("signatures", 1), DOCUMENT["signatures"][0], "dsse_syntax"),
        (("signatures", 0, "sig"), "=", "dsse_syntax"),
        (("signatures", 0, "keyid"), "k" * 129, "field_type"),
        (("signatures", 0, "sig"), "A" * 16385, "field_type"),
        (("signatures",), [{"keyid": str(number), "sig": ""} for number in range(17)], "too_many"),
        (("signatures",), [], "signature_threshold"),
        (("signatures",), REMOVED, "field_missing"),
    ],
)
def test_something_else_than_an_envelope_is_refused(place: Place, value: object, code: str) -> None:
    assert code_of(lambda: _verify(_changed(place, value), ONE.public_key, max_bytes=30_000)) == code


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("signatures", 0, "keyid"), "k" * 128),
        (("signatures", 0, "sig"), "A" * 16384),
        (("signatures",), [{"keyid": str(number), "sig": ""} for number in range(16)]),
    ],
)
def test_a_signature_at_its_bounds_is_read_and_does_not_count(place: Place, value: object) -> None:
    assert code_of(lambda: _verify(_changed(place, value), THREE.public_key, max_bytes=30_000)) == "signature_threshold"
