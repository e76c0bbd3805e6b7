"""The judged quantity: exact under relabelling, blind to class averages, sharp for a memorised record."""

from __future__ import annotations

import numpy as np

from audits.data import AuditData, check_data
from audits.instance_gap import draw_pools, gap_table, likeness
from audits.statistics import clopper_pearson, combine_minimum, critical_value, rank_p_values

CLASSES, SIDE, DIMENSIONS = 8, 20, 30


def records(seed: int, *, side: int = SIDE) -> AuditData:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(CLASSES, DIMENSIONS)) * 2
    y = np.repeat(np.arange(CLASSES), 2 * side)
    x = means[y] + rng.normal(size=(len(y), DIMENSIONS))
    member = np.tile(np.arange(2 * side) < side, CLASSES)
    return check_data({"x": x, "y": y, "member": member}, where="test")


def p_values(data: AuditData, images: np.ndarray, *, permutations: int = 399, fresh: int = 0, seed: int = 0) -> np.ndarray:
    """(3,) for mean, nearest and worst class; images (R, C, D)."""
    pools = draw_pools(data, classes=CLASSES, minimum=2, maximum=500, seed=0)
    table = gap_table([likeness(images.astype(np.float32), pools)], pools, permutations=permutations, fresh=fresh, seed=seed)
    return rank_p_values(table.values, reference=table.reference)[0]


def test_images_that_know_nothing_of_membership_alarm_at_the_rate_alpha() -> None:
    alarms = 0
    trials = 200
    for seed in range(trials):
        data = records(seed)
        images = np.random.default_rng(1000 + seed).normal(size=(2, CLASSES, DIMENSIONS))
        found = combine_minimum(p_values(data, images, permutations=199, seed=seed), reference=200)
        alarms += found[0] <= critical_value(found, alpha=0.05)
    low, _ = clopper_pearson(int(alarms), trials, confidence=0.99)
    assert low <= 0.05


def test_relabelled_memberships_of_one_image_alarm_at_the_rate_alpha() -> None:
    images = np.random.default_rng(7).normal(size=(2, CLASSES, DIMENSIONS))
    combined = combine_minimum(p_values(records(3), images, permutations=999, fresh=1000), reference=1000)
    alarms = int((combined[1000:] <= critical_value(combined[:1000], alpha=0.01)).sum())
    low, high = clopper_pearson(alarms, 1000)
    assert low <= 0.01 <= high + 0.01


def test_a_memorised_record_of_each_class_is_found() -> None:
    data = records(1)
    rng = np.random.default_rng(1)
    # two restarts show two different members
    rows = np.stack([[rng.choice(np.flatnonzero((data.y == c) & data.member)) for c in range(CLASSES)] for _ in range(2)])
    averages = np.stack([data.x[data.y == c].mean(axis=0) for c in range(CLASSES)])
    images = 0.4 * averages + 0.6 * data.x[rows]
    assert p_values(data, images)[1, 0] <= 0.005


def test_a_memorised_held_out_record_is_no_leak() -> None:
    data = records(1)
    rows = np.array([[np.flatnonzero((data.y == c) & ~data.member)[0] for c in range(CLASSES)]])
    assert p_values(data, data.x[rows])[:, 0].min() > 0.2


def test_the_exact_average_of_the_members_does_not_move_the_nearest_statistic() -> None:
    found = []
    for seed in range(12):
        data = records(seed)
        averages = np.stack([data.x[(data.y == c) & data.member].mean(axis=0) for c in range(CLASSES)])
        noise = np.random.default_rng(seed).normal(size=averages.shape) * 0.05
        found.append(p_values(data, (averages + noise)[None])[1, 0])
    assert min(found) > 0.01
    assert np.median(found) > 0.2


def test_the_average_of_few_members_is_a_leak() -> None:
    data = records(2, side=4)
    averages = np.stack([data.x[(data.y == c) & data.member].mean(axis=0) for c in range(CLASSES)])
    assert p_values(data, averages[None])[0, 0] <= 0.01


def test_a_leak_in_one_class_shows_in_the_worst_class() -> None:
    data = records(5)
    images = np.random.default_rng(5).normal(size=(1, CLASSES, DIMENSIONS))
    inside, outside = data.x[(data.y == 3) & data.member].mean(axis=0), data.x[(data.y == 3) & ~data.member].mean(axis=0)
    images[0, 3] = data.x.mean(axis=0) + 5 * (inside - outside)
    found = p_values(data, images)
    assert found[2, 0] <= 0.01


def test_both_sides_are_drawn_equally_and_thin_classes_are_named() -> None:
    data = records(0)
    keep = np.ones(len(data.x), dtype=bool)
    keep[np.flatnonzero((data.y == 2) & data.member)[3:]] = False
    fewer = check_data({"x": data.x[keep], "y": data.y[keep], "member": data.member[keep]}, where="test")
    pools = draw_pools(fewer, classes=CLASSES, minimum=5, maximum=10, seed=0)
    assert [pool.size for pool in pools.classes] == [10, 10, 3, 10, 10, 10, 10, 10]
    assert pools.thin == ((2, 3, SIDE),)
    for pool in pools.classes:
        assert len(pool.members) == len(pool.heldouts)
        assert fewer.member[pool.members].all()
        assert not fewer.member[pool.heldouts].any()


def test_images_without_contrast_are_no_leak_and_no_crash() -> None:
    data = records(4)
    centre = draw_pools(data, classes=CLASSES, minimum=2, maximum=500, seed=0).centre
    found = p_values(data, np.tile(centre, (1, CLASSES, 1)).astype(np.float32).astype(np.float64))
    assert np.isfinite(found).all()
    assert found[:2, 0].min() > 0.01
