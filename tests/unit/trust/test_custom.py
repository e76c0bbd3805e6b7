"""The two custom records as closed schemas: each field, each bound, and nothing that a device cannot read."""

from __future__ import annotations

from typing import Any

import pytest

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.trust.custom import (
    AuditCustom,
    PolicyRef,
    ReleaseCustom,
    Rollout,
    VariantVerdict,
    parse_audit_custom,
    parse_release_custom,
)
from device_client.trust.refs import BlobRef
from tests.simulator import NOW
from tests.unit.trust.edited import REMOVED, Place, code_of, edited, with_a_stranger, without_one_field

VARIANT = Digest.of(b"variant")
RELEASE_JSON: dict[str, Any] = {
    "schema": 1,
    "counter": [1, 3],
    "floor": [1, 2],
    "measurements": {"digest": str(Digest.of(b"measurements")), "length": 7},
    "rollout": {"max_percent": 25, "not_before": "2026-06-01T12:00:00Z"},
}
RELEASE = ReleaseCustom(Counter(1, 3), Counter(1, 2), BlobRef(Digest.of(b"measurements"), 7), Rollout(NOW, 25))
AUDIT_JSON: dict[str, Any] = {
    "schema": 1,
    "seq": 5,
    "counter": [1, 3],
    "floor": [1, 2],
    "status": "withdrawn",
    "reason": "leaks",
    "policy": {"id": "house", "version": 2, "digest": str(Digest.of(b"policy"))},
    "suite": "sealift-inversion 1",
    "threat_model": "white_box",
    "variants": {
        str(VARIANT): {
            "verdict": "WARNED",
            "tier": "deep",
            "expires": "2026-06-01T12:00:00Z",
            "attestation": {"digest": str(Digest.of(b"attestation")), "length": 9},
        }
    },
}
AUDIT = AuditCustom(
    seq=5,
    counter=Counter(1, 3),
    floor=Counter(1, 2),
    status="withdrawn",
    reason="leaks",
    policy=PolicyRef("house", 2, Digest.of(b"policy")),
    suite="sealift-inversion 1",
    threat_model="white_box",
    variants={VARIANT: VariantVerdict("WARNED", "deep", NOW, BlobRef(Digest.of(b"attestation"), 9))},
)
VERDICT: Place = ("variants", str(VARIANT))


def _release(value: object) -> ReleaseCustom:
    return parse_release_custom(value, "entry")


def _audit(value: object) -> AuditCustom:
    return parse_audit_custom(value, "entry")


def _many(count: int) -> dict[str, Any]:
    return {str(Digest.of(bytes([number]))): AUDIT_JSON["variants"][str(VARIANT)] for number in range(count)}


def test_both_records_are_read_and_written_as_documented() -> None:
    assert _release(RELEASE_JSON) == RELEASE
    assert RELEASE.to_json() == RELEASE_JSON
    assert _audit(AUDIT_JSON) == AUDIT
    assert AUDIT.to_json() == AUDIT_JSON


def test_what_was_read_of_an_audit_cannot_be_changed_later() -> None:
    with pytest.raises(TypeError):
        _audit(AUDIT_JSON).variants[VARIANT] = AUDIT.variants[VARIANT]  # type: ignore[index]


def test_only_the_day_of_a_rollout_may_be_left_out() -> None:
    at_once = edited(RELEASE_JSON, ("rollout", "not_before"), REMOVED)
    assert _release(at_once).rollout == Rollout(None, 25)
    assert _release(at_once).to_json() == at_once
    missing = [code_of(lambda value=value: _release(value)) for value in without_one_field(RELEASE_JSON)]
    assert sorted(set(missing), key=str) == [None, "field_missing"]
    assert missing.count(None) == 1
    assert {code_of(lambda value=value: _audit(value)) for value in without_one_field(edited(AUDIT_JSON, VERDICT, REMOVED))} == {
        "field_missing"
    }
    for field in AUDIT_JSON["variants"][str(VARIANT)]:
        assert code_of(lambda field=field: _audit(edited(AUDIT_JSON, (*VERDICT, field), REMOVED))) == "field_missing"


