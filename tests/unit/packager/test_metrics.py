from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from packager.budget import BudgetVerdict, judge_drop, worst_verdict
from packager.intervals import drop_interval, figure_interval, measure, samples_needed
from packager.metrics import Estimate, correct_scores, fit_scores, wilson_interval
from packager.resampling import Resampler
from packager.tasks.mean import Mean
from packager.tasks.metric import Metric, Unit


def shares(*, binary: bool = True) -> Metric:
    return Metric("accuracy", Unit.POINTS, Mean(binary=binary), lambda outputs: outputs["y"], ("y",))


def figure(scores: Any, *, groups: Any = None) -> Estimate:
    resampler = Resampler(len(scores), groups=groups, seed=0)
    statistic = shares().statistic
    return figure_interval(statistic, measure(statistic, scores, resampler), resampler)


def drop_of(original: Any, variant: Any, *, groups: Any = None, binary: bool = True) -> Estimate:
    metric, resampler = shares(binary=binary), Resampler(len(original), groups=groups, seed=0)
    before, after = (measure(metric.statistic, scores, resampler) for scores in (original, variant))
    return drop_interval(metric, before, after, resampler)


def rows_needed(original: Any, variant: Any, *, allowed_drop: float, groups: Any = None, binary: bool = True) -> int | None:
    metric, resampler = shares(binary=binary), Resampler(len(original), groups=groups, seed=0)
    before, after = (measure(metric.statistic, scores, resampler) for scores in (original, variant))
    drop = drop_interval(metric, before, after, resampler)
    return samples_needed(metric, before, after, drop, resampler, allowed_drop=allowed_drop)


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
    drop = drop_of(scores, scores.copy())
    assert drop.value == 0.0
    assert drop.low < 0 < drop.high
    assert drop.high == pytest.approx(1.96 / 102, rel=0.01)


def test_more_rows_make_the_interval_of_the_drop_narrower() -> None:
    widths = []
    for rows in (100, 1000):
        original = np.ones(rows)
        variant = original.copy()
        variant[: rows // 50] = 0
        drop = drop_of(original, variant)
        assert drop.low <= 0.02 <= drop.high
        widths.append(drop.high - drop.low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_the_drop_covers_the_truth_about_as_often_as_it_says() -> None:
    source, hits = np.random.default_rng(5), 0
    for _ in range(200):
        original = (source.random(200) < 0.95).astype(np.float64)
        variant = np.where(source.random(200) < 0.03, 0.0, original)
        drop = drop_of(original, variant)
        hits += drop.low <= 0.03 * 0.95 <= drop.high
    assert hits / 200 >= 0.92


def test_rows_of_one_group_are_not_counted_as_independent() -> None:
    groups = np.repeat(np.arange(10), 20)
    scores = np.repeat((np.arange(10) % 2).astype(np.float64), 20)
    plain = figure(scores)
    grouped = figure(scores, groups=groups)
    assert grouped.high - grouped.low > 2 * (plain.high - plain.low)


def test_groups_without_a_difference_get_the_rule_of_three() -> None:
    scores = np.ones(60)
    drop = drop_of(scores, scores, groups=np.repeat(np.arange(6), 10))
    assert (drop.low, drop.high) == (-0.5, 0.5)


def test_a_continuous_score_that_hardly_changes_has_a_narrow_interval_but_never_none() -> None:
    source = np.random.default_rng(2)
    original = source.random(500)
    variant = original - 1e-3 * source.random(500)
    drop = drop_of(original, variant, binary=False)
    assert drop.value == pytest.approx(5e-4, rel=0.2)
    assert 0 < drop.high - drop.low < 1e-3
    assert drop.low > 0
    constant = drop_of(original, original - 1e-3, binary=False)
    assert constant.high > constant.value  # no spread at all between rows, and still not certainty


def test_one_row_that_is_ruined_widens_the_interval_by_the_rule_of_three() -> None:
    original, variant = np.zeros(100), np.zeros(100)
    variant[0] = -1.0
    drop = drop_of(original, variant, binary=False)
    assert drop.high == pytest.approx(0.04, abs=0.001)  # the drop of 0.01, and three such rows in a hundred more


def test_a_figure_that_is_perfect_on_every_resample_is_not_certain() -> None:
    perfect = figure(np.ones(60), groups=np.repeat(np.arange(6), 10))
    assert perfect.high == 1.0
    assert perfect.low == pytest.approx(wilson_interval(6, 6)[0])


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100, "")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        pytest.param(-0.02, 0.01, BudgetVerdict.MET, id="whole interval within the budget"),
        pytest.param(-0.02, 0.0101, BudgetVerdict.UNPROVEN, id="upper end outside"),
        pytest.param(0.0101, 0.05, BudgetVerdict.MISSED, id="whole interval outside"),
        pytest.param(float("nan"), float("nan"), BudgetVerdict.MISSED, id="no number at all"),
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
    needed = rows_needed(original, variant, allowed_drop=0.01)
    assert needed is not None
    assert needed > 200
    more = np.ones(needed + needed // 10)
    worse = more.copy()
    worse[: round(len(more) / 200)] = 0
    drop = drop_of(more, worse)
    assert judge_drop(drop, allowed_drop=0.01, samples_needed=None).verdict is BudgetVerdict.MET


def test_no_number_of_rows_proves_a_drop_above_the_budget() -> None:
    original = np.ones(100)
    variant = original.copy()
    variant[:5] = 0
    assert rows_needed(original, variant, allowed_drop=0.01) is None


def test_rows_needed_for_a_continuous_score_follow_the_interval() -> None:
    source = np.random.default_rng(4)
    original = source.random(100)
    change = 0.1 * source.standard_normal(3000)
    change -= change.mean()
    variant = original - change[:100] + change[:100].mean()
    needed = rows_needed(original, variant, allowed_drop=0.01, binary=False)
    assert needed is not None
    assert 200 < needed < 3000
    long = source.random(needed)
    drop = drop_of(long, long - change[:needed] + change[:needed].mean(), binary=False)
    assert drop.high <= 0.0115


def test_rows_needed_over_groups_without_a_difference_grow_in_proportion() -> None:
    scores, groups = np.ones(60), np.repeat(np.arange(6), 10)
    assert rows_needed(scores, scores.copy(), allowed_drop=0.01, groups=groups) == 3000  # 300 groups of 10


def test_a_budget_out_of_reach_of_any_sample_names_no_number() -> None:
    original, variant = np.zeros(50), np.zeros(50)
    variant[0] = -0.5
    assert rows_needed(original, variant, allowed_drop=0.01 + 1e-9, binary=False) is None
