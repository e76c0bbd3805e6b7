"""Identity retrieval: exact gates, and galleries that the model never saw."""

from __future__ import annotations

import numpy as np
import pytest

from audits.data import check_data
from audits.retrieval.identity import hits_p_value, make_gallery, permuted_alarms, retrieve
from audits.retrieval.multiple import over_blocks
from audits.statistics import holm


def shapes(*, classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Class patterns around a strong common one, six records each, half of them members."""
    rng = np.random.default_rng(seed)
    patterns = 5.0 * rng.normal(size=40) + rng.normal(size=(classes, 40))
    y = np.repeat(np.arange(classes), 6)
    x = (patterns[y] + 0.3 * rng.normal(size=(len(y), 40))).astype(np.float32)
    return patterns.astype(np.float32), x, y, np.tile(np.arange(6) < 3, classes)


def test_the_gallery_holds_no_record_that_trained() -> None:
    _, x, y, member = shapes()
    data = check_data({"x": x, "y": y, "member": member}, where="test")
    changed = x.copy()
    changed[member] += 100.0
    other = check_data({"x": changed, "y": y, "member": member}, where="test")
    one, two = make_gallery(data, classes=12), make_gallery(other, classes=12)
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.directions, two.directions)


def test_patterns_are_retrieved_behind_a_common_image_because_both_sides_are_centred() -> None:
    patterns, x, y, member = shapes()
    gallery = make_gallery(check_data({"x": x, "y": y, "member": member}, where="test"), classes=12)
    assert gallery is not None
    # what all images share looks like class 3, as an attack's start well may
    found = retrieve(100.0 + 0.5 * patterns + 20.0 * (patterns[3] - patterns.mean(axis=0)), gallery)
    assert found.retrieved == 12
    assert found.p_value < 1e-9
    assert found.interval[0] > 0.7


def test_noise_and_flat_images_retrieve_what_chance_does() -> None:
    _, x, y, member = shapes()
    gallery = make_gallery(check_data({"x": x, "y": y, "member": member}, where="test"), classes=12)
    assert gallery is not None
    counts = [
        retrieve(np.random.default_rng(seed).normal(size=(12, 40)).astype(np.float32), gallery).retrieved for seed in range(60)
    ]
    assert 0.5 <= np.mean(counts) <= 1.6
    flat = retrieve(np.ones((12, 40), dtype=np.float32), gallery)
    assert flat.retrieved == 0
    assert flat.p_value == 1.0


def test_a_class_without_held_outs_has_no_gallery() -> None:
    _, x, y, member = shapes()
    member[y == 4] = True
    assert make_gallery(check_data({"x": x, "y": y, "member": member}, where="test"), classes=12) is None


def test_the_gate_is_the_exact_binomial() -> None:
    # five of forty by chance: 0.31 %
    assert hits_p_value(5, 40) == pytest.approx(0.0031, abs=1e-4)
    assert hits_p_value(0, 40) == 1.0
    assert hits_p_value(8, 40, tolerated=0.1) == pytest.approx(0.0419, abs=1e-3)
    # a bound below chance is chance
    assert hits_p_value(5, 40, tolerated=0.001) == hits_p_value(5, 40)


def test_falsely_claimed_identities_raise_no_more_alarms_than_chance() -> None:
    alarms, limit, hits = permuted_alarms(np.arange(40), relabellings=2000, alpha=0.01, seed=3)
    assert alarms <= limit
    assert hits == pytest.approx(1.0, abs=0.1)


def test_an_image_that_is_everybodys_neighbour_hits_once() -> None:
    _, _, hits = permuted_alarms(np.full(40, 7), relabellings=100, alpha=0.01, seed=3)
    assert hits == 1.0


def test_holm_steps_down_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_blocks_that_hold_nothing_cost_nothing() -> None:
    key = ("inversion.black_box", "original")
    assert over_blocks([{}, {key: 0.004}, {}])[key] == 0.004
    assert over_blocks([{("inversion.identity", "original"): 0.2}, {key: 0.004}])[key] == 0.008
