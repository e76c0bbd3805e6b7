"""The audit policy that statements must have been made under, read from the complete policy that auditors wrote to a file.

    sealift audit policy --tier standard --out policy.json       # who has the audits
    sealift sign BUNDLE --role audit-LINE --audit-policy policy.json ...     # who has the base install alone

Nothing here knows what the values mean: the digest covers all of them, and four of them stand in every statement.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields, read_text
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.trust.custom import PolicyRef

MAX_POLICY_BYTES = 64 * 1024
_MAX_TESTS = 64


@dataclass(frozen=True)
class ExpectedPolicy:
    """The policy that every statement must have been made under.

    Attributes:
        policy: id, version and digest.
        tier: its tier.
        threat_model: its threat model.
        required: ids of tests without which it gives no verdict.
    """

    policy: PolicyRef
    tier: str
    threat_model: str
    required: tuple[str, ...]


def read_expected_policy(data: bytes, *, where: str) -> ExpectedPolicy:
    """Reads a complete policy, JSON in any spacing.

    Raises:
        FormatError: not strict JSON, or a value is missing or of another type.
        LimitError: longer than ``MAX_POLICY_BYTES``.
    """
    value = parse_strict(data, max_bytes=MAX_POLICY_BYTES, where=where)
    fields = Fields(value, where=where)
    ref = PolicyRef(fields.text("id", max_chars=128), fields.integer("version", minimum=1), Digest.of(canonical_json(value)))
    required = fields.fields("tests").items("required", read_text, max_items=_MAX_TESTS)
    return ExpectedPolicy(ref, fields.text("tier"), fields.text("threat_model"), required)
