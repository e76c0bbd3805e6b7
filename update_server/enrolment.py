"""The enrolment request: a device proves that it holds the key it shows. Pure; what is stored is `devices.py`'s business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key, SSlibKey

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields, read_text
from device_client.bundle.path import ModelPath
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError
from device_client.trust.dsse import read_unverified_payload, verify_envelope
from device_client.trust.keys import fingerprint, key_from_json
from device_client.trust.times import parse_time
from update_server.audience import Audience, check_near

PAYLOAD_TYPE = "application/vnd.sealift.enroll.v1+json"
MAX_ENVELOPE_BYTES = 16 * 1024
SCHEMA = 1
_WHERE = "enrolment"
_MAX_MODELS = 64


@dataclass(frozen=True)
class Facts:
    """What a device says about itself; shown to the operator, never trusted."""

    arch: str
    cpu_features: tuple[str, ...]
    ram_bytes: int
    runtime: str
    client: str


@dataclass(frozen=True)
class Enrolment:
    """A request whose signature was checked with the key inside it. Made by ``verify_enrolment``."""

    key: Key
    device_id: Digest
    audience: str
    issued: datetime
    models: tuple[ModelPath, ...]
    facts: Facts


def verify_enrolment(data: bytes, *, audience: Audience, now: datetime) -> Enrolment:
    """Returns what the device asks for.

    Checks, in order: (1) exactly one signature, (2) the key inside is Ed25519, (3) the signature is by that key,
    (4) the schema, (5) the audience, (6) the time.

    Raises:
        FormatError, LimitError: not such an envelope.
        TrustError: ``signature_threshold``.
        ApiError: ``audience`` or ``clock_skew``.
    """
    payload, keyids = read_unverified_payload(data, payload_type=PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES, where=_WHERE)
    if len(keyids) != 1:
        raise FormatError("not exactly one signature", code="dsse_syntax", where=_WHERE, actual=len(keyids))
    fields = _fields(payload)
    key = key_from_json(fields.raw("public_key"), where=f"{_WHERE}.public_key")
    if (key.keytype, key.scheme) != ("ed25519", "ed25519"):
        raise FormatError("a device key is Ed25519", code="key_type", where=f"{_WHERE}.public_key", actual=key.keytype)
    # the id in the envelope is a hint without meaning: the key is the one shown, whatever it is called
    named = SSlibKey(keyids[0], key.keytype, key.scheme, key.keyval)
    signed = verify_envelope(data, payload_type=PAYLOAD_TYPE, keys=[named], max_bytes=MAX_ENVELOPE_BYTES, where=_WHERE)
    enrolment = _read(_fields(signed.payload), key)
    audience.check(enrolment.audience, where=f"{_WHERE}.audience")
    check_near(enrolment.issued, now=now, where=f"{_WHERE}.issued")
    return enrolment


def _fields(payload: bytes) -> Fields:
    value = parse_strict(payload, max_bytes=MAX_ENVELOPE_BYTES, where=_WHERE)
    return Fields(value, where=_WHERE, known=("schema", "audience", "public_key", "issued", "models", "facts"))


def _read(fields: Fields, key: Key) -> Enrolment:
    if fields.integer("schema") != SCHEMA:
        raise FormatError("unknown schema", code="schema_unknown", where=_WHERE, expected=SCHEMA, actual=fields.integer("schema"))
    models = fields.items("models", _read_model, max_items=_MAX_MODELS)
    if not models or len(set(models)) != len(models):
        raise FormatError("models must be given, each once", code="field_value", where=f"{_WHERE}.models")
    facts = fields.fields("facts", known=("arch", "cpu_features", "ram_bytes", "runtime", "client"))
    return Enrolment(
        key=key,
        device_id=fingerprint(key),
        audience=fields.text("audience", max_chars=512),
        issued=parse_time(fields.raw("issued"), f"{_WHERE}.issued"),
        models=models,
        facts=Facts(
            arch=facts.text("arch", max_chars=128),
            cpu_features=facts.items("cpu_features", read_text, max_items=128),
            ram_bytes=facts.integer("ram_bytes"),
            runtime=facts.text("runtime", max_chars=128),
            client=facts.text("client", max_chars=128),
        ),
    )


def _read_model(value: object, where: str) -> ModelPath:
    return ModelPath.parse(read_text(value, where))
