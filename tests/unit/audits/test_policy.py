"""The policy is fixed before the run, complete, and bound by its digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from audits.policy import load_policy, policy_from_json
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


def test_a_policy_survives_the_copy_in_the_evidence() -> None:
    policy = load_policy()
    assert policy_from_json(policy.to_json(), where="copy") == policy


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
    "an unknown attack": ('[inversion]\nattacks = ["magic"]\n', "policy_value"),
    "no attack": ("[inversion]\nattacks = []\n", "policy_value"),
    "an attack twice": ('[inversion]\nattacks = ["logit", "logit"]\n', "policy_value"),
    "no planted control": ("[controls]\nplanted_strengths = []\n", "policy_value"),
    "planted strengths that fall": ("[controls]\nplanted_strengths = [1.0, 0.5]\n", "policy_value"),
    "planted strengths that end below what is required": ("[controls]\nplanted_strengths = [0.1]\n", "policy_value"),
    "a tier that does not exist": ('tier = "instant"\n', "policy_value"),
    "a threat model that is not built": ('threat_model = "sealed_api"\n', "policy_value"),
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
