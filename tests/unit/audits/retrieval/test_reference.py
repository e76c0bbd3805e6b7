"""ART beside: the same MIFace, what its defaults skip, and a border that repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from audits.blackbox.oracle import Oracle
from audits.data import Floats
from audits.family import Bench
from audits.inversion import InputRange, ascend_probability
from audits.reference.boundary import boundary_distances
from audits.reference.miface import miface_reference, skipped_by_default
from audits.retrieval.cross_check import cross_check
from audits.retrieval.scene import make_scene
from audits.whitebox import WhiteBox
from tests.unit.audits import models

UNIT = InputRange(0.0, 1.0, "contract")


def test_art_on_the_shipped_bytes_makes_our_images(leaky_bench: Bench, start: Floats) -> None:
    starts = np.repeat(start[None], 10, axis=0)
    for subject in leaky_bench.subjects:
        with WhiteBox(subject.model) as box:
            theirs = miface_reference(box, starts, bounds=UNIT, steps=15, rate=0.5)
            ours = ascend_probability(
                lambda x, box=box: functional.softmax(box.logits(x), dim=1),  # type: ignore[misc]
                torch.from_numpy(starts),
                torch.arange(10),
                steps=15,
                rate=0.5,
                bounds=UNIT,
            ).numpy()
        assert np.abs(ours - theirs).max() <= 1e-4
        assert np.abs(ours - starts).max() > 0.05


def test_arts_defaults_leave_classes_that_start_below_one_percent_after_one_step() -> None:
    """ART 1.20.1: the test for going on is ``cost <= threshold``, so a class at less than 1 % counts as finished."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = (2.0 * rng.normal(size=(16, 20))).astype(np.float32)
    model = models.build(
        [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("Softmax", ["s"], ["p"], axis=1)],
        [numpy_helper.from_array(weights, "w")],
        inputs=("x", [None, 16]),
        outputs=("p", [None, 20]),
    )
    starts = np.full((20, 16), 0.5, dtype=np.float32)
    with WhiteBox(models.checked(model)) as box:
        low = np.flatnonzero(box.probabilities(starts)[0] < 0.009)
        skipped = skipped_by_default(box, starts, bounds=UNIT, steps=30, rate=1.0)
    assert len(skipped) >= 3
    assert set(skipped) <= set(low)


def test_the_distance_to_the_border_repeats_and_leaves_numpys_generator_alone(leaky_bench: Bench, start: Floats) -> None:
    rows = leaky_bench.data.x[:3]
    made = []
    with Oracle(leaky_bench.variants[0].model, probe=start) as oracle:
        for state in (5, 6):  # whatever state the caller is in
            np.random.seed(state)
            before = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
            made.append(boundary_distances(oracle, rows, bounds=UNIT, iterations=2, evaluations=60, seed=4))
            np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
        assert oracle.asked > 100
    one, two = made
    np.testing.assert_array_equal(one, two)
    assert (one > 0).all()
    assert (one < np.sqrt(64)).all()


def test_the_cross_check_says_what_art_says(leaky_bench: Bench) -> None:
    found = cross_check(leaky_bench.variants[0].model, make_scene(leaky_bench), records=2)
    assert found["miface_difference"] <= 1e-4
    assert found["boundary_records"] == 4
    assert found["boundary_queries"] > 4
    assert found["boundary_auc"] == pytest.approx(0.5, abs=0.5)
