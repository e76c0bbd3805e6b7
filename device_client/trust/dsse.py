"""DSSE envelopes: what devices sign to the server and what auditors sign about bytes.

A thin, strict reader over securesystemslib's ``Envelope``. Source: DSSE v1 protocol; we differ by requiring a key id
and by counting a key once whatever its id (by decoded value).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, Signer

from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, TrustError
from device_client.trust.keys import public_value

_MAX_SIGNATURES = 16


@dataclass(frozen=True)
class SignedPayload:
    """A payload whose signatures met the threshold; ``keyids`` are the keys that counted."""

    payload: bytes
    keyids: tuple[str, ...]


def sign_envelope(payload: bytes, *, payload_type: str, signers: Sequence[Signer]) -> bytes:
    """The JSON envelope of ``payload`` with one signature for each signer."""
    envelope = Envelope(payload, payload_type, {})
    for signer in signers:
        envelope.sign(signer)
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()


def verify_envelope(
    data: bytes, *, payload_type: str, keys: Sequence[Key], threshold: int = 1, max_bytes: int, where: str
) -> SignedPayload:
    """Returns the payload once ``threshold`` different keys out of ``keys`` have signed it.

    Raises:
        FormatError: not an envelope of that payload type.
        LimitError: longer than ``max_bytes``.
        TrustError: ``signature_threshold``.
    """
    envelope = _parse(data, payload_type=payload_type, max_bytes=max_bytes, where=where)
    counted: dict[bytes, str] = {}
    for key in keys:
        signature = envelope.signatures.get(key.keyid)
        if signature is None:
            continue
        try:
            key.verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError:
            continue
        counted.setdefault(public_value(key), key.keyid)
    if threshold < 1 or len(counted) < threshold:
        raise TrustError(
            "too few valid signatures",
            code="signature_threshold",
            where=where,
            expected=f"at least {threshold}",
            actual=len(counted),
        )
    return SignedPayload(bytes(envelope.payload), tuple(sorted(counted.values())))


def read_unverified_payload(data: bytes, *, payload_type: str, max_bytes: int, where: str) -> tuple[bytes, tuple[str, ...]]:
    """The payload and the key ids it claims, before any signature was checked: only to find the key to check with."""
    envelope = _parse(data, payload_type=payload_type, max_bytes=max_bytes, where=where)
    return bytes(envelope.payload), tuple(envelope.signatures)


def _parse(data: bytes, *, payload_type: str, max_bytes: int, where: str) -> Envelope:
    fields = Fields(
        parse_strict(data, max_bytes=max_bytes, where=where), where=where, known=("payload", "payloadType", "signatures")
    )
    fields.text("payloadType", choices=(payload_type,))
    payload = _base64(fields.text("payload", max_chars=max_bytes * 2), f"{where}.payload")
    signatures: dict[str, Signature] = {}
    for keyid, signature in fields.items("signatures", _read_signature, max_items=_MAX_SIGNATURES):
        if keyid in signatures:
            raise FormatError("two signatures under one key id", code="dsse_syntax", where=where)
        signatures[keyid] = Signature(keyid, signature.hex())
    return Envelope(payload, payload_type, signatures)


def _read_signature(value: object, where: str) -> tuple[str, bytes]:
    fields = Fields(value, where=where, known=("keyid", "sig"))
    return fields.text("keyid", max_chars=128), _base64(fields.text("sig", max_chars=16384), f"{where}.sig")


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise FormatError("not base64", code="dsse_syntax", where=where) from e
