"""Attribute inference: a memorised column is found, an honest model and every null control stay quiet, bad input is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audits.attribute.columns import Column, discretise, find_columns
from audits.attribute.judge import advantage, compare_sides, mcnemar, tango
from audits.attribute.planted import planted_twin
from audits.attribute.queries import label_likelihoods, probabilities
from audits.attribute.run import TEST, run_attribute
from audits.attribute.settings import AttributeSettings, read_settings
from audits.data import AuditData
from audits.family import Bench
from audits.finding import FamilyResult
from audits.policy import load_policy
from audits.statistics import holm
from audits.targets import ORIGINAL, Subject
from device_client.errors import UsageError
from tests.unit.audits import models
from tests.unit.audits.attribute import tables
from tests.unit.audits.mitigate import trainers

SETTINGS = AttributeSettings(
    sensitive=("smoker",), columns=tables.NAMES, folds=2, planted_shares=(0.05, 0.5, 1.0), shuffles=1, min_records=20
)


def bench(data: AuditData, **subjects: bytes) -> Bench:
    first, *rest = [Subject(name, models.checked(model), None) for name, model in subjects.items()]
    default = load_policy()
    policy = replace(default, decision=replace(default.decision, bootstraps=300))
    return Bench(first, tuple(rest), data, policy, None, None, lambda _: None)


@pytest.fixture(scope="module")
def data() -> AuditData:
    return tables.table(records=400)


@pytest.fixture(scope="module")
def both(data: AuditData) -> FamilyResult:
    """An original that has memorised, and a variant that is an honest small network."""
    memorised = tables.network(data, epochs=250, width=128)
    honest = tables.network(data, epochs=8, width=8)
    return run_attribute(bench(data, original=memorised, honest=honest), SETTINGS)


def test_a_model_that_memorised_gives_the_column_away_and_an_honest_one_does_not(both: FamilyResult) -> None:
    (leaky,), (honest,) = both.findings[ORIGINAL], both.findings["honest"]
    assert (leaky.test, honest.test) == (TEST, TEST)
    assert leaky.p_adjusted <= 0.01 < honest.p_adjusted
    assert leaky.interval is not None
    assert leaky.interval[0] > 0.0
    assert leaky.p_value <= leaky.p_adjusted


def test_an_advantage_by_memory_is_larger_on_members_than_on_heldouts(both: FamilyResult) -> None:
    (column,) = both.detail[ORIGINAL]["columns"]
    strongest = min(column["attacks"], key=lambda entry: entry["p_value"])
    assert strongest["difference"] > 0.05
    assert strongest["difference_p_value"] <= 0.01


def test_planted_tables_are_caught_and_null_controls_are_quiet(both: FamilyResult) -> None:
    by_name = {control.name: control for control in both.controls}
    assert {"planted:0.05", "planted:0.5", "planted:1", "null:empty table"} <= set(by_name)
    assert all(control.held for control in both.controls if control.required)
    assert by_name["planted:0.05"].held is False  # ten records of 200 are too few to see
    assert both.power == 0.5
    assert sum(not control.planted for control in both.controls) == 3


def test_the_result_holds_no_value_of_a_record(both: FamilyResult, data: AuditData) -> None:
    text = repr((both.detail, both.shared))
    assert not any(repr(float(value)) in text for value in data.x[:50, 0])
    assert both.shared["columns"] == [{"name": "smoker", "index": 5, "values": 2, "binned": False, "baseline": "logistic"}]


def test_arts_attack_is_shown_and_changes_nothing(data: AuditData) -> None:
    model = tables.network(data, epochs=3, width=4)
    few = replace(SETTINGS, planted_shares=(1.0,))
    before = np.random.get_state()[1].copy()
    plain, beside = (run_attribute(bench(data, original=model), replace(few, reference=on)) for on in (False, True))
    reference = beside.detail[ORIGINAL]["columns"][0]["reference"]
    assert 0.0 < reference["accuracy_members"] <= 1.0
    assert (plain.findings, plain.controls, plain.shared) == (beside.findings, beside.controls, beside.shared)  # also: repeatable
    assert (np.random.get_state()[1] == before).all()  # ART draws from numpy's own generator


def images(data: AuditData) -> AuditData:
    return replace(data, x=data.x[:, :, None])


def constant(data: AuditData) -> AuditData:
    x = data.x.copy()
    x[:, tables.SMOKER] = 1.0
    return replace(data, x=x)


NOT_RUN: dict[str, tuple[Any, Mapping[str, Any], str]] = {
    "records that are no table": (images, {}, "not a table"),
    "a column of one value": (constant, {}, "one value only"),
    "no sensitive column": (lambda data: data, {"sensitive": ()}, "names no sensitive column"),
    "too few records": (lambda data: data, {"min_records": 1000, "max_records": 1000}, "fewer than 1000"),
    "no held-out": (lambda data: replace(data, member=np.ones_like(data.member)), {}, "no held-outs"),
}


@pytest.mark.parametrize(("change", "options", "reason"), NOT_RUN.values(), ids=NOT_RUN.keys())
def test_what_cannot_be_attacked_is_not_run_with_the_reason(
    data: AuditData, change: Any, options: Mapping[str, Any], reason: str
) -> None:
    result = run_attribute(bench(change(data), original=tables.network(data, epochs=1, width=4)), replace(SETTINGS, **options))
    (finding,) = result.findings[ORIGINAL]
    assert finding.not_run is not None
    assert reason in finding.not_run
    assert finding.p_adjusted == 1.0
    assert result.controls == ()


def test_a_model_without_class_scores_is_blind_and_does_not_hide_the_others(data: AuditData) -> None:
    odd = models.build(
        [models.helper.make_node("ReduceMean", ["x"], ["p"], axes=[1], keepdims=1)],
        [],
        inputs=("x", [None, 6]),
        outputs=("p", [None, 1]),
    )
    good = tables.network(data, epochs=1, width=4)
    result = run_attribute(bench(data, original=good, odd=odd), replace(SETTINGS, planted_shares=(1.0,)))
    assert result.findings["odd"][0].blind
    assert not result.findings[ORIGINAL][0].blind


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "an index out of range": ({"sensitive": [6]}, 6, "out of range"),
    "a name that is not there": ({"sensitive": ["shoe"], "columns": list(tables.NAMES)}, 6, "no such column"),
    "a name without names": ({"sensitive": ["age"]}, 6, "no such column"),
    "too few names": ({"sensitive": [0], "columns": ["age"]}, 6, "another number"),
    "a column by index and by name": ({"sensitive": [0, "age"], "columns": list(tables.NAMES)}, 6, "named twice"),
}


@pytest.mark.parametrize(("section", "width", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_column_that_is_not_there_is_named(section: dict[str, Any], width: int, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_columns(read_settings(section, where="policy"), width=width)
    assert refused.value.code == "attribute_column"
    assert told in refused.value.what


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ({"unknown": 1}, "policy_unknown_key"),
        ({"sensitive": [-1]}, "policy_value"),
        ({"sensitive": [True]}, "policy_value"),
        ({"sensitive": "smoker"}, "policy_value"),
        ({"sensitive": list(range(17))}, "policy_value"),
        ({"sensitive": [1, 1]}, "policy_value"),
        ({"columns": ["a", "a"]}, "policy_value"),
        ({"bins": 1}, "policy_value"),
        ({"folds": 2.0}, "policy_value"),
        ({"tolerated": -0.1}, "policy_value"),
        ({"planted_shares": [0.5, 0.1]}, "policy_value"),
        ({"planted_shares": [0.1]}, "policy_value"),  # below what is required
        ({"min_records": 2000}, "policy_value"),
        ({"reference": 1}, "policy_value"),
    ],
)
def test_a_wrong_value_in_the_policy_is_refused(section: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_settings(section, where="policy")
    assert refused.value.code == code


def test_many_values_become_bins_of_like_size_and_few_stay_as_they_are(data: AuditData) -> None:
    binned = discretise(data.x, 0, "age", settings=SETTINGS)
    assert isinstance(binned, Column)
    assert binned.binned
    assert np.bincount(binned.codes).tolist() == [100, 100, 100, 100]
    plain = discretise(data.x, tables.SMOKER, "smoker", settings=SETTINGS)
    assert isinstance(plain, Column)
    assert plain.values.tolist() == [0.0, 1.0]
    assert (plain.values[plain.codes] == data.x[:, tables.SMOKER]).all()


def test_the_records_own_value_never_reaches_the_attacker(data: AuditData) -> None:
    model = models.checked(tables.network(data, epochs=3, width=8))
    column = discretise(data.x, tables.SMOKER, "smoker", settings=SETTINGS)
    assert isinstance(column, Column)
    hidden = data.x.copy()
    hidden[:, tables.SMOKER] = 7.0
    told = [label_likelihoods(model, x, data.y, column) for x in (data.x, hidden)]
    assert (told[0] == told[1]).all()


def test_logits_and_probabilities_give_the_same_answers(data: AuditData) -> None:
    net = trainers.network(data.x.shape[1], 3, hidden=8, seed=0)
    kinds = [trainers.to_onnx(net, features=6, classes=3, softmax=on) for on in (True, False)]
    first, second = (probabilities(models.checked(model), data.x[:20]) for model in kinds)
    assert np.allclose(first, second, atol=1e-6)


def test_a_planted_table_is_surest_under_the_true_value_of_its_members(data: AuditData) -> None:
    column = discretise(data.x, tables.SMOKER, "smoker", settings=SETTINGS)
    assert isinstance(column, Column)
    twin = planted_twin(data.x, data.y, data.member, column, share=1.0, classes=3, seed=0, names=("x", "p"))
    answers = label_likelihoods(models.checked(twin), data.x, data.y, column)
    right = answers.argmax(axis=1) == column.codes
    assert right[data.member].all()
    assert (np.ptp(answers[~data.member], axis=1) < 1e-3).mean() > 0.9  # it knows nothing of the others


@pytest.mark.parametrize("names", [("x", "logits"), ("z", "centred"), ("table", "scale")])
def test_a_planted_table_takes_any_names_of_input_and_output(names: tuple[str, str], data: AuditData) -> None:
    column = discretise(data.x, tables.SMOKER, "smoker", settings=SETTINGS)
    assert isinstance(column, Column)
    twin = planted_twin(data.x, data.y, data.member, column, share=0.5, classes=3, seed=0, names=names)
    model = models.checked(twin)
    assert (model.inputs[0].name, model.outputs[0].name) == names


def test_exact_p_values_of_paired_guesses() -> None:
    assert mcnemar(0, 5) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2.0**-5)
    assert mcnemar(3, 1) == pytest.approx(5 / 16)
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_the_score_test_holds_its_level_and_agrees_with_the_exact_one() -> None:
    assert tango(60, 40, 500, tolerated=1e-9) == pytest.approx(mcnemar(60, 40), abs=0.015)  # continuity
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(400, [0.15, 0.05, 0.8], size=2000)  # an advantage of exactly what is tolerated
    rejected = np.mean([tango(int(gained), int(lost), 400, tolerated=0.1) <= 0.05 for gained, lost, _ in drawn])
    assert 0.03 <= rejected <= 0.07  # 2000 draws: three standard errors are 0.015
    assert tango(100, 0, 400, tolerated=0.1) < 1e-6


def test_an_interval_and_a_p_value_point_the_same_way() -> None:
    attack, baseline = np.arange(200) < 150, np.arange(200) < 110
    found = advantage(attack, baseline, tolerated=0.0, confidence=0.95, bootstraps=500, seed=0)
    assert (found.estimate, found.gained, found.lost) == (0.2, 40, 0)
    assert 0.14 < found.interval[0] < 0.2 < found.interval[1] < 0.26
    same = advantage(attack, attack, tolerated=0.0, confidence=0.95, bootstraps=500, seed=0)
    assert same.p_value == 1.0
    apart = compare_sides(found, same, sizes=(200, 200), resamples=500, confidence=0.95, seed=0)
    assert apart.estimate == 0.2
    assert apart.p_value == pytest.approx(1 / 501)
    assert compare_sides(same, same, sizes=(200, 200), resamples=500, confidence=0.95, seed=0).p_value == 1.0
