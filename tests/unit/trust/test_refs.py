"""A reference to a blob: what it may say, and nothing else."""

from __future__ import annotations

import hashlib

import pytest

from device_client.limits import DEFAULT_LIMITS
from device_client.trust.refs import BlobRef
from tests.unit.trust.edited import code_of, edited, with_a_stranger, without_one_field

DATA = b"the bytes"
JSON = {"digest": f"sha256:{hashlib.sha256(DATA).hexdigest()}", "length": len(DATA)}


def _read(value: object) -> BlobRef:
    return BlobRef.from_json(value, "entry")


def test_a_reference_is_the_digest_and_the_length_of_the_bytes() -> None:
    assert BlobRef.of(DATA).to_json() == JSON
    assert _read(JSON) == BlobRef.of(DATA)


@pytest.mark.parametrize("length", [1, DEFAULT_LIMITS.max_blob_bytes])
def test_a_length_from_one_byte_to_the_largest_blob_is_read(length: int) -> None:
    assert _read(edited(JSON, ("length",), length)).length == length


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("length", 0, "field_value"),
        ("length", -1, "field_value"),
        ("length", DEFAULT_LIMITS.max_blob_bytes + 1, "field_value"),
        ("length", "9", "field_type"),
        ("length", True, "field_type"),
        ("digest", "md5:" + "0" * 32, "digest_syntax"),
        ("digest", "0" * 64, "digest_syntax"),
        ("digest", None, "digest_syntax"),
    ],
)
def test_a_reference_that_a_reader_could_not_hold_to_is_refused(field: str, value: object, code: str) -> None:
    assert code_of(lambda: _read(edited(JSON, (field,), value))) == code


def test_a_reference_has_both_fields_and_no_other() -> None:
    assert {code_of(lambda value=value: _read(value)) for value in without_one_field(JSON)} == {"field_missing"}
    assert {code_of(lambda value=value: _read(value)) for value in with_a_stranger(JSON)} == {"field_unknown"}
    assert code_of(lambda: _read([JSON])) == "field_type"
