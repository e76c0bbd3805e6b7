"""Controls must be able to fail: a blind audit and a biased one both show."""

from __future__ import annotations

import numpy as np

from audits.membership.controls import Ground, permuted, planted, untrained
from audits.membership.draws import Judged
from audits.membership.judgement import Bound
from audits.membership.scores import RecordScores
from audits.membership.settings import MembershipSettings

N = 1400
RNG = np.random.default_rng(0)
MEMBER = np.arange(N) % 2 == 0
Y = (np.arange(N) // 2) % 5
SETTINGS = MembershipSettings(planted_shares=(0.06, 0.1, 0.2, 0.3), relabellings=60)


def ground(**over: float) -> Ground:
    bound = Bound(**{"fpr": 0.01, "tolerated": 0.05, "alpha": 0.01, "confidence": 0.95, "compared": 4, **over})  # type: ignore[arg-type]
    return Ground(Judged(np.arange(N), MEMBER, ()), Y, bound, SETTINGS, 5)


def scores(confidence: np.ndarray) -> RecordScores:  # type: ignore[type-arg]
    return RecordScores(confidence, -np.logaddexp(0.0, -confidence), confidence, np.zeros(N))


QUIET = scores(RNG.normal(size=N))


def test_the_power_is_the_smallest_share_that_is_caught_with_all_larger() -> None:
    controls, power = planted(ground(), QUIET, None)
    assert [control.held for control in controls] == [False, False, True, True]
    assert power == 0.2
    assert [control.required for control in controls] == [False, False, False, True]


def test_a_rule_that_tolerates_everything_is_blind_and_its_planted_leak_says_so() -> None:
    controls, power = planted(ground(tolerated=0.6), QUIET, None)
    assert power is None
    assert not controls[-1].held
    assert controls[-1].required
    assert "was not caught" in controls[-1].told


def test_permuted_memberships_are_quiet_under_the_rule_and_loud_under_a_wrong_one() -> None:
    attacks = {"original": {"confidence": QUIET.confidence, "class_confidence": QUIET.confidence}}
    assert all(control.held for control in permuted(ground(), attacks))
    loud = {control.name: control.held for control in permuted(ground(tolerated=0.001, compared=0.02), attacks)}
    assert loud["permuted"] is False
    narrow = {control.name: control.held for control in permuted(ground(confidence=0.2), {"original": attacks["original"]})}
    assert narrow["permuted_area"] is True  # an interval of 20 % misses four times in five, and says so


def test_a_twin_that_knows_members_is_no_null_control() -> None:
    knowing = scores(QUIET.confidence + 8.0 * MEMBER)
    held = [control.held for control in untrained(ground(), [("u:0", "original", QUIET), ("u:1", "original", knowing)], None)]
    assert held == [True, False]
