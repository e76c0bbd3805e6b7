"""The judgement on a watched bundle: each rule alone, at its bound and one beyond, and which comes first."""

from __future__ import annotations

import pytest

from device_client.bundle.fields import Fields
from device_client.errors import FormatError
from device_client.policy.probation import (
    PROBATION_KEYS,
    Judgement,
    Observation,
    ProbationRules,
    Verdict,
    judge_probation,
    read_probation,
)

RULES = ProbationRules(minutes=10, min_runs=5, max_hours=2, max_failures=1, max_crashes=2, max_boots=3)
GOOD = Observation(elapsed_s=600.0, runs=5)


def judged(**changes: float) -> Judgement:
    from dataclasses import replace

    return judge_probation(replace(GOOD, **changes), RULES)  # type: ignore[arg-type]


def test_a_bundle_that_ran_long_and_often_enough_is_committed() -> None:
    assert judged() == Judgement(Verdict.COMMIT)
    assert judged(failures=1, crashes=2, boots=3, votes_good=4).verdict is Verdict.COMMIT


@pytest.mark.parametrize("short", [{"elapsed_s": 599.9}, {"runs": 4}])
def test_before_that_it_waits(short: dict[str, float]) -> None:
    assert judged(**short) == Judgement(Verdict.WAIT)


@pytest.mark.parametrize(
    ("fault", "code", "measured", "allowed"),
    [
        ({"votes_bad": 1}, "probation_vote", "1 votes against it", "at most 0"),
        ({"non_finite": 1}, "probation_non_finite", "1 outputs with NaN or infinity", "at most 0"),
        ({"failures": 2}, "probation_failures", "2 failed runs", "at most 1"),
        ({"crashes": 3}, "probation_crashes", "3 crashes", "at most 2"),
        ({"boots": 4}, "probation_boots", "4 starts of the machine", "at most 3"),
    ],
)
def test_a_fault_beyond_its_bound_rolls_back_however_good_the_rest_is(
    fault: dict[str, float], code: str, measured: str, allowed: str
) -> None:
    assert judged(**fault) == Judgement(Verdict.ROLL_BACK, code, measured, allowed)
    assert judged(**fault, elapsed_s=0.0).code == code, "at once, not at the end"


def test_of_several_faults_the_first_rule_is_told() -> None:
    assert judged(votes_bad=1, non_finite=1, failures=9, crashes=9, boots=9).code == "probation_vote"
    assert judged(non_finite=1, failures=9).code == "probation_non_finite"


def test_a_bundle_that_had_its_time_without_enough_runs_was_not_observed_good() -> None:
    assert judged(runs=4, elapsed_s=7199.9).verdict is Verdict.WAIT
    assert judged(runs=4, elapsed_s=7200.0) == Judgement(
        Verdict.ROLL_BACK, "probation_unobserved", "4 runs in 2.0 hours", "at least 5 runs"
    )
    late = judge_probation(Observation(elapsed_s=720 * 3600.0), ProbationRules(minutes=10, min_runs=1, max_hours=720))
    assert late.measured == "0 runs in 720.0 hours"
    assert judged(elapsed_s=90000.0).verdict is Verdict.COMMIT, "late, but often enough"


def rules(**values: object) -> ProbationRules:
    return read_probation(Fields(values, where="policy.probation", known=PROBATION_KEYS))


def test_what_is_left_out_has_its_default() -> None:
    assert rules() == ProbationRules() == ProbationRules(10, 0, 72, 0, 2, 3)
    given = dict(zip(PROBATION_KEYS, (1, 2, 3, 4, 5, 6), strict=True))
    assert rules(**given) == ProbationRules(1, 2, 3, 4, 5, 6)


def test_the_longest_time_is_never_below_the_shortest() -> None:
    assert rules(minutes=73 * 60).max_hours == 73
    assert rules(minutes=73 * 60 + 1).max_hours == 74
    assert rules(minutes=120, max_hours=2).max_hours == 2
    with pytest.raises(FormatError) as caught:
        rules(minutes=121, max_hours=2)
    assert caught.value.code == "field_value"


def test_no_time_at_all_is_no_longest_time() -> None:
    with pytest.raises(FormatError):
        rules(minutes=0, max_hours=0)


@pytest.mark.parametrize(("key", "value"), [("minutes", -1), ("minutes", 10081), ("max_hours", 0), ("max_boots", 1001)])
def test_a_value_outside_its_range_is_an_error(key: str, value: int) -> None:
    with pytest.raises(FormatError):
        rules(**{key: value})
