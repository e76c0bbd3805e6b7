"""Settings: every value bounded, nothing unknown."""

from __future__ import annotations

import pytest

from audits.retrieval.settings import default_section, read_settings
from device_client.errors import UsageError

WRONG = {
    "a number for a flag": ("identity_is_public", 1),
    "a share above one": ("max_retrieval", 1.5),
    "a flag for a number": ("max_gap", True),
    "not a number": ("max_gap", float("nan")),
    "no answers": ("black_box_queries", 0),
    "a float for a count": ("black_box_queries", 2000.0),
    "more pairs than answers": ("black_box_pairs", 1000),
    "no restart": ("black_box_restarts", 0),
    "a search that uses everything up": ("label_only_search", 2000),
    "strengths that shrink": ("planted_strengths", [1.0, 0.5]),
    "a strength of nothing": ("planted_strengths", [0.0, 1.0]),
    "no strength that is required": ("planted_strengths", [0.2]),
    "an unknown attack": ("swap_split_attacks", ["magic"]),
    "text for a list": ("swap_split_attacks", "logit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_by_name(case: str) -> None:
    key, value = WRONG[case]
    with pytest.raises(UsageError) as caught:
        read_settings({**default_section(), key: value}, where="policy.toml: retrieval")
    assert caught.value.code == "policy_value"
    assert key in caught.value.what
    assert caught.value.where == "policy.toml: retrieval"


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        read_settings({**default_section(), "quries": 1}, where="x")
    assert caught.value.code == "policy_unknown_key"


def test_a_missing_key_takes_the_built_in_value() -> None:
    assert read_settings({}, where="x") == read_settings(default_section(), where="x")
    assert read_settings({"max_gap": 0.5}, where="x").max_gap == 0.5


def test_the_built_in_values_are_read_as_they_stand() -> None:
    section = default_section()
    settings = read_settings(section, where="x")
    assert {key: list(value) if isinstance(value, list) else value for key, value in section.items()} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(settings).items()
    }
