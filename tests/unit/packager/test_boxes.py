from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_client.errors import UsageError
from packager.data import Dataset
from packager.evaluate import Judge, make_judge

ROWS, ANCHORS = 40, 30


def scene(*, seed: int = 0) -> tuple[Any, Any]:
    """Probabilities of background and two classes, and corner boxes; every third row shows three objects."""
    rng = np.random.default_rng(seed)
    scores = np.tile(np.array([0.98, 0.01, 0.01]), (ROWS, ANCHORS, 1))
    scores[::3, :2] = [0.05, 0.9, 0.05]
    scores[::3, 2] = [0.05, 0.05, 0.9]
    corner = rng.random((ROWS, ANCHORS, 2))
    return scores.astype(np.float32), np.concatenate([corner, corner + 0.2 + rng.random((ROWS, ANCHORS, 2))], axis=2).astype(
        np.float32
    )


def judge(scores: Any, boxes: Any, *, task: str = "auto", metric: str = "auto") -> Judge:
    data = Dataset({"x": np.zeros((ROWS, 1), np.float32)}, None, None, None, "data")
    return make_judge({"scores": scores, "boxes": boxes}, data, task=task, seed=0, where="data", metric=metric)


def lost(found: Judge, scores: Any, boxes: Any) -> float:
    return found.point({"scores": scores, "boxes": boxes})


def test_a_detectors_outputs_are_recognised() -> None:
    found = judge(*scene())
    assert (found.task, found.metric.name, found.metric.unit.value) == ("detection", "detection-agreement", "points")


def test_a_missed_object_a_false_one_and_another_class_all_count() -> None:
    scores, boxes = scene()
    found, rows = judge(scores, boxes), len(scores[::3])
    missed = scores.copy()
    missed[0, 0] = [0.9, 0.05, 0.05]
    assert lost(found, missed, boxes) == pytest.approx(1 / 3 / ROWS)
    false = scores.copy()
    false[1, 5] = [0.1, 0.8, 0.1]
    assert lost(found, false, boxes) == pytest.approx(1 / ROWS)
    swapped = scores.copy()
    swapped[::3, 2] = [0.05, 0.9, 0.05]
    assert lost(found, swapped, boxes) == pytest.approx(rows / 3 / ROWS)


def test_a_score_that_slips_below_the_edge_of_finding_is_no_loss() -> None:
    scores, boxes = scene()
    scores[0, 0] = [0.45, 0.52, 0.03]
    found = judge(scores, boxes)
    slipped = scores.copy()
    slipped[0, 0] = [0.53, 0.44, 0.03]
    assert lost(found, slipped, boxes) == 0.0
    slipped[0, 0] = [0.63, 0.34, 0.03]
    assert lost(found, slipped, boxes) > 0.0


def test_boxes_count_only_where_something_is_found_and_by_their_overlap() -> None:
    scores, boxes = scene()
    moved = boxes.copy()
    moved[:, 3:] += 100.0
    assert lost(judge(scores, boxes), scores, moved) == 0.0
    moved = boxes + 0.1 * np.tile(boxes[..., 2:] - boxes[..., :2], 2)  # a tenth of both sides: overlap 0.81 / 1.19
    assert lost(judge(scores, boxes), scores, moved) == 0.0
    assert lost(judge(scores, boxes, metric="detection-agreement-90", task="detection"), scores, moved) == pytest.approx(14 / 40)


def test_centre_boxes_and_raw_offsets_are_told_apart() -> None:
    scores, boxes = scene()
    centre = np.concatenate([5 + boxes[..., :2], 0.2 + 0.1 * boxes[..., :2]], axis=2)
    moved = centre.copy()
    moved[0, 0, 0] += centre[0, 0, 2]  # by its own width: no overlap left
    assert lost(judge(scores, centre), scores, moved) == pytest.approx(1 / 3 / ROWS)
    offsets = np.random.default_rng(1).standard_normal(boxes.shape)
    moved = offsets.copy()
    moved[0, 0] *= 1.05
    assert lost(judge(scores, offsets), scores, moved) == 0.0
    moved[0, 0] *= 1.2
    assert lost(judge(scores, offsets), scores, moved) == pytest.approx(1 / 3 / ROWS)


def test_logits_are_read_as_probabilities() -> None:
    scores, boxes = scene()
    logits = np.log(scores)
    missed = logits.copy()
    missed[0, 0] = np.log([0.9, 0.05, 0.05])
    assert lost(judge(logits, boxes), missed, boxes) == pytest.approx(1 / 3 / ROWS)
    independent = np.full((ROWS, ANCHORS, 3), -4.0)
    independent[::3, 0, 1] = 3.0
    fewer = independent.copy()
    fewer[0, 0, 1] = -3.0
    assert lost(judge(independent, boxes), fewer, boxes) == pytest.approx(1 / ROWS)


def test_where_nothing_is_found_the_numbers_are_compared() -> None:
    _, boxes = scene()
    nothing = np.tile(np.array([0.98, 0.01, 0.01], np.float32), (ROWS, ANCHORS, 1))
    assert judge(nothing, boxes).metric.name == "fidelity"
    assert judge(nothing, boxes, task="detection").metric.name == "fidelity"
    with pytest.raises(UsageError) as caught:
        judge(nothing, boxes, task="detection", metric="detection-agreement")
    assert caught.value.code == "task_output"
