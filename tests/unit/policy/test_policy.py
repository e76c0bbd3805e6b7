"""The acceptance policy only ever asks for more, and says so by name where it asks for less."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle.path import ModelPath
from device_client.errors import PolicyError, UsageError
from device_client.policy.local import INSTALL_KEYS
from device_client.policy.policy import (
    DEFAULT_POLICY_TEXT,
    MAX_AGE_DAYS,
    AcceptancePolicy,
    check_audit,
    check_verdict,
    parse_policy,
)
from device_client.policy.probation import PROBATION_KEYS
from device_client.policy.reactions import REACTION_KEYS, Reaction, Reactions
from device_client.trust.custom import TIERS, VERDICTS, AuditCustom, VariantVerdict
from device_client.trust.rules import LIFETIME_CAPS
from tests.unit.policy.agreed import NOW, audit, verdict

DEFAULT = AcceptancePolicy()
OCR, ASR = ModelPath("digits", "ocr"), ModelPath("speech", "asr")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def parse(text: str) -> AcceptancePolicy:
    return parse_policy(text.encode())


def check(entry: AuditCustom, policy: AcceptancePolicy, *, issued: datetime = NOW) -> None:
    check_audit(entry, policy, issued=issued, now=NOW)


def test_the_written_default_is_the_default() -> None:
    assert parse(DEFAULT_POLICY_TEXT) == DEFAULT == parse("schema = 1")
    assert DEFAULT.unsafe == ()


def test_the_written_default_says_every_key() -> None:
    text = tomllib.loads(DEFAULT_POLICY_TEXT)
    assert set(text) == {"schema", "audit", "import", "reactions", "probation", "install"}
    assert set(text["audit"]) == {"policies", "minimum_tier", "verdicts", "max_age_days", "unsafe_accept_waived"}
    assert set(text["import"]) == {"offline_grace_days"}
    assert tuple(text["reactions"]) == REACTION_KEYS
    assert tuple(text["probation"]) == PROBATION_KEYS
    assert tuple(text["install"]) == INSTALL_KEYS
    with_model = DEFAULT_POLICY_TEXT.replace('# [models."', '[models."').replace('# withdrawn = "stop"', 'withdrawn = "stop"')
    assert parse(with_model).models == {OCR: Reactions(withdrawn=Reaction.STOP)}, "the commented example is a policy too"


def test_a_stricter_policy_is_read() -> None:
    policy = parse('schema = 1\n[audit]\npolicies = {house = 3}\nminimum_tier = "deep"\nverdicts = ["PASSED"]')
    assert dict(policy.policies) == {"house": 3}
    assert dict(parse("schema = 1\n[audit]\npolicies = {house = 1}").policies) == {"house": 1}
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
    "a table that is none": "schema = 1\naudit = 1",
    "too old by nothing": "schema = 1\n[audit]\nmax_age_days = 0",
    "older than the role can be": "schema = 1\n[audit]\nmax_age_days = 31",
    "an age that is no integer": "schema = 1\n[audit]\nmax_age_days = 7.0",
    "an age that is a boolean": "schema = 1\n[audit]\nmax_age_days = true",
    "unknown reaction key": "schema = 1\n[reactions]\nignored = true",
    "keeping a withdrawn model by its safe name": 'schema = 1\n[reactions]\nwithdrawn = "keep"',
    "falling back from an expiry": 'schema = 1\n[reactions]\nexpired = "fall_back"',
    "falling back when behind": 'schema = 1\n[reactions]\nbehind = "fall_back"',
    "ignoring what is withheld": 'schema = 1\n[reactions]\nwithheld = "ignore"',
    "a grace in front of the expiry": "schema = 1\n[import]\noffline_grace_days = -1",
    "more than the design's grace": "schema = 1\n[import]\noffline_grace_days = 31",
    "a grace for roles that expire offline": "schema = 1\n[import]\ntargets_grace_days = 1",
    "negative grace": "schema = 1\n[reactions]\nexpired_days = -1",
    "grace without end": "schema = 1\n[reactions]\nexpired_days = 31",
    "no patience at all": "schema = 1\n[reactions]\nbehind_days = 0",
    "patience without end": "schema = 1\n[reactions]\nbehind_days = 91",
    "a hold without end": "schema = 1\n[reactions]\nmax_hold_days = 31",
    "a hold of no day": "schema = 1\n[reactions]\nmax_hold_days = 0",
    "an unsafe wish that is no boolean": "schema = 1\n[reactions]\nunsafe_keep_withdrawn = 1",
    "stopping and keeping": 'schema = 1\n[reactions]\nwithdrawn = "stop"\nunsafe_keep_withdrawn = true',
    "a model without its line": 'schema = 1\n[models."ocr"]\nexpired = "stop"',
    "a model in capitals": 'schema = 1\n[models."digits/OCR"]\nexpired = "stop"',
    "a model that is no table": 'schema = 1\n[models]\n"digits/ocr" = 1',
    "an audit key under a model": 'schema = 1\n[models."digits/ocr"]\nminimum_tier = "quick"',
    "a model that contradicts what is above": (
        'schema = 1\n[reactions]\nunsafe_keep_withdrawn = true\n[models."digits/ocr"]\nwithdrawn = "stop"'
    ),
    "too many models": "schema = 1\n" + "".join(f'[models."digits/m{index}"]\n' for index in range(65)),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_policy_file_is_an_error_that_names_the_place(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text.encode(), where="policy.toml")
    assert caught.value.code == "policy_file"
    assert "policy.toml" in str(caught.value)


UNKNOWN = {
    "policy.toml.network": "schema = 1\nnetwork = 1",
    "policy.toml.audit.minimum_teir": 'schema = 1\n[audit]\nminimum_teir = "deep"',
    "policy.toml.audit.unsafe_accept_failed": "schema = 1\n[audit]\nunsafe_accept_failed = true",
    "policy.toml.reactions.withdrwan": 'schema = 1\n[reactions]\nwithdrwan = "stop"',
    "policy.toml.models.digits/ocr.withold": 'schema = 1\n[models."digits/ocr"]\nwithold = "stop"',
    "policy.toml.models.digits": 'schema = 1\n[models.digits.ocr]\nwithdrawn = "stop"',
    "policy.toml.models.\\x1b[2J": 'schema = 1\n[models."\\u001b[2J"]\nwithdrawn = "stop"',
}


@pytest.mark.parametrize(("place", "text"), UNKNOWN.items())
def test_an_unknown_key_is_an_error_that_names_the_key(place: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text.encode(), where="policy.toml")
    assert (caught.value.code, caught.value.where) == ("policy_file", place)
    assert "\x1b" not in str(caught.value)


def test_a_model_that_the_device_does_not_follow_is_an_error_that_names_it() -> None:
    text = b'schema = 1\n[models."digits/orc"]\nwithdrawn = "stop"'
    parse_policy(text)
    with pytest.raises(UsageError) as caught:
        parse_policy(text, models=(OCR, ASR))
    assert "digits/orc" in str(caught.value)
    assert "digits/ocr | speech/asr" in str(caught.value)
    parse_policy(text.replace(b"orc", b"ocr"), models=(OCR, ASR))


def test_reactions_of_one_model_replace_only_the_keys_that_they_name() -> None:
    policy = parse(
        'schema = 1\n[reactions]\nexpired = "stop"\nbehind_days = 3\n[models."digits/ocr"]\nwithdrawn = "stop"\nexpired = "keep"'
    )
    assert policy.reactions_for(ASR) == Reactions(expired=Reaction.STOP, behind_days=3)
    assert policy.reactions_for(OCR) == Reactions(withdrawn=Reaction.STOP, behind_days=3)
    assert DEFAULT.reactions_for(OCR) == Reactions()


def test_every_unsafe_key_that_is_set_anywhere_is_named_once() -> None:
    keep = "unsafe_keep_withdrawn = true"
    waived = "[audit]\nunsafe_accept_waived = true"
    assert parse(f"schema = 1\n[reactions]\n{keep}").unsafe == ("unsafe_keep_withdrawn",)
    of_one = parse(f'schema = 1\n{waived}\n[models."digits/ocr"]\n{keep}\n[models."speech/asr"]\n{keep}')
    assert of_one.unsafe == ("unsafe_accept_waived", "unsafe_keep_withdrawn")
    assert not of_one.reactions.unsafe_keep_withdrawn


def test_a_file_that_is_not_text_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(b"\xff\xfe")
    assert caught.value.code == "policy_file"


def test_a_file_of_64_kib_is_read_and_a_longer_one_is_not() -> None:
    longest = b"schema = 1\n".ljust(65536, b"#")
    assert parse_policy(longest) == DEFAULT
    with pytest.raises(UsageError) as caught:
        parse_policy(longest + b"#")
    assert (caught.value.code, caught.value.where) == ("policy_file", "policy")


def test_64_models_may_have_reactions_of_their_own() -> None:
    text = "schema = 1\n" + "".join(f'[models."digits/m{index}"]\n' for index in range(64))
    assert len(parse(text).models) == 64


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
    check(audit(policy="anything", policy_version=1), DEFAULT)
    strict = AcceptancePolicy(policies={"house": 2})
    check(audit(policy="house", policy_version=2), strict)
    for name, version in (("house", 1), ("other", 9)):
        with pytest.raises(PolicyError) as caught:
            check(audit(policy=name, policy_version=version), strict)
        assert caught.value.code == "policy_not_accepted"


def test_a_withdrawn_entry_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        check(audit(status="withdrawn"), DEFAULT)
    assert caught.value.code == "withdrawn"


def test_a_withdrawal_is_told_before_anything_else_about_the_entry() -> None:
    with pytest.raises(PolicyError) as caught:
        check(audit(status="withdrawn", policy="other"), AcceptancePolicy(policies={"house": 1}), issued=NOW - 300 * DAY)
    assert caught.value.code == "withdrawn"


@pytest.mark.parametrize("days", [1, 7, MAX_AGE_DAYS])
def test_an_audit_role_is_stale_from_the_second_in_which_it_is_too_old(days: int) -> None:
    policy = AcceptancePolicy(max_age_days=days)
    check(audit(), policy, issued=NOW - days * DAY)
    with pytest.raises(PolicyError) as caught:
        check(audit(), policy, issued=NOW - days * DAY - SECOND)
    assert caught.value.code == "audit_stale"


def test_an_audit_role_of_any_date_is_compared_without_an_overflow() -> None:
    check(audit(), DEFAULT, issued=datetime(9999, 12, 31, tzinfo=UTC))
    with pytest.raises(PolicyError):
        check(audit(), DEFAULT, issued=datetime(1, 1, 1, tzinfo=UTC))


def test_the_default_age_is_the_longest_that_an_audit_role_may_live() -> None:
    assert timedelta(days=MAX_AGE_DAYS) == LIFETIME_CAPS["audit"]


names = st.sampled_from(["house", "other"])
policies = st.builds(
    AcceptancePolicy,
    policies=st.dictionaries(names, st.integers(1, 3), max_size=2),
    minimum_tier=st.sampled_from(TIERS),
    verdicts=st.sampled_from([("PASSED",), ("WARNED",), ("PASSED", "WARNED")]),
    max_age_days=st.integers(1, MAX_AGE_DAYS),
)
entries = st.builds(audit, policy=names, policy_version=st.integers(1, 3), status=st.sampled_from(["active", "withdrawn"]))
verdicts = st.builds(
    lambda name, tier, hours: verdict(name, tier=tier, hours=hours),
    st.sampled_from(VERDICTS),
    st.sampled_from(TIERS),
    st.floats(-2, 2),
)


@given(policies, entries, verdicts, st.integers(-40, 40), st.booleans())
def test_no_policy_accepts_more_than_the_default_but_by_an_unsafe_key(
    policy: AcceptancePolicy, entry: AuditCustom, word: VariantVerdict, days: int, waived: bool
) -> None:
    policy = replace(policy, unsafe_accept_waived=waived)
    try:
        check(entry, policy, issued=NOW - days * DAY)
        check_verdict(word, policy, now=NOW, where="v")
    except PolicyError:
        return
    check(entry, DEFAULT, issued=NOW - days * DAY)
    if word.verdict == "WAIVED":
        assert policy.unsafe == ("unsafe_accept_waived",)
    else:
        check_verdict(word, DEFAULT, now=NOW, where="v")


@pytest.mark.parametrize("table", ["probation", "install", "import"])
def test_an_unknown_key_of_a_later_table_is_an_error_that_names_it(table: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(f"schema = 1\n[{table}]\nmispelt = 1\n")
    assert caught.value.code == "policy_file"
    assert "mispelt" in f"{caught.value}"
