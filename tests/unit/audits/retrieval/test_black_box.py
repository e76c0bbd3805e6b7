"""Attacks from outside: within their budget and range, reproducible, and strong enough to be worth their name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audits.blackbox.basis import low_frequencies
from audits.blackbox.label_only import LabelOnlySettings, invert_by_labels
from audits.blackbox.nes import NesSettings, invert_by_scores
from audits.blackbox.oracle import Oracle
from audits.data import Floats
from audits.family import Bench
from audits.inversion import InputRange
from audits.retrieval.identity import make_gallery, retrieve
from tests.unit.audits import models

UNIT = InputRange(0.0, 1.0, "contract")
NES = NesSettings(queries=600, restarts=1, pairs=24, spread=0.12, step=0.02, decay=0.02, stop=0.95)
LABELS = LabelOnlySettings(queries=600, search=60, points=60, radius=0.05)


@pytest.mark.parametrize("shape", [(64,), (1, 28, 28), (3, 10, 14), (140,), (2, 50), (5,), (1, 1, 30), (6, 1, 4)])
def test_a_basis_is_orthonormal_and_no_larger_than_a_record(shape: tuple[int, ...]) -> None:
    basis = low_frequencies(shape)
    size = int(np.prod(shape))
    assert 1 <= basis.size <= size
    np.testing.assert_allclose(basis.functions @ basis.functions.T, np.eye(basis.size), atol=1e-5)
    assert basis.compose(np.zeros((2, basis.size), dtype=np.float32)).shape == (2, *shape)
    if size <= 64:
        assert basis.size == size


def test_a_colour_plane_can_be_drawn_in_each_channel_alone() -> None:
    basis = low_frequencies((3, 10, 14))
    coefficients = np.zeros((1, basis.size), dtype=np.float32)
    coefficients[0, basis.size // 3] = 1.0  # the constant of the second channel
    image = basis.compose(coefficients)[0]
    assert np.ptp(image[1]) < 1e-6
    assert image[1].mean() > 0.01
    assert np.abs(image[[0, 2]]).max() < 1e-6


def test_scores_alone_retrieve_every_class_within_the_budget(leaky_bench: Bench, start: Floats) -> None:
    gallery = make_gallery(leaky_bench.data, classes=10)
    assert gallery is not None
    for subject in leaky_bench.subjects:
        with Oracle(subject.model, probe=start) as oracle:
            found = invert_by_scores(oracle, start=start, bounds=UNIT, settings=NES, seed=1)
            assert found.queries.max() <= NES.queries
            assert oracle.asked == found.queries.sum()
        assert found.confidence.min() > 0.5
        assert retrieve(found.images[0], gallery).retrieved >= 9


def test_a_climb_repeats_and_depends_on_its_seed(leaky_bench: Bench, start: Floats) -> None:
    made = []
    for seed in (1, 1, 2):
        with Oracle(leaky_bench.original.model, probe=start) as oracle:
            made.append(invert_by_scores(oracle, start=start, bounds=UNIT, settings=NES, seed=seed))
    np.testing.assert_array_equal(made[0].images, made[1].images)
    assert np.abs(made[0].images - made[2].images).max() > 0.01


def test_images_and_questions_stay_inside_the_range(leaky_bench: Bench, start: Floats) -> None:
    bounds = InputRange(0.2, 0.7, "contract")
    centre = np.clip(start, 0.2, 0.7)
    seen: list[Floats] = []

    class Watched(Oracle):
        def _run(self, x: Floats) -> Floats:
            seen.append(x)
            return super()._run(x)

    with Watched(leaky_bench.original.model, probe=centre) as oracle:
        seen.clear()
        scores = invert_by_scores(oracle, start=centre, bounds=bounds, settings=NES, seed=1)
        labels = invert_by_labels(oracle, start=centre, bounds=bounds, settings=LABELS, seed=1)
    for values in (*seen, scores.images, labels.images):
        assert values.min() >= np.float32(0.2)
        assert values.max() <= np.float32(0.7)


def test_later_restarts_start_elsewhere_and_share_the_budget(leaky_bench: Bench, start: Floats) -> None:
    settings = replace(NES, restarts=4, queries=900)
    with Oracle(leaky_bench.original.model, probe=start) as oracle:
        found = invert_by_scores(oracle, start=start, bounds=UNIT, settings=settings, seed=1)
        assert oracle.asked == found.queries.sum()
    assert 2 <= len(found.images) <= 4
    assert found.queries.max() <= 900
    assert (found.confidence >= 0).all()
    assert np.abs(found.images[0] - found.images[1]).max() > 0.05


def test_a_class_that_is_late_goes_on_from_another_models_image(leaky_bench: Bench, start: Floats) -> None:
    """The target gives a constant answer around the start and knows its classes elsewhere only."""
    x, y = models.digits()
    given = np.stack([x[y == label][:20].mean(axis=0) for label in range(10)])
    hopeless = replace(NES, queries=300, step=1e-5)
    with Oracle(leaky_bench.original.model, probe=start) as oracle:
        alone = invert_by_scores(oracle, start=start, bounds=UNIT, settings=hopeless, seed=1)
        helped = invert_by_scores(oracle, start=start, bounds=UNIT, settings=hopeless, seed=1, given=given)
    assert helped.confidence.mean() > alone.confidence.mean() + 0.3
    assert helped.queries.max() <= 300


def test_labels_alone_retrieve_most_classes_within_the_budget(leaky_bench: Bench, start: Floats) -> None:
    gallery = make_gallery(leaky_bench.data, classes=10)
    assert gallery is not None
    with Oracle(leaky_bench.original.model, probe=start) as oracle:
        found = invert_by_labels(oracle, start=start, bounds=UNIT, settings=LABELS, seed=1)
        assert found.queries.max() <= LABELS.queries
        assert oracle.asked <= found.queries.sum()
    assert found.confidence.mean() >= 0.9
    assert retrieve(found.images[0], gallery).retrieved >= 7


def test_the_walk_sees_labels_only(leaky_bench: Bench, start: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a label-only attack asked for scores")

    with Oracle(leaky_bench.original.model, probe=start) as oracle:
        monkeypatch.setattr(oracle, "probabilities", refuse)
        found = invert_by_labels(oracle, start=start, bounds=UNIT, settings=LABELS, seed=1)
    assert found.confidence.max() == 1.0


def test_a_class_that_is_never_hit_gets_the_start_and_no_confidence(start: Floats) -> None:
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    bias = np.array([0.0, 0.0, -1e4], dtype=np.float32)  # class 2 cannot win
    model = models.build(
        [helper.make_node("Gemm", ["x", "w", "b"], ["p"])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
        inputs=("x", [None, 64]),
        outputs=("p", [None, 3]),
    )
    with Oracle(models.checked(model), probe=start) as oracle:
        found = invert_by_labels(oracle, start=start, bounds=UNIT, settings=LABELS, seed=1)
    assert list(found.confidence[0]) == [1.0, 1.0, 0.0]
    np.testing.assert_allclose(found.images[0, 2], start, atol=1e-6)
    assert found.queries[2] <= LABELS.search + 8
