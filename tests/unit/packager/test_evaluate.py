from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.data import Dataset
from packager.evaluate import BATCH_ROWS, Judge, make_judge, run_rows

from .models import mlp, rows


def part_of(labels: Any, *, samples: int = 50, groups: Any = None) -> Dataset:
    return Dataset({"x": rows(samples)}, labels, groups, None, "data")


def judge(outputs: Any, labels: Any, *, task: str = "auto") -> Judge:
    return make_judge({"y": outputs}, part_of(labels, samples=len(outputs)), task=task, seed=0, where="data")


SCORES = np.eye(3)[np.arange(60) % 3]
LABELS = np.arange(60) % 3


@pytest.mark.parametrize(
    ("outputs", "labels", "task", "metric"),
    [
        pytest.param(SCORES, LABELS, "auto", "accuracy", id="class scores with labels"),
        pytest.param(SCORES, None, "auto", "agreement", id="class scores without labels"),
        pytest.param(SCORES, None, "regression", "fidelity", id="declared regression without targets"),
        pytest.param(SCORES, None, "classification", "agreement", id="declared classification without labels"),
        pytest.param(SCORES[:, :1], SCORES[:, 0], "auto", "r2", id="one value with targets"),
        pytest.param(SCORES.reshape(60, 3, 1), None, "auto", "fidelity", id="an image or a sequence"),
    ],
)
def test_the_metric_follows_from_task_and_data(outputs: Any, labels: Any, task: str, metric: str) -> None:
    assert judge(outputs, labels, task=task).metric.name == metric


@pytest.mark.parametrize(
    ("outputs", "labels", "task", "code"),
    [
        pytest.param(SCORES, LABELS + 1, "auto", "task_labels", id="a label beyond the classes"),
        pytest.param(SCORES, LABELS - 1, "auto", "task_labels", id="a negative label"),
        pytest.param(SCORES, LABELS + 0.5, "classification", "task_labels", id="labels that are not whole"),
        pytest.param(SCORES[:, :1], LABELS, "classification", "task_output", id="one score only"),
        pytest.param(SCORES, np.zeros((60, 5)), "regression", "task_labels", id="targets of another shape"),
    ],
)
def test_labels_that_do_not_fit_are_refused(outputs: Any, labels: Any, task: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        judge(outputs, labels, task=task)
    assert caught.value.code == code


def test_identical_outputs_have_no_drop_at_all() -> None:
    result = judge(SCORES, LABELS).evaluate({"y": SCORES.copy()}, allowed_drop=0.0)
    assert (result.drop.low, result.drop.high, result.budget.verdict.value) == (0.0, 0.0, "met")


def test_a_destroyed_variant_misses_the_budget() -> None:
    result = judge(SCORES, LABELS).evaluate({"y": np.roll(SCORES, 1, axis=1)}, allowed_drop=0.01)
    assert result.estimate.value == 0.0
    assert result.drop.value == 1.0
    assert result.budget.verdict.value == "missed"


def test_few_rows_cannot_prove_a_small_budget() -> None:
    almost = SCORES * 0.9
    result = judge(SCORES, LABELS).evaluate({"y": almost}, allowed_drop=0.001)
    assert result.drop.value == 0.0
    assert result.budget.verdict.value == "unproven"
    assert (result.budget.samples_needed or 0) > 60


def test_the_original_agrees_with_itself_by_definition() -> None:
    estimate = judge(SCORES, None).estimate()
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)
    assert "definition" in estimate.method


def test_fidelity_falls_with_the_error() -> None:
    values = np.random.default_rng(0).standard_normal((200, 4))
    found = [judge(values, None).evaluate({"y": values + noise}, allowed_drop=0.01).estimate.value for noise in (0.01, 0.1, 0.5)]
    assert found[0] > 0.999
    assert found == sorted(found, reverse=True)


def test_evaluation_is_the_same_on_every_run() -> None:
    noisy = SCORES + 0.6 * np.random.default_rng(0).random(SCORES.shape)
    one, other = (judge(SCORES, LABELS).evaluate({"y": noisy}, allowed_drop=0.01).to_json() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("batch", ["N", 1])
def test_all_rows_come_out_in_order_in_batches_or_one_by_one(batch: int | str) -> None:
    samples = BATCH_ROWS + 3
    data, steps = part_of(None, samples=samples), []
    found = run_rows(check_model(mlp(batch=batch)), data, advance=steps.append)["y"]
    assert found.shape == (samples, 3)
    assert sum(steps) == samples
    single = run_rows(check_model(mlp(batch=batch)), data.take(np.array([samples - 1])))["y"]
    assert np.allclose(found[-1:], single, atol=1e-6)
