from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from examples.seeds import average_precision, paired_change, precision_change


def test_average_precision_is_scikit_learns_with_ties_and_weights() -> None:
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 12, 200).astype(float), rng.integers(0, 2, 200)
    weights = rng.integers(0, 4, 200).astype(float)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    assert average_precision(scores, labels, weights) == pytest.approx(
        average_precision_score(labels, scores, sample_weight=weights)
    )


def test_average_precision_without_a_positive_row_is_zero() -> None:
    assert average_precision(np.array([1.0, 2.0]), np.array([0, 0])) == 0.0


def test_a_change_of_nothing_is_nothing_and_one_of_everything_is_one() -> None:
    none, every = np.zeros((3, 50)), np.ones((3, 50))
    same, all_gained = paired_change(none, none), paired_change(none, every)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    assert (all_gained.mean, all_gained.low, all_gained.high) == pytest.approx((1.0, 1.0, 1.0))


def test_the_interval_knows_that_seeds_differ_more_than_rows() -> None:
    rng = np.random.default_rng(0)
    before = np.zeros((3, 4000))
    rows_only = (rng.random((3, 4000)) < 0.02).astype(float)
    by_seed = np.stack([np.full(4000, value) for value in (0.0, 0.02, 0.04)])
    narrow, wide = paired_change(before, rows_only), paired_change(before, by_seed)
    assert wide.mean == pytest.approx(0.02)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.low < wide.mean < wide.high


def test_the_change_of_precision_resamples_whole_groups() -> None:
    labels = np.tile([1, 0, 0, 0], 25)
    groups = np.repeat(np.arange(25), 4)
    good = np.where(labels == 1, 1.0, 0.0)[None]
    bad = -good
    found = precision_change(good, bad, labels, groups, resamples=50)
    assert found.mean == pytest.approx(average_precision(bad[0], labels) - 1.0)
    assert found.low <= found.mean <= found.high < 0
    assert found.each == (found.mean,)
