"""The acceptance policy only ever asks for more, and says so by name where it asks for less."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_client.errors import PolicyError, UsageError
from device_client.policy.policy import DEFAULT_POLICY_TEXT, AcceptancePolicy, check_audit, check_verdict, parse_policy
from device_client.trust.custom import TIERS, VERDICTS
from tests.unit.policy.agreed import NOW, audit, verdict

DEFAULT = AcceptancePolicy()


def parse(text: str) -> AcceptancePolicy:
    return parse_policy(text.encode())


def test_the_written_default_is_the_default() -> None:
    assert parse(DEFAULT_POLICY_TEXT) == DEFAULT == parse("schema = 1")
    assert DEFAULT.unsafe == ()


def test_a_stricter_policy_is_read() -> None:
    policy = parse('schema = 1\n[audit]\npolicies = {house = 3}\nminimum_tier = "deep"\nverdicts = ["PASSED"]')
    assert dict(policy.policies) == {"house": 3}
    assert (policy.minimum_tier, policy.verdicts) == ("deep", ("PASSED",))


WRONG = {
    "unknown key": "schema = 1\n[audit]\naccept_anything = true",
    "unknown table": "schema = 1\n[network]",
    "no schema": "[audit]",
    "another schema": "schema = 2",
    "unknown tier": 'schema = 1\n[audit]\nminimum_tier = "none"',
    "failed as a verdict": 'schema = 1\n[audit]\nverdicts = ["FAILED"]',
    "waived as a verdict": 'schema = 1\n[audit]\nverdicts = ["PASSED", "WAIVED"]',
    "no verdicts": "schema = 1\n[audit]\nverdicts = []",
    "policy version zero": "schema = 1\n[audit]\npolicies = {house = 0}",
    "unsafe flag that is no boolean": 'schema = 1\n[audit]\nunsafe_accept_waived = "yes"',
    "not TOML": "schema = ",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_policy_file_is_an_error_that_names_the_place(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text.encode(), where="policy.toml")
    assert caught.value.code == "policy_file"
    assert "policy.toml" in str(caught.value)


def test_a_file_that_is_not_text_or_too_long_is_an_error() -> None:
    for data in (b"\xff\xfe", b"#" * 100_000):
        with pytest.raises(UsageError):
            parse_policy(data)


@pytest.mark.parametrize("name", VERDICTS)
def test_only_passed_and_warned_are_accepted_by_default(name: str) -> None:
    if name in {"PASSED", "WARNED"}:
        check_verdict(verdict(name), DEFAULT, now=NOW, where="v")
        return
    with pytest.raises(PolicyError) as caught:
        check_verdict(verdict(name), DEFAULT, now=NOW, where="v")
    assert caught.value.code == f"verdict_{name.lower()}"


def test_waived_needs_the_unsafe_key_and_never_brings_failed_with_it() -> None:
    policy = parse("schema = 1\n[audit]\nunsafe_accept_waived = true")
    assert policy.unsafe == ("unsafe_accept_waived",)
    check_verdict(verdict("WAIVED"), policy, now=NOW, where="v")
    for name in ("FAILED", "INCONCLUSIVE"):
        with pytest.raises(PolicyError):
            check_verdict(verdict(name), policy, now=NOW, where="v")


@pytest.mark.parametrize("minimum", TIERS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_must_be_at_least_the_minimum(minimum: str, tier: str) -> None:
    policy = AcceptancePolicy(minimum_tier=minimum)
    if TIERS.index(tier) >= TIERS.index(minimum):
        check_verdict(verdict(tier=tier), policy, now=NOW, where="v")
        return
    with pytest.raises(PolicyError) as caught:
        check_verdict(verdict(tier=tier), policy, now=NOW, where="v")
    assert caught.value.code == "tier_not_accepted"


@pytest.mark.parametrize("hours", [0.0, -1.0])
def test_a_verdict_is_refused_from_the_second_it_expires(hours: float) -> None:
    with pytest.raises(PolicyError) as caught:
        check_verdict(verdict(hours=hours), DEFAULT, now=NOW, where="v")
    assert caught.value.code == "verdict_expired"


def test_any_audit_policy_will_do_unless_some_are_named() -> None:
    check_audit(audit(policy="anything", policy_version=1), DEFAULT)
    strict = AcceptancePolicy(policies={"house": 2})
    check_audit(audit(policy="house", policy_version=2), strict)
    for name, version in (("house", 1), ("other", 9)):
        with pytest.raises(PolicyError) as caught:
            check_audit(audit(policy=name, policy_version=version), strict)
        assert caught.value.code == "policy_not_accepted"


def test_a_withdrawn_entry_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        check_audit(audit(status="withdrawn"), DEFAULT)
    assert caught.value.code == "withdrawn"


def test_the_example_in_the_module_is_a_policy() -> None:
    source = (Path(__file__).parents[3] / "device_client/policy/policy.py").read_text()
    start = source.index("    schema = 1")
    parse(source[start : source.index('"""', start)])
