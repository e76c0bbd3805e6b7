"""Images from outside under relabelled memberships: adjusted over all of them, deltas paired, controls no part of the family."""

from __future__ import annotations

import numpy as np
import pytest

from audits.family import Bench
from audits.inversion import Reconstruction
from audits.retrieval.relabelled import judge
from audits.retrieval.scene import Scene, make_scene


@pytest.fixture(scope="module")
def scene(leaky_bench: Bench) -> Scene:
    return make_scene(leaky_bench)


def noise(seed: int) -> Reconstruction:
    images = np.random.default_rng(seed).uniform(size=(1, 10, 64)).astype(np.float32)
    return Reconstruction("black_box", images, np.ones((1, 10)))


def copied(scene: Scene) -> Reconstruction:
    """One member of each class, as it is."""
    rows = [pool.members[0] for pool in scene.pools.classes]
    return Reconstruction("black_box", scene.data.x[rows][None], np.ones((1, 10)))


def test_a_copied_record_is_found_and_noise_is_not(scene: Scene) -> None:
    found = judge(
        {("black_box", "original"): noise(0), ("black_box", "small"): copied(scene)}, {}, scene, original="original"
    ).judged
    assert found["black_box", "small"].p_adjusted <= 0.01  # one image, ten classes: no less than 2^-10
    assert found["black_box", "original"].p_adjusted > 0.05


def test_every_further_model_costs_and_a_control_does_not(scene: Scene) -> None:
    alone = judge({("black_box", "original"): noise(1)}, {}, scene, original="original").judged
    beside = {("black_box", f"variant{seed}"): noise(seed) for seed in range(2, 7)}
    many = judge({("black_box", "original"): noise(1), **beside}, {}, scene, original="original").judged
    controlled = judge({("black_box", "original"): noise(1)}, beside, scene, original="original").judged
    key = ("black_box", "original")
    assert alone[key].p_adjusted == pytest.approx(alone[key].p_value)
    assert controlled[key].p_adjusted == pytest.approx(alone[key].p_adjusted)
    assert many[key].p_value == pytest.approx(alone[key].p_value)
    assert many[key].p_adjusted > 1.5 * alone[key].p_adjusted or many[key].p_adjusted > 0.9


def test_the_delta_of_the_same_images_is_nothing_at_all(scene: Scene) -> None:
    found = judge(
        {("black_box", "original"): copied(scene), ("black_box", "small"): copied(scene)}, {}, scene, original="original"
    ).judged
    assert found["black_box", "original"].delta is None
    assert found["black_box", "small"].delta == 0.0
    assert found["black_box", "small"].delta_interval == (0.0, 0.0)
    low, high = found["black_box", "small"].interval
    assert low < found["black_box", "small"].gap < high


def test_fresh_relabellings_raise_alarms_as_often_as_chance_says(scene: Scene) -> None:
    table = judge({("black_box", f"m{seed}"): noise(seed) for seed in range(4)}, {}, scene, original="m0")
    assert table.alarms <= table.alarm_limit
    assert table.alarm_limit < 20
