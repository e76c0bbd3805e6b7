from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from packager.data import Dataset
from packager.evaluate import Evaluation, make_judge
from packager.intervals import figure_interval, measure
from packager.resampling import Resampler
from packager.tasks.ranking import Ranking

PEERS = {False: roc_auc_score, True: average_precision_score}


def sample(rows: int, *, seed: int = 0, decimals: int = 1, share: float = 0.3) -> tuple[Any, Any]:
    """Scores with many ties, and which rows are positive."""
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < share
    return np.round(rng.standard_normal(rows) + positive, decimals), positive


def judged(
    original: Any, variant: Any, positive: Any, *, metric: str = "auc", groups: Any = None, budget: float = 0.005
) -> Evaluation:
    data = Dataset({"x": np.zeros((len(original), 1), np.float32)}, positive.astype(np.int64), groups, None, "data")
    judge = make_judge({"y": original[:, np.newaxis]}, data, task="anomaly", seed=0, where="data", metric=metric)
    return judge.evaluate({"y": variant[:, np.newaxis]}, allowed_drop=budget)


@pytest.mark.parametrize("precision", [False, True])
def test_the_figure_equals_scikit_learns_with_ties_and_over_every_resample(precision: bool) -> None:
    scores, positive = sample(300)
    statistic, resampler = Ranking(positive, precision), Resampler(300, groups=None, seed=1)
    assert statistic.value(scores) == pytest.approx(PEERS[precision](positive, scores), abs=1e-6)
    counts = np.concatenate(list(resampler.row_counts()))
    draws = statistic.draws(scores, resampler)
    assert len(draws) == len(counts) == 2000
    for index in range(0, 2000, 250):
        assert draws[index] == pytest.approx(PEERS[precision](positive, scores, sample_weight=counts[index]), abs=1e-6)


def test_resamples_with_one_kind_only_are_left_out() -> None:
    scores, positive = np.array([0.0, 1.0, 2.0]), np.array([False, False, True])
    for precision in (False, True):
        draws = Ranking(positive, precision).draws(scores, Resampler(3, groups=None, seed=0))
        assert np.isnan(draws).mean() == pytest.approx((8 + 1) / 27, abs=0.02)  # no positive, or nothing else, in three draws
        assert np.nanmin(draws) == np.nanmax(draws) == 1.0


@pytest.mark.parametrize("metric", ["auc", "average-precision"])
def test_the_interval_of_the_drop_covers_the_truth_about_as_often_as_it_says(metric: str) -> None:
    """Original and variant are noisy copies of one signal, so the true drop is that of a sample of 200,000."""

    def pair(rows: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        positive = rng.random(rows) < 0.3
        signal = rng.standard_normal(rows) + 1.5 * positive
        return signal, signal + 0.7 * rng.standard_normal(rows), positive

    original, variant, positive = pair(200_000, np.random.default_rng(99))
    peer = PEERS[metric != "auc"]
    truth = peer(positive, original) - peer(positive, variant)
    rng, hits = np.random.default_rng(7), 0
    for _ in range(60):
        drop = judged(*pair(150, rng), metric=metric).drop
        hits += drop.low <= truth <= drop.high
    assert hits >= 53  # 95 % of 60 is 57; below 53 has a chance of 1 in 60


def test_perfect_ranking_of_few_rows_proves_no_tight_budget() -> None:
    positive = np.arange(20) >= 10
    original = np.arange(20.0)
    result = judged(original, original**1.1, positive)
    assert result.drop.value == 0.0
    assert result.budget.verdict.value == "unproven"
    assert (result.budget.samples_needed or 0) > 20
    assert result.estimate.value == 1.0
    assert result.estimate.low < 0.75


def test_the_same_ranking_of_many_rows_proves_it() -> None:
    scores, positive = sample(2000, decimals=9)
    result = judged(scores, scores * 1.0001, positive)
    assert result.budget.verdict.value == "met"
    assert 0 < result.drop.high < 0.001


def test_a_variant_that_ranks_at_random_is_missed() -> None:
    scores, positive = sample(500)
    result = judged(scores, np.random.default_rng(3).standard_normal(500), positive)
    assert result.drop.value > 0.15
    assert result.budget.verdict.value == "missed"


def test_rows_of_one_group_are_drawn_together() -> None:
    scores, positive = np.tile(sample(20, decimals=9)[0], 20), np.tile(sample(20)[1], 20)
    worse = scores + np.repeat(np.random.default_rng(1).standard_normal(20), 20) * positive
    plain = judged(scores, worse, positive).drop
    grouped = judged(scores, worse, positive, groups=np.repeat(np.arange(20), 20)).drop
    assert grouped.high - grouped.low > 1.3 * (plain.high - plain.low)


def test_rows_needed_follow_the_spread_of_the_statistic_itself() -> None:
    scores, positive = sample(400, decimals=9)
    noise = np.random.default_rng(5).standard_normal(400)
    loose, tight = (judged(scores, scores + 0.4 * noise, positive, budget=budget).budget for budget in (0.005, 0.001))
    assert loose.verdict.value == tight.verdict.value == "unproven"
    assert 400 < (loose.samples_needed or 0) < (tight.samples_needed or 0) < 10_000


def test_groups_that_hold_the_rarer_kind_carry_the_figure() -> None:
    groups = np.repeat(np.arange(10), 10)
    positive = groups < 3
    resampler = Resampler(100, groups=groups, seed=0)
    statistic = Ranking(positive, precision=False)
    assert statistic.carriers(resampler) == 3
    found = figure_interval(statistic, measure(statistic, positive.astype(float), resampler), resampler)
    assert found.low == pytest.approx(0.4385, abs=1e-3)  # Wilson, 3 of 3
