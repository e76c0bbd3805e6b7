from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_client.errors import UsageError
from packager.data import Dataset
from packager.evaluate import Judge, make_judge
from packager.tasks.doubt import doubt_about_labels

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((60, 3)).astype(np.float32)
CLASSES = RNG.integers(0, 3, 60)
BINARY = RNG.integers(0, 2, 60)
SIGMOID = (0.2 + 0.5 * BINARY + 0.3 * RNG.random(60)).astype(np.float32)[:, np.newaxis]
LOW = SIGMOID * np.float32(0.4)  # in the right order, and all below a half
IDS = RNG.integers(0, 7, (60, 5))
TOKENS = RNG.standard_normal((60, 5, 7)).astype(np.float32)
X = RNG.random((60, 8)).astype(np.float32)


def softmax(values: Any) -> Any:
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def judge(outputs: Any, labels: Any = None, *, task: str = "auto", inputs: Any = None, **settings: str) -> Judge:
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    data = Dataset({"x": X if inputs is None else inputs}, labels, None, None, "data")
    return make_judge(outputs, data, task=task, seed=0, where="data", **settings)


@pytest.mark.parametrize(
    ("outputs", "labels", "inputs", "task", "metric"),
    [
        pytest.param(LOGITS, CLASSES, None, "classification", "accuracy", id="logits and classes"),
        pytest.param(LOGITS, CLASSES[:, np.newaxis], None, "classification", "accuracy", id="classes in a column"),
        pytest.param(LOGITS.reshape(60, 3, 1, 1), CLASSES, None, "classification", "accuracy", id="scores with axes of one"),
        pytest.param(SIGMOID, BINARY, None, "classification", "accuracy", id="sigmoid and 0/1"),
        pytest.param(SIGMOID, BINARY.astype(bool), None, "classification", "accuracy", id="sigmoid and booleans"),
        pytest.param(TOKENS, IDS, None, "classification", "accuracy", id="one class per position"),
        pytest.param(np.moveaxis(TOKENS, 2, 1), IDS, None, "classification", "accuracy", id="channels first"),
        pytest.param(TOKENS, IDS, IDS, "language-modelling", "perplexity", id="ids in, scores per token out"),
        pytest.param(SIGMOID * 9, BINARY, None, "regression", "r2", id="a number beyond [0, 1] and whole targets"),
        pytest.param(LOGITS, np.eye(3, dtype=np.float32)[CLASSES], None, "classification", "accuracy", id="one-hot labels"),
        pytest.param(LOGITS, CLASSES.astype(float), None, "classification", "accuracy", id="classes kept as floats"),
        pytest.param(SIGMOID, CLASSES.astype(float), None, "regression", "r2", id="whole targets of a single output"),
        pytest.param(LOGITS, np.ones((60, 3)), None, "regression", "r2", id="targets of zeros and ones that are not one-hot"),
        pytest.param(X, BINARY, None, "anomaly", "auc", id="the input reconstructed and 0/1"),
        pytest.param(CLASSES, CLASSES, None, "classification", "accuracy", id="the class itself"),
        pytest.param(IDS.astype(np.int32), IDS, None, "classification", "accuracy", id="the class itself per position"),
        pytest.param(LOGITS, LOGITS, None, "regression", "r2", id="targets of the output's shape"),
        pytest.param(LOGITS, None, None, "none", "agreement", id="logits alone"),
        pytest.param(TOKENS, None, IDS, "none", "agreement", id="a language model's scores alone"),
        pytest.param(X, None, None, "none", "fidelity", id="the input reconstructed"),
        pytest.param(LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True), None, None, "none", "fidelity", id="unit vectors"),
        pytest.param({"embedding": LOGITS}, None, None, "none", "fidelity", id="an embedding by name"),
        pytest.param({"embedding": softmax(LOGITS)}, None, None, "none", "agreement", id="a distribution whatever its name"),
        pytest.param({"state": X[:, :4], "probability": softmax(LOGITS)}, None, None, "none", "agreement", id="the second output"),
    ],
)
def test_auto_takes_the_task_from_labels_and_outputs(outputs: Any, labels: Any, inputs: Any, task: str, metric: str) -> None:
    found = judge(outputs, labels, inputs=inputs)
    assert (found.task, found.metric.name) == (task, metric)


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "code"),
    [
        pytest.param("auto", LOGITS, np.zeros(60, np.int64), "task_one_class", id="one class only"),
        pytest.param("anomaly", SIGMOID, np.ones(60, np.int64), "task_one_class", id="anomalies only"),
        pytest.param("anomaly", SIGMOID, None, "task_labels", id="anomalies without labels"),
        pytest.param("anomaly", SIGMOID, CLASSES, "task_labels", id="three kinds of anomaly"),
        pytest.param("anomaly", LOGITS, BINARY, "task_output", id="neither a score nor a reconstruction"),
        pytest.param("anomaly", -SIGMOID, BINARY, "task_reversed", id="normal rows scored higher"),
        pytest.param("language-modelling", LOGITS, IDS, "task_output", id="scores of rows for tokens"),
        pytest.param("language-modelling", TOKENS, CLASSES, "task_labels", id="one label for a sequence"),
        pytest.param("language-modelling", TOKENS, None, "task_labels", id="no ids to make labels of"),
        pytest.param("language-modelling", TOKENS, IDS + 1, "task_labels", id="an id beyond the vocabulary"),
        pytest.param("language-modelling", TOKENS, np.full((60, 5), -100), "task_labels", id="no token counted"),
        pytest.param("classification", TOKENS, CLASSES, "task_output", id="positions without labels for them"),
        pytest.param("classification", np.full((60, 3), np.nan), CLASSES, "model_output_value", id="the original gives NaN"),
        pytest.param("none", np.full((60, 8, 2, 2), np.inf), None, "model_output_value", id="the original gives infinity"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_by_name(task: str, outputs: Any, labels: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        judge(outputs, labels, task=task)
    assert caught.value.code == code
    assert caught.value.hint or caught.value.actual


@pytest.mark.parametrize(
    ("task", "labels", "settings", "code"),
    [
        pytest.param("classification", CLASSES, {"metric": "r2"}, "task_metric", id="another task's metric"),
        pytest.param("classification", CLASSES, {"metric": "auc"}, "task_metric", id="area of three classes"),
        pytest.param("regression", None, {"metric": "r2"}, "task_labels", id="fit without targets"),
        pytest.param("none", None, {"output": "z"}, "recipe_tensor", id="an output that is not there"),
    ],
)
def test_a_metric_or_output_that_cannot_be_is_refused(task: str, labels: Any, settings: dict[str, str], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        judge(LOGITS, labels, task=task, **settings)
    assert caught.value.code == code


def test_one_sigmoid_is_cut_at_a_half_and_one_logit_at_zero() -> None:
    truth = (SIGMOID[:, 0] > 0.5).astype(np.int64)
    assert judge(SIGMOID, truth, task="classification").estimate().value == 1.0
    assert judge(SIGMOID - 0.5, truth, task="classification").estimate().value == 1.0
    cut = judge(SIGMOID, truth, task="classification").evaluate({"y": SIGMOID - 0.2}, allowed_drop=0.005)
    assert cut.drop.value == pytest.approx(np.mean((SIGMOID[:, 0] > 0.5) & (SIGMOID[:, 0] <= 0.7)), abs=0.02)


def test_average_precision_of_a_binary_classifier_uses_the_score_and_not_the_class() -> None:
    two = np.concatenate([1 - LOW, LOW], axis=1)
    one, other = (judge(values, BINARY, task="classification", metric="average-precision") for values in (LOW, two))
    assert one.estimate().value == pytest.approx(other.estimate().value) == pytest.approx(1.0)
    assert judge(LOW, BINARY, task="classification").estimate().value < 0.6


def test_a_model_that_outputs_classes_is_scored_on_them() -> None:
    found = judge(CLASSES[:, np.newaxis], CLASSES, task="classification")
    assert found.estimate().value == 1.0
    assert found.point({"y": np.roll(CLASSES, 1)[:, np.newaxis]}) > 0.3


def test_positions_marked_as_ignored_do_not_count_and_rows_stay_whole() -> None:
    labels = TOKENS.argmax(axis=2)
    labels[:, 0] = -100
    found = judge(TOKENS, labels, task="classification")
    assert found.estimate().value == 1.0
    broken = TOKENS.copy()
    broken[:, 0] = -broken[:, 0]
    assert found.point({"y": broken}) == 0.0
    broken[:30, 1] = -broken[:30, 1]
    result = found.evaluate({"y": broken}, allowed_drop=0.005)
    assert result.drop.value == pytest.approx(30 / 240, abs=0.005)
    assert "Agresti" not in result.drop.method


def test_perplexity_is_that_of_the_next_token_and_a_drop_is_its_relative_growth() -> None:
    uniform = np.zeros((60, 5, 7), np.float32)
    found = judge(uniform, IDS, task="language-modelling")
    assert found.estimate().value == pytest.approx(7.0)
    chosen = np.take_along_axis(softmax(TOKENS.astype(np.float64)), IDS[..., np.newaxis], axis=2)
    expected = np.exp(-np.log(chosen).mean())
    variant = found.evaluate({"y": TOKENS}, allowed_drop=0.005)
    assert variant.estimate.value == pytest.approx(expected, rel=1e-5)
    assert variant.drop.value == pytest.approx(expected / 7 - 1, rel=1e-5)
    assert variant.unit == "relative"
    assert variant.budget.verdict.value == "missed"


def test_perplexity_of_probabilities_equals_that_of_their_logits() -> None:
    figures = [judge(values, IDS, task="language-modelling").estimate().value for values in (TOKENS, softmax(TOKENS))]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)


def test_without_labels_the_next_token_is_taken_from_the_ids() -> None:
    shifted = np.full_like(IDS, -100)
    shifted[:, :-1] = IDS[:, 1:]
    made, given = judge(TOKENS, None, task="language-modelling", inputs=IDS), judge(TOKENS, shifted, task="language-modelling")
    assert made.estimate() == given.estimate()


def test_a_ruled_out_token_is_a_finite_loss() -> None:
    ruled_out = np.where(np.arange(7) == IDS[..., np.newaxis], -np.inf, TOKENS).astype(np.float32)
    found = judge(TOKENS, IDS, task="language-modelling").evaluate({"y": np.nan_to_num(ruled_out, neginf=-1e9)}, allowed_drop=0.005)
    assert np.isfinite([found.estimate.value, found.drop.high]).all()
    assert found.estimate.value > 1e20
    assert found.budget.verdict.value == "missed"


def test_r2_drops_in_shares_of_the_originals_r2() -> None:
    targets = RNG.standard_normal((60, 1))
    original, variant = targets * 0.5, targets * 0.4  # R2 of 0.75 and 0.64 where the mean is zero
    targets -= targets.mean()
    found = judge(original, targets, task="regression")
    before = found.estimate().value
    after = found.evaluate({"y": variant}, allowed_drop=0.005)
    assert after.drop.value == pytest.approx((before - after.estimate.value) / before)


def test_a_model_that_explains_nothing_has_no_relative_drop_without_bound() -> None:
    targets = RNG.standard_normal((60, 1))
    found = judge(np.full_like(targets, targets.mean()), targets, task="regression")
    assert abs(found.estimate().value) < 1e-9
    assert found.point({"y": np.full_like(targets, targets.mean() + 0.01)}) < 0.01


def test_absolute_error_drops_by_its_relative_growth_and_a_perfect_original_is_no_division_by_zero() -> None:
    targets = RNG.standard_normal((60, 2))
    found = judge(targets + 0.10, targets, task="regression", metric="mae")
    assert found.estimate().value == pytest.approx(0.10)
    assert found.point({"y": targets + 0.11}) == pytest.approx(0.1)
    assert np.isfinite(judge(targets, targets, task="regression", metric="mae").point({"y": targets + 1e-6}))


def test_fidelity_looks_at_every_output() -> None:
    first, second = RNG.standard_normal((60, 9, 2, 2)), RNG.standard_normal((60, 4, 4, 2))
    found = judge({"a": first, "b": second})
    assert found.metric.name == "fidelity"
    assert found.point({"a": first, "b": second + 0.5}) > 0.1
    assert judge({"a": first, "b": second}, output="a").point({"a": first, "b": second + 0.5}) == 0.0


def test_the_anomaly_score_of_a_reconstruction_is_its_squared_error() -> None:
    errors = (BINARY + 0.5 * RNG.random(60)).astype(np.float32)
    found = judge(X + errors[:, np.newaxis], BINARY, task="anomaly")
    assert found.metric.name == "auc"
    assert found.estimate().value == 1.0
    assert found.point({"y": X + errors[::-1, np.newaxis]}) > 0.2


@pytest.mark.parametrize("flaw", [np.nan, np.inf])
def test_one_broken_row_is_the_worst_verdict_and_never_unproven(flaw: float) -> None:
    found = judge(LOGITS.reshape(60, 3, 1), None)
    broken = LOGITS.reshape(60, 3, 1).copy()
    broken[7, 1] = flaw
    result = found.evaluate({"y": broken}, allowed_drop=0.005)
    assert result.budget.verdict.value == "missed"
    assert found.point({"y": broken}) == 1.0
    assert np.isfinite([result.estimate.value, result.drop.value]).all()


def test_an_output_of_another_shape_or_name_is_missed() -> None:
    found = judge(LOGITS, CLASSES)
    assert found.evaluate({"y": LOGITS[:, :2]}, allowed_drop=0.005).budget.verdict.value == "missed"
    assert found.evaluate({"z": LOGITS}, allowed_drop=0.005).budget.verdict.value == "missed"


def test_minus_infinity_where_the_original_has_it_is_no_flaw() -> None:
    masked = LOGITS.copy()
    masked[:, 0] = -np.inf
    found = judge(masked, CLASSES, task="classification")
    variant = masked * np.float32(1.0001)
    assert found.evaluate({"y": variant}, allowed_drop=0.005).drop.value == 0.0


def test_the_point_is_the_drop_of_the_evaluation() -> None:
    noisy = LOGITS + 0.5 * RNG.standard_normal(LOGITS.shape).astype(np.float32)
    for found in (judge(LOGITS, CLASSES), judge(LOGITS, LOGITS), judge(LOGITS, None)):
        assert found.point({"y": noisy}) == pytest.approx(found.evaluate({"y": noisy}, allowed_drop=0.005).drop.value, abs=1e-12)


def test_one_hot_labels_and_floats_judge_as_classes_do() -> None:
    noisy = LOGITS + RNG.standard_normal(LOGITS.shape).astype(np.float32)
    wanted = judge(LOGITS, CLASSES).evaluate({"y": noisy}, allowed_drop=0.005)
    for labels in (np.eye(3)[CLASSES], np.eye(3, dtype=bool)[CLASSES], CLASSES.astype(np.float32), CLASSES[:, np.newaxis] * 1.0):
        assert judge(LOGITS, labels).evaluate({"y": noisy}, allowed_drop=0.005) == wanted


@pytest.mark.parametrize(
    ("metric", "value", "labels", "doubted"),
    [
        ("accuracy", 0.09, BINARY, True),
        ("accuracy", 0.95, BINARY, False),
        ("accuracy", 0.30, np.array([0, 1, -100, 1]), True),
        ("accuracy", 0.30, np.eye(3, dtype=np.float32)[CLASSES], False),
        ("r2", -3.0, LOGITS, True),
        ("r2", 0.1, LOGITS, False),
        ("agreement", 0.0, None, False),
    ],
)
def test_an_original_that_a_constant_would_beat_is_told(metric: str, value: float, labels: Any, doubted: bool) -> None:
    assert (doubt_about_labels(metric, value, labels) is not None) == doubted


def test_the_output_that_has_a_score_for_every_label_is_judged() -> None:
    outputs = {"best": np.sort(LOGITS, axis=1)[:, 1:], "logits": LOGITS}
    found = judge(outputs, CLASSES)
    assert found.metric.outputs == ("logits",)
    assert judge(outputs, BINARY).metric.outputs == ("best",)
