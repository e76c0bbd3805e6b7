"""The policy is fixed before the run, complete, and bound by its digest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from audits.policy import TIERS, load_policy, policy_from_json
from device_client.errors import UsageError


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    default = load_policy()
    changed = load_policy(write(tmp_path, 'id = "clinic"\nversion = 3\n[decision]\nalpha = 0.02\n'))
    assert (changed.id, changed.version, changed.decision.alpha) == ("clinic", 3, 0.02)
    assert changed.decision.permutations == default.decision.permutations
    assert changed.inversion == default.inversion


def test_the_digest_covers_values_and_not_comments(tmp_path: Path) -> None:
    plain = load_policy(write(tmp_path, "expiry_days = 30\n"))
    commented = load_policy(write(tmp_path, "expiry_days = 30  # one month\n"))
    other = load_policy(write(tmp_path, "expiry_days = 31\n"))
    assert plain.digest == commented.digest
    assert plain.digest != other.digest


@pytest.mark.parametrize("tier", TIERS)
def test_a_policy_survives_the_copy_in_the_evidence(tier: str) -> None:
    policy = load_policy(tier=tier)
    assert policy.tier == tier
    assert policy_from_json(policy.to_json(), where="copy") == policy


def test_the_tiers_are_different_policies_of_growing_effort() -> None:
    tiers = [load_policy(tier=tier) for tier in TIERS]
    assert len({policy.digest for policy in tiers}) == len({policy.id for policy in tiers}) == 3
    for weaker, stronger in pairwise(tiers):
        assert weaker.decision.permutations < stronger.decision.permutations
        assert weaker.inversion.restarts < stronger.inversion.restarts
        assert set(weaker.tests.required) <= set(stronger.tests.required)
        assert weaker.decision.alpha == stronger.decision.alpha


def test_a_file_changes_the_tier_that_it_names(tmp_path: Path) -> None:
    deep = load_policy(tier="deep")
    changed = load_policy(write(tmp_path, 'tier = "deep"\nseed = 7\n'))
    assert changed == replace(deep, seed=7)
    assert load_policy(write(tmp_path, "seed = 7\n")).tier == "quick"


def test_a_file_of_another_tier_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 'tier = "standard"\n')
    assert load_policy(path, tier="standard").tier == "standard"
    with pytest.raises(UsageError, match="another tier"):
        load_policy(path, tier="deep")


BAD = {
    "an unknown key": ("alhpa = 0.5\n", "policy_unknown_key"),
    "an unknown key in a table": ("[decision]\nalhpa = 0.5\n", "policy_unknown_key"),
    "an unknown table": ("[thresholds]\ngap = 0.1\n", "policy_unknown_key"),
    "a table that is a number": ("decision = 3\n", "policy_value"),
    "alpha above one tenth": ("[decision]\nalpha = 0.5\n", "policy_value"),
    "alpha that is text": ('[decision]\nalpha = "0.01"\n', "policy_value"),
    "a boolean where a number belongs": ("expiry_days = true\n", "policy_value"),
    "not a number": ("[decision]\nalpha = nan\n", "policy_value"),
    "too few permutations for alpha": ("[decision]\npermutations = 200\n", "policy_value"),
    "fewer records at most than at least": ("[decision]\nmin_records_per_class = 600\n", "policy_value"),
    "an unknown attack": ('[inversion]\nattacks = ["magic"]\n', "policy_value"),
    "no attack": ("[inversion]\nattacks = []\n", "policy_value"),
    "an unknown test": ('[tests]\nrequired = ["inversion.magic"]\n', "policy_value"),
    "no required test": ("[tests]\nrequired = []\n", "policy_value"),
    "a test that is required and optional": ('[tests]\noptional = ["inversion.instance"]\n', "policy_value"),
    "a test twice": ('[tests]\nrequired = ["inversion.instance", "inversion.instance"]\n', "policy_value"),
    "a threat model that does not exist": ('threat_model = "nobody"\n', "policy_value"),
    "an attack twice": ('[inversion]\nattacks = ["logit", "logit"]\n', "policy_value"),
    "no planted control": ("[controls]\nplanted_strengths = []\n", "policy_value"),
    "planted strengths that fall": ("[controls]\nplanted_strengths = [1.0, 0.5]\n", "policy_value"),
    "planted strengths that end below what is required": ("[controls]\nplanted_strengths = [0.1]\n", "policy_value"),
    "a tier that does not exist": ('tier = "instant"\n', "policy_value"),
    "a required test that the threat model rules out": ('threat_model = "sealed_api"\n', "policy_value"),
    "planted strengths that begin above what is required": ("[controls]\nplanted_strengths = [0.9, 1.0]\n", "policy_value"),
    "not TOML": ("decision =\n", "policy_syntax"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_policy_is_refused(name: str, tmp_path: Path) -> None:
    text, code = BAD[name]
    with pytest.raises(UsageError) as refused:
        load_policy(write(tmp_path, text))
    assert refused.value.code == code
    assert "policy.toml" in (refused.value.where or "")


def test_a_missing_policy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the policy"):
        load_policy(tmp_path / "absent.toml")
