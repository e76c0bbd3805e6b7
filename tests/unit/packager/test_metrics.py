from __future__ import annotations

import numpy as np
import pytest

from packager.budget import BudgetVerdict, judge_drop, worst_verdict
from packager.metrics import (
    Estimate,
    bootstrap_interval,
    correct_scores,
    drop_interval,
    fit_scores,
    mean_interval,
    samples_needed,
    wilson_interval,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_wilson_interval_equals_the_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_correct_scores_take_the_lower_index_on_a_tie() -> None:
    outputs = np.array([[0.5, 0.5], [0.1, 0.9]])
    assert correct_scores(outputs, np.array([0, 1])).tolist() == [1.0, 1.0]


def test_fit_score_is_one_for_a_perfect_fit_and_zero_for_the_mean() -> None:
    targets = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    assert fit_scores(targets, targets).mean() == 1.0
    mean = np.broadcast_to(targets.mean(axis=0), targets.shape)
    assert fit_scores(mean, targets).mean() == pytest.approx(0.0)


def test_constant_targets_do_not_divide_by_zero() -> None:
    assert np.isfinite(fit_scores(np.ones((4, 2)), np.zeros((4, 2)))).all()


def test_no_differing_row_does_not_mean_a_drop_of_exactly_zero() -> None:
    scores = np.ones(100)
    drop = drop_interval(scores, scores.copy(), binary=True, groups=None, rng=rng())
    assert drop.value == 0.0
    assert drop.low < 0 < drop.high
    assert drop.high == pytest.approx(1.96 / 102, rel=0.01)


def test_more_rows_make_the_interval_of_the_drop_narrower() -> None:
    widths = []
    for rows in (100, 1000):
        original = np.ones(rows)
        variant = original.copy()
        variant[: rows // 50] = 0
        drop = drop_interval(original, variant, binary=True, groups=None, rng=rng())
        assert drop.low <= 0.02 <= drop.high
        widths.append(drop.high - drop.low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_the_drop_covers_the_truth_about_as_often_as_it_says() -> None:
    source, hits = np.random.default_rng(5), 0
    for _ in range(200):
        original = (source.random(200) < 0.95).astype(np.float64)
        variant = np.where(source.random(200) < 0.03, 0.0, original)
        drop = drop_interval(original, variant, binary=True, groups=None, rng=rng())
        hits += drop.low <= 0.03 * 0.95 <= drop.high
    assert hits / 200 >= 0.92


def test_rows_of_one_group_are_not_counted_as_independent() -> None:
    groups = np.repeat(np.arange(10), 20)
    scores = np.repeat((np.arange(10) % 2).astype(np.float64), 20)
    plain = mean_interval(scores, binary=True, groups=None, rng=rng())
    grouped = mean_interval(scores, binary=True, groups=groups, rng=rng())
    assert grouped.high - grouped.low > 2 * (plain.high - plain.low)


def test_groups_without_a_difference_get_the_rule_of_three() -> None:
    scores = np.ones(60)
    drop = drop_interval(scores, scores, binary=True, groups=np.repeat(np.arange(6), 10), rng=rng())
    assert (drop.low, drop.high) == (-0.5, 0.5)


def test_bootstrap_is_the_same_for_the_same_seed() -> None:
    scores = np.random.default_rng(1).random(50)
    assert bootstrap_interval(scores, groups=None, rng=rng()) == bootstrap_interval(scores, groups=None, rng=rng())


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100, "")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        pytest.param(-0.02, 0.01, BudgetVerdict.MET, id="whole interval within the budget"),
        pytest.param(-0.02, 0.0101, BudgetVerdict.UNPROVEN, id="upper end outside"),
        pytest.param(0.0101, 0.05, BudgetVerdict.MISSED, id="whole interval outside"),
    ],
)
def test_budget_verdict_follows_the_interval(low: float, high: float, verdict: BudgetVerdict) -> None:
    assert judge_drop(estimate(low, high), allowed_drop=0.01, samples_needed=7).verdict is verdict


def test_a_release_is_as_good_as_its_worst_variant() -> None:
    good, poor = (judge_drop(estimate(0.0, high), allowed_drop=0.01, samples_needed=9) for high in (0.005, 0.02))
    assert worst_verdict([good, poor]) is BudgetVerdict.UNPROVEN


def test_the_number_of_rows_that_it_asks_for_proves_the_budget() -> None:
    original = np.ones(200)
    variant = original.copy()
    variant[0] = 0
    needed = samples_needed(original, variant, allowed_drop=0.01)
    assert needed is not None
    assert needed > 200
    more = np.ones(needed + needed // 10)
    worse = more.copy()
    worse[: round(len(more) / 200)] = 0
    drop = drop_interval(more, worse, binary=True, groups=None, rng=rng())
    assert judge_drop(drop, allowed_drop=0.01, samples_needed=None).verdict is BudgetVerdict.MET


def test_no_number_of_rows_proves_a_drop_above_the_budget() -> None:
    original = np.ones(100)
    variant = original.copy()
    variant[:5] = 0
    assert samples_needed(original, variant, allowed_drop=0.01) is None
