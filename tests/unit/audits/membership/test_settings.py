"""Settings are checked before anything is trained."""

from __future__ import annotations

import pytest

from audits.membership.judgement import Bound, is_alarm
from audits.membership.settings import DEFAULT, read
from audits.policy import load_policy
from device_client.errors import UsageError

BAD = {
    "an unknown key": ({"shadow": 3}, "policy_unknown_key"),
    "a fraction of a shadow": ({"shadows": 2.5}, "policy_value"),
    "a flag that is a number": ({"matched_shadows": 1}, "policy_value"),
    "a rate of zero": ({"fpr": 0.0}, "policy_value"),
    "a rate above one half": ({"fpr": 0.6}, "policy_value"),
    "a rate that is text": ({"fpr": "0.01"}, "policy_value"),
    "a rate that is not a number": ({"fpr": float("nan")}, "policy_value"),
    "shares that do not grow": ({"planted_shares": [0.3, 0.2]}, "policy_value"),
    "no shares": ({"planted_shares": []}, "policy_value"),
    "a required share beyond the largest": ({"planted_required": 0.9}, "policy_value"),
    "a required share that is tolerated": ({"planted_required": 0.05}, "policy_value"),
    "too few permutations": ({"relabellings": 5}, "policy_value"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_settings_are_refused_by_name(name: str) -> None:
    section, code = BAD[name]
    with pytest.raises(UsageError) as refused:
        read(section, where="policy.toml: membership")
    assert refused.value.code == code
    assert refused.value.where == "policy.toml: membership"


def test_a_missing_key_takes_the_value_of_the_standard_tier_and_tiers_grow() -> None:
    quick, standard, deep = (load_policy(tier=tier).families["membership"] for tier in ("quick", "standard", "deep"))
    assert read({}, where="test") == DEFAULT == standard
    assert read({"shadows": 8}, where="test") != DEFAULT
    assert quick.shadows < standard.shadows < deep.shadows


def test_an_alarm_is_what_would_fail_first() -> None:
    bound = Bound(0.01, 0.05, 0.01, 0.95, compared=4)
    assert is_alarm(0.0025, bound)
    assert not is_alarm(0.0026, bound)
    assert not is_alarm(0.0025, bound, among=2)
