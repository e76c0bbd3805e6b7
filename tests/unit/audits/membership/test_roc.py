"""The bound on the rate of true positives keeps its promise although the threshold is itself a guess."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from audits.membership.judgement import Bound, chances, permuted_p
from audits.membership.roc import (
    allowed_false_positives,
    finest_fpr,
    interval,
    operating_point,
    p_value,
    p_values,
    roc_curve,
    supports,
)

FPR, TOLERATED = 0.01, 0.05


def _straight(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Scores whose curve is the steepest that the hypothesis allows: 5 times the false positive rate everywhere."""
    outside, inside = rng.random(count), rng.random(count) / 5
    return -np.concatenate([inside, outside]), np.repeat([True, False], count)


def test_at_most_a_share_alpha_of_models_that_just_meet_the_bound_is_refused() -> None:
    rng = np.random.default_rng(0)
    naive = refused = 0
    trials, alpha = 1500, 0.05
    for _ in range(trials):
        point = operating_point(*_straight(rng, 400), fpr=FPR)
        refused += p_value(point, tolerated=TOLERATED) <= alpha
        naive += stats.binom.sf(point.hits - 1, point.members, TOLERATED) <= alpha
    assert 0.01 * trials < refused <= stats.binom.ppf(0.999, trials, alpha)
    assert naive > 3 * alpha * trials  # a threshold taken for exact would refuse far too often


def test_the_interval_covers_the_true_rate() -> None:
    rng = np.random.default_rng(1)
    truth = stats.norm.sf(stats.norm.isf(FPR) - 1.0)
    covered = []
    for _ in range(150):
        scores = np.concatenate([rng.normal(1.0, 1.0, 500), rng.normal(0.0, 1.0, 500)])
        low, high = interval(operating_point(scores, np.repeat([True, False], 500), fpr=FPR), confidence=0.9)
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.9 - 3 * np.sqrt(0.09 / 150)


def test_a_strong_leak_is_far_from_the_bound_and_no_leak_far_below() -> None:
    rng = np.random.default_rng(2)
    member = np.repeat([True, False], 1000)
    scores = rng.normal(size=2000)
    point = operating_point(scores, member, fpr=FPR)
    assert p_value(point, tolerated=TOLERATED) > 0.99
    assert interval(point, confidence=0.95)[1] < 1.2 * TOLERATED
    scores[:200] += 10
    point = operating_point(scores, member, fpr=FPR)
    assert p_value(point, tolerated=TOLERATED) < 1e-4
    assert interval(point, confidence=0.95)[0] > TOLERATED


@pytest.mark.parametrize(
    ("heldouts", "fpr", "enough"), [(300, 0.01, True), (299, 0.01, False), (3000, 0.001, True), (2999, 0.001, False)]
)
def test_a_rate_needs_three_heldouts_over_it(heldouts: int, fpr: float, enough: bool) -> None:
    assert supports(heldouts, fpr=fpr) is enough
    assert supports(heldouts, fpr=finest_fpr(heldouts))


def test_the_threshold_has_the_asked_rate_on_average() -> None:
    for heldouts in (300, 450, 1000, 16000):
        allowed = allowed_false_positives(heldouts, fpr=FPR)
        assert (allowed + 1) / (heldouts + 1) <= FPR < (allowed + 2) / heldouts


def test_records_that_tie_with_the_threshold_are_not_told_apart() -> None:
    member = np.repeat([True, False], 400)
    assert operating_point(np.zeros(800), member, fpr=FPR).hits == 0
    assert p_value(operating_point(np.zeros(800), member, fpr=FPR), tolerated=TOLERATED) == pytest.approx(1.0)


def test_many_memberships_are_judged_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=700), 1)  # with ties
    memberships = np.stack([rng.permutation(np.arange(700) < 350) for _ in range(20)])
    scores[memberships[0]] += 2
    bound = Bound(FPR, TOLERATED, 0.01, 0.95)
    together = permuted_p({"rmia": scores}, memberships, bound)
    alone = [chances({"rmia": scores}, member, bound)["rmia"] for member in memberships]
    np.testing.assert_allclose(together, alone)
    assert together[0] < 1e-4 < together[1:].min()


def test_p_values_of_many_counts_fall_with_the_count() -> None:
    point = operating_point(np.arange(1000.0), np.arange(1000) % 2 == 0, fpr=FPR)
    found = p_values(np.arange(0, 501, 25), point, tolerated=TOLERATED)
    assert (np.diff(found) <= 0).all()
    assert found[0] == 1.0
    assert found[-1] < 1e-9


def test_the_curve_rises_from_the_finest_rate_to_one() -> None:
    rng = np.random.default_rng(4)
    found = roc_curve(rng.normal(size=900), np.arange(900) < 450, points=120, confidence=0.95)
    assert found["fpr"][-1] == found["tpr"][-1] == 1.0
    assert found["fpr"][0] == pytest.approx(1 / 450, abs=1e-6)
    assert found["tpr"] == sorted(found["tpr"])
