"""The acceptance policy at its exact bounds."""

from __future__ import annotations

import pytest

from device_client.bundle.fields import Fields
from device_client.errors import FormatError, UsageError
from device_client.policy.policy import AcceptancePolicy, parse_policy
from device_client.policy.reactions import Reactions, read_reactions


def _parse(text: str) -> AcceptancePolicy:
    return parse_policy(text.encode())


@pytest.mark.parametrize("schema", ["0", "2", "-1", "1.0", '"1"', "true"])
def test_only_schema_one_is_read(schema: str) -> None:
    with pytest.raises(UsageError) as refusal:
        _parse(f"schema = {schema}")
    assert (refusal.value.code, refusal.value.where) == ("policy_file", "policy.schema")


def test_as_many_audit_policies_as_an_entry_may_have_variants_and_no_more() -> None:
    def listing(count: int) -> str:
        return f"schema = 1\n[audit]\npolicies = {{{', '.join(f'p{number} = 1' for number in range(count))}}}"

    assert len(_parse(listing(64)).policies) == 64
    with pytest.raises(UsageError):
        _parse(listing(65))


def test_a_list_of_verdicts_is_short() -> None:
    def listing(count: int) -> str:
        return f"schema = 1\n[audit]\nverdicts = {['PASSED'] * count}"

    assert _parse(listing(8)).verdicts == ("PASSED",) * 8
    for count in (0, 9):
        with pytest.raises(UsageError):
            _parse(listing(count))


def test_the_lowest_version_of_an_audit_policy_is_one() -> None:
    assert dict(_parse("schema = 1\n[audit]\npolicies = {house = 1}").policies) == {"house": 1}
    for version in ("0", "-1", "true", "1.0", '"1"'):
        with pytest.raises(UsageError) as refusal:
            _parse(f"schema = 1\n[audit]\npolicies = {{house = {version}}}")
        assert refusal.value.where == "policy.audit.policies.house"


def test_a_withdrawn_model_cannot_both_stop_and_keep_running() -> None:
    table = Fields({"withdrawn": "stop", "unsafe_keep_withdrawn": True}, where="reactions")
    with pytest.raises(FormatError) as refusal:
        read_reactions(table, base=Reactions())
    assert (refusal.value.code, refusal.value.where) == ("policy_file", "reactions.unsafe_keep_withdrawn")
