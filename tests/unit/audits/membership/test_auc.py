"""Areas, their intervals and their differences."""

from __future__ import annotations

import numpy as np

from audits.membership.auc import area, difference

MEMBER = np.repeat([True, False], [120, 150])


def test_the_area_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=270), 1)
    pairs = scores[MEMBER][:, None] - scores[~MEMBER][None, :]
    assert area(scores, MEMBER).value == np.mean((pairs > 0) + 0.5 * (pairs == 0))


def test_the_interval_covers_one_half_where_nothing_is_told_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = [
        low <= 0.5 <= high for low, high in (area(rng.normal(size=270), MEMBER).interval(confidence=0.95) for _ in range(1000))
    ]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_perfect_order_is_not_certain() -> None:
    low, high = area(np.where(MEMBER, 1.0, 0.0), MEMBER).interval(confidence=0.95)
    assert high == 1.0
    assert 0.9 < low < 1.0


def test_a_paired_difference_is_sharper_than_two_areas() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=270) + MEMBER
    first, second = area(scores + 0.01 * rng.normal(size=270), MEMBER), area(scores, MEMBER)
    estimate, (low, high) = difference(first, second, confidence=0.95)
    assert estimate == first.value - second.value
    assert low <= 0.0 <= high
    alone = first.interval(confidence=0.95)
    assert high - low < 0.1 * (alone[1] - alone[0])
