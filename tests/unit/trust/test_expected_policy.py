"""The complete policy in a file: its digest covers every value, and what statements repeat is read from it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.errors import SealiftError
from device_client.trust.expected_policy import MAX_POLICY_BYTES, read_expected_policy

POLICY: dict[str, Any] = {
    "id": "clinic",
    "version": 3,
    "tier": "standard",
    "threat_model": "white_box",
    "tests": {"required": ["inversion.instance"], "optional": ["membership.lira"]},
    "decision": {"alpha": 0.01},
}


def test_what_statements_repeat_is_read_and_the_digest_is_of_all_values() -> None:
    read = read_expected_policy(json.dumps(POLICY, indent=2).encode(), where="policy.json")
    assert (read.policy.id, read.policy.version, read.policy.digest) == ("clinic", 3, Digest.of(canonical_json(POLICY)))
    assert (read.tier, read.threat_model, read.required) == ("standard", "white_box", ("inversion.instance",))
    other = read_expected_policy(json.dumps(POLICY | {"decision": {"alpha": 0.02}}).encode(), where="policy.json")
    assert other.policy.digest != read.policy.digest


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"[decision]\nalpha = 0.01\n", "json_syntax"),
        (b"[]", "field_type"),
        (json.dumps({key: value for key, value in POLICY.items() if key != "tier"}).encode(), "field_missing"),
        (json.dumps(POLICY | {"tests": {"required": [1]}}).encode(), "field_type"),
        (json.dumps(POLICY | {"version": 0}).encode(), "field_value"),
        (b" " * (MAX_POLICY_BYTES + 1), "too_large"),
    ],
    ids=("TOML", "no object", "no tier", "a test that is no text", "version 0", "too long"),
)
def test_another_file_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(SealiftError) as refused:
        read_expected_policy(data, where="policy.json")
    assert refused.value.code == code
