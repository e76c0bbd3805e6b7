"""Swap-split: exact signs, halves without overlap, twins that leak and twins that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audits.family import Bench
from audits.retrieval.run import RetrievalRun
from audits.retrieval.scene import make_scene
from audits.retrieval.swap_split import Twins, attack_twins, compare, sign_flips, split_members, strongest_p_values
from audits.retrieval.twins import run_swap_split
from audits.targets import ORIGINAL
from device_client.errors import SealiftError
from tests.unit.audits import models
from tests.unit.audits.retrieval.conftest import VARIANT, settings


def test_halves_are_equal_disjoint_and_members_only(leaky_bench: Bench) -> None:
    halves = split_members(make_scene(leaky_bench))
    members = {row.tobytes() for row in leaky_bench.data.x[leaky_bench.data.member]}
    first, second = ({row.tobytes() for row in side.x} for side in (halves.first, halves.second))
    assert not first & second
    assert first | second <= members
    assert list(np.bincount(halves.first.y)) == list(np.bincount(halves.second.y)) == [3] * 10
    again = split_members(make_scene(leaky_bench))
    np.testing.assert_array_equal(again.first.x, halves.first.x)


def test_few_classes_try_every_pattern_of_signs_and_many_draw_them() -> None:
    every = sign_flips(6, flips=10, seed=0)
    assert every.shape == (64, 6)
    assert len({tuple(row) for row in every}) == 64
    assert (every[0] == 1).all()
    drawn = sign_flips(40, flips=500, seed=0)
    assert drawn.shape == (501, 40)
    assert (drawn[0] == 1).all()
    assert abs(drawn[1:].mean()) < 0.05


def test_p_values_of_gaps_without_a_sign_are_uniform() -> None:
    rng = np.random.default_rng(1)
    signs = sign_flips(10, flips=0, seed=0)
    found = [strongest_p_values(rng.normal(size=(3, 10)), signs)[0] for _ in range(300)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_a_gap_in_every_class_reaches_the_smallest_p_value_whatever_else_is_tried() -> None:
    gaps = np.concatenate([np.full((1, 10), 0.2), np.random.default_rng(0).normal(size=(5, 10))])
    assert strongest_p_values(gaps, sign_flips(10, flips=0, seed=0))[0] == 1 / 1024
    assert strongest_p_values(np.zeros((2, 10)), sign_flips(10, flips=0, seed=0))[0] == 1.0


def test_overfit_twins_show_their_own_half_and_int8_changes_little(leaky_run: RetrievalRun) -> None:
    for name in (ORIGINAL, VARIANT):
        finding = next(item for item in leaky_run.result.findings[name] if item.test == "inversion.swap_split")
        assert finding.not_run is None
        assert finding.p_adjusted <= 0.01
        assert finding.estimate is not None
        assert finding.estimate > 0.05
        assert finding.interval is not None
        assert finding.interval[0] > 0.02
    detail = leaky_run.result.detail[VARIANT]["swap_split"]
    low, high = detail["delta_interval"]
    assert low <= detail["delta"] <= high
    assert abs(detail["delta"]) < 0.02
    assert len(detail["by_class"]) == 10
    assert leaky_run.result.detail[ORIGINAL]["swap_split"]["delta"] is None


def test_twins_with_swapped_halves_show_the_opposite(leaky_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(leaky_bench)
    halves = split_members(scene)
    assert leaky_bench.trainer is not None
    made = [models.checked(leaky_bench.trainer.train(side.x, side.y, seed=0)) for side in (halves.first, halves.second)]
    right = attack_twins((made[0], made[1]), scene, settings())
    wrong = attack_twins((made[1], made[0]), scene, settings())
    plain = compare({ORIGINAL: right}, halves.pools, scene, original=ORIGINAL, tolerated=0.0)[ORIGINAL]
    swapped = compare({ORIGINAL: wrong}, halves.pools, scene, original=ORIGINAL, tolerated=0.0)[ORIGINAL]
    assert swapped.gap == pytest.approx(-plain.gap, abs=1e-9)
    assert swapped.p_value > 0.1
    assert plain.p_value <= 0.01
    # a tolerated mean gap leaves the nearest record to judge, and nothing where that shows nothing either
    monkeypatch.setattr(Twins, "nearest_gaps", lambda *_: np.zeros((1, 10)))
    tolerant = compare({ORIGINAL: right}, halves.pools, scene, original=ORIGINAL, tolerated=1.0)[ORIGINAL]
    assert tolerant.p_value == 1.0


def test_without_a_trainer_it_does_not_run_and_says_why(leaky_bench: Bench) -> None:
    bench = replace(leaky_bench, trainer=None)
    found = run_swap_split(bench, make_scene(bench), settings(), blocks=1)
    assert found.not_run == dict.fromkeys((ORIGINAL, VARIANT), "no training entry point was given")
    assert not found.gaps
    assert not found.controls


def test_without_a_recipe_only_the_original_is_compared(leaky_bench: Bench) -> None:
    bench = replace(leaky_bench, compressor=None)
    found = run_swap_split(bench, make_scene(bench), settings(), blocks=1)
    assert list(found.gaps) == [ORIGINAL]
    assert "no recipe" in found.not_run[VARIANT]


def test_a_trainer_that_fails_is_no_pass(leaky_bench: Bench) -> None:
    class Broken:
        def train(self, *_: object, **__: object) -> bytes:
            raise SealiftError("the entry point failed", code="compressor_failed")

    bench = replace(leaky_bench, trainer=Broken())
    found = run_swap_split(bench, make_scene(bench), settings(), blocks=1)
    assert set(found.not_run) == {ORIGINAL, VARIANT}
    assert "the entry point failed" in found.not_run[ORIGINAL]


def test_too_few_classes_for_alpha_do_not_run(leaky_bench: Bench) -> None:
    found = run_swap_split(leaky_bench, replace(make_scene(leaky_bench), classes=5), settings(), blocks=1)
    assert "5 classes are too few" in found.not_run[ORIGINAL]
