"""Exact statistics, checked against hand-made and textbook cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from audits import statistics
from audits.statistics import (
    binomial_limit,
    clopper_pearson,
    combine_minimum,
    critical_value,
    percentile_interval,
    rank_p_values,
    value_at,
)


def test_a_p_value_counts_ties_against_the_model() -> None:
    assert rank_p_values(np.array([[3.0, 1.0, 3.0, 2.0]]), reference=4)[0].tolist() == [0.5, 1.0, 0.5, 0.75]


def test_a_fresh_column_is_ranked_among_the_reference_and_itself() -> None:
    found = rank_p_values(np.array([[1.0, 2.0, 3.0, 9.0, 0.0]]), reference=3)[0]
    assert found[3:].tolist() == [0.25, 1.0]


def test_the_combined_p_value_keeps_its_level_for_many_dependent_tests() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1, 4000))
    values = base + 0.3 * rng.normal(size=(12, 4000))
    combined = combine_minimum(rank_p_values(values, reference=4000), reference=4000)
    assert np.mean(combined <= 0.01) <= 0.01
    assert np.mean(combined <= 0.01) > 0.005


def test_no_more_than_alpha_of_the_null_lies_at_or_below_the_critical_value() -> None:
    values = np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert critical_value(values, alpha=0.2) == 0.1
    assert critical_value(values, alpha=0.1) == 0.0
    assert critical_value(values, alpha=0.3) == 0.2
    assert critical_value(values, alpha=1.0) == 0.9


def test_the_threshold_is_the_smallest_value_that_is_rare_enough() -> None:
    values = np.array([5.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert value_at(values, p_value=0.1) == 5.0
    assert value_at(values, p_value=0.2) == 5.0
    assert value_at(values, p_value=0.3) == 4.0
    assert value_at(values, p_value=0.05) == math.inf


def test_clopper_pearson_gives_textbook_intervals() -> None:
    assert clopper_pearson(0, 3000)[1] == pytest.approx(0.00123, abs=1e-5)
    assert clopper_pearson(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)
    assert clopper_pearson(10, 10)[1] == 1.0


def test_the_binomial_limit_is_rarely_passed() -> None:
    assert binomial_limit(200, rate=0.01) == 8


def test_an_interval_holds_the_middle_of_the_samples() -> None:
    assert percentile_interval(np.arange(101.0), confidence=0.9) == pytest.approx((5.0, 95.0))


def test_holm_is_bonferroni_for_the_smallest_and_never_falls() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert statistics.holm([]) == []
