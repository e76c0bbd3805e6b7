"""The attacks' formulas against plain ones, and what they do with records that few shadows saw."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from audits.membership.attacks import by_class, joint, lira_offline, lira_online, lira_shrunk, rmia
from audits.membership.auc import area
from audits.membership.draws import shadow_masks
from audits.membership.scores import log_of_probabilities, log_softmax, record_scores

RNG = np.random.default_rng(0)
K, N = 12, 400
Y = np.arange(N) % 4
INSIDE = shadow_masks(Y, count=K + 1, share=0.5, seed=0)
LEVEL = RNG.normal(0, 3, N)
CONFIDENCE = LEVEL + 1.5 * INSIDE + RNG.normal(0, 1, (K + 1, N))
TARGET, SHADOWS, MASKS = CONFIDENCE[0], CONFIDENCE[1:], INSIDE[1:]


def test_lira_is_a_likelihood_ratio_of_two_normals_with_common_spread() -> None:
    spread = {}
    for side, chosen in (("in", MASKS), ("out", ~MASKS)):
        residuals = [SHADOWS[chosen[:, i], i] - SHADOWS[chosen[:, i], i].mean() for i in range(N)]
        spread[side] = np.sqrt(sum((r**2).sum() for r in residuals) / sum(len(r) - 1 for r in residuals))
    expected = [
        stats.norm.logpdf(TARGET[i], SHADOWS[MASKS[:, i], i].mean(), spread["in"])
        - stats.norm.logpdf(TARGET[i], SHADOWS[~MASKS[:, i], i].mean(), spread["out"])
        for i in range(N)
    ]
    found = lira_online(TARGET, SHADOWS, MASKS)
    np.testing.assert_allclose(found - found.mean(), np.asarray(expected) - np.mean(expected), atol=1e-9)


def test_rmia_orders_records_as_the_share_of_the_population_that_they_dominate() -> None:
    log_p = -np.exp(-CONFIDENCE / 3)
    ratio = rmia(log_p[0], log_p[1:], MASKS)
    for gamma in (1.0, 2.0):
        dominated = (ratio[:, None] - ratio[None, :] >= np.log(gamma)).mean(axis=1)
        order = np.argsort(ratio)
        assert (np.diff(dominated[order]) >= 0).all()


def test_attacks_with_shadows_see_what_a_threshold_does_not() -> None:
    member = INSIDE[0]
    blind = area(TARGET, member).value
    for attack in (lira_online, lira_offline, lira_shrunk):
        assert area(attack(TARGET, SHADOWS, MASKS), member).value > blind + 0.1


def test_the_offline_attack_does_not_look_at_shadows_that_saw_the_record() -> None:
    changed = np.where(MASKS, SHADOWS + 100.0, SHADOWS)
    np.testing.assert_allclose(lira_offline(TARGET, changed, MASKS), lira_offline(TARGET, SHADOWS, MASKS))


def test_a_record_that_no_shadow_saw_or_that_all_saw_gets_the_common_gap() -> None:
    masks = MASKS.copy()
    masks[:, 0], masks[:, 1] = False, True
    for attack in (lira_online, lira_shrunk):
        found = attack(TARGET, SHADOWS, masks)
        assert np.isfinite(found).all()
    high = TARGET.copy()
    high[:2] += 2.0
    assert (lira_online(high, SHADOWS, masks)[:2] > lira_online(TARGET, SHADOWS, masks)[:2]).all()


def test_shadows_of_one_kind_only_do_not_break_an_attack() -> None:
    nothing = np.zeros_like(MASKS)
    assert np.isfinite(lira_online(TARGET, SHADOWS, nothing)).all()
    assert np.isfinite(rmia(-np.exp(-TARGET), -np.exp(-SHADOWS), nothing)).all()


def test_calibration_by_class_takes_the_level_of_a_class_away() -> None:
    shifted = TARGET + 100.0 * Y
    np.testing.assert_allclose(by_class(shifted, Y), by_class(TARGET, Y), atol=1e-9)


def test_two_versions_that_err_independently_tell_more_than_one() -> None:
    second = LEVEL + 1.5 * INSIDE + np.random.default_rng(5).normal(0, 1, (K + 1, N))
    ratios = [lira_online(TARGET, SHADOWS, MASKS), lira_online(second[0], second[1:], MASKS)]
    assert area(joint(ratios), INSIDE[0]).value > max(area(ratio, INSIDE[0]).value for ratio in ratios) + 0.02


def test_confidence_keeps_its_digits_where_the_probability_is_one() -> None:
    logits = np.array([[800.0, 0.0, 1.0], [0.0, 50.0, 1.0]])
    found = record_scores(log_softmax(logits), np.array([0, 0]))
    assert found.confidence[0] == pytest.approx(800.0 - np.logaddexp(0.0, 1.0))
    assert found.confidence[1] == pytest.approx(-50.0)
    assert found.rank.tolist() == [0.0, 2.0]
    assert found.margin.tolist() == [799.0, -50.0]
    assert found.correct.tolist() == [True, False]


def test_probabilities_and_logits_of_one_model_give_one_score() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 5))
    from_logits = record_scores(log_softmax(logits), np.arange(50) % 5)
    from_probabilities = record_scores(log_of_probabilities(np.exp(log_softmax(logits))), np.arange(50) % 5)
    np.testing.assert_allclose(from_logits.confidence, from_probabilities.confidence, atol=1e-9)


def test_an_exact_zero_counts_as_half_of_the_smallest_number() -> None:
    found = log_of_probabilities(np.array([[0.5, 0.5, 0.0], [0.996, 0.004, 0.0]]))
    assert np.exp(found[0, 2]) == pytest.approx(0.002, rel=0.01)