def test_a_field_more_is_refused_in_every_object_of_both_records() -> None:
    assert {code_of(lambda value=value: _release(value)) for value in with_a_stranger(RELEASE_JSON)} == {"field_unknown"}
    strangers = list(with_a_stranger(AUDIT_JSON))
    # beside the variants it is no field but a variant whose verdict is no object
    assert {code_of(lambda value=value: _audit(value)) for value in strangers} == {"field_unknown", "field_type"}
    assert [code_of(lambda value=value: _audit(value)) for value in strangers].count("field_type") == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rollout", "max_percent"), 0),
        (("rollout", "max_percent"), 100),
        (("floor",), [1, 3]),
    ],
)
def test_a_release_record_at_its_bounds_is_read(place: Place, value: object) -> None:
    assert _release(edited(RELEASE_JSON, place, value)).to_json() == edited(RELEASE_JSON, place, value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("seq",), 1),
        (("seq",), 2**31 - 1),
        (("floor",), [1, 3]),
        (("status",), "active"),
        (("reason",), "r" * 512),
        (("suite",), "s" * 128),
        (("threat_model",), "t" * 64),
        (("policy", "id"), "p" * 128),
        (("policy", "version"), 1),
        (("policy", "version"), 2**31 - 1),
        (("variants",), {}),
        (("variants",), _many(64)),
        *[((*VERDICT, "verdict"), verdict) for verdict in ("PASSED", "WARNED", "FAILED", "INCONCLUSIVE", "WAIVED")],
        *[((*VERDICT, "tier"), tier) for tier in ("quick", "standard", "deep")],
    ],
)
def test_an_audit_record_at_its_bounds_is_read(place: Place, value: object) -> None:
    assert _audit(edited(AUDIT_JSON, place, value)).to_json() == edited(AUDIT_JSON, place, value)


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("schema",), 2, "schema_unknown"),
        (("schema",), 0, "schema_unknown"),
        (("schema",), "1", "field_type"),
        (("counter",), [1], "counter_syntax"),
        (("floor",), [1, 4], "floor_above_counter"),
        (("floor",), [2, 0], "floor_above_counter"),
        (("floor",), {"n": 1}, "counter_syntax"),
        (("measurements",), None, "field_type"),
        (("measurements", "length"), 0, "field_value"),
        (("rollout",), [], "field_type"),
        (("rollout", "max_percent"), 101, "field_value"),
        (("rollout", "max_percent"), -1, "field_value"),
        (("rollout", "max_percent"), 50.0, "field_type"),
        (("rollout", "not_before"), None, "time_syntax"),
        (("rollout", "not_before"), "2026-06-01", "time_syntax"),
    ],
)
def test_a_release_record_with_one_wrong_field_is_refused(place: Place, value: object, code: str) -> None:
    assert code_of(lambda: _release(edited(RELEASE_JSON, place, value))) == code


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("schema",), 2, "schema_unknown"),
        (("seq",), 0, "field_value"),
        (("seq",), 2**31, "field_value"),
        (("counter",), [2**31, 0], "counter_syntax"),
        (("floor",), [1, 4], "floor_above_counter"),
        (("status",), "paused", "field_value"),
        (("reason",), "r" * 513, "field_type"),
        (("suite",), "s" * 129, "field_type"),
        (("threat_model",), "t" * 65, "field_type"),
        (("policy", "id"), "p" * 129, "field_type"),
        (("policy", "version"), 0, "field_value"),
        (("policy", "version"), 2**31, "field_value"),
        (("policy", "digest"), "0" * 64, "digest_syntax"),
        (("variants",), _many(65), "too_many"),
        (("variants",), {"int8": AUDIT_JSON["variants"][str(VARIANT)]}, "digest_syntax"),
        ((*VERDICT, "verdict"), "passed", "field_value"),
        ((*VERDICT, "tier"), "none", "field_value"),
        ((*VERDICT, "expires"), "never", "time_syntax"),
        ((*VERDICT, "attestation"), "sha256:00", "field_type"),
    ],
)
def test_an_audit_record_with_one_wrong_field_is_refused(place: Place, value: object, code: str) -> None:
    assert code_of(lambda: _audit(edited(AUDIT_JSON, place, value))) == code


def test_a_refusal_names_the_entry_and_the_field() -> None:
    with pytest.raises(Exception, match=r"\(entry\.variants\.sha256:[0-9a-f]{64}\.expires\)"):
        _audit(edited(AUDIT_JSON, (*VERDICT, "expires"), "never"))
    with pytest.raises(Exception, match=r"\(entry\.rollout\.not_before\)"):
        _release(edited(RELEASE_JSON, ("rollout", "not_before"), "never"))
