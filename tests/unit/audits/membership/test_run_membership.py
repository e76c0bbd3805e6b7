"""From models and records to findings: what leaks is found, what does not is left alone, and what cannot be told is said."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from audits.data import Floats, Integers, check_data
from audits.finding import FamilyResult, control_problems
from audits.membership.run import run_membership
from audits.membership.shadows import training_share
from audits.targets import Subject
from device_client.errors import UsageError
from device_client.inference.walker import check_model
from tests.unit.audits.membership.small import RANGE, SETTINGS, RidgeTrainer, RoundingCompressor, bench, classifier, data, finding

LEAKY = RidgeTrainer()
TIGHT = RidgeTrainer(hidden=40, ridge=1.0)
TESTS = ("threshold", "rmia", "lira", "joint")


@pytest.fixture(scope="module")
def leaky() -> FamilyResult:
    return run_membership(bench(data(), LEAKY, compressor=RoundingCompressor()), replace(SETTINGS, repeats=2, shadows=4))


@pytest.fixture(scope="module")
def tight() -> FamilyResult:
    return run_membership(bench(data(), TIGHT), SETTINGS)


def test_a_model_that_knows_its_records_by_heart_fails_and_so_does_its_compressed_version(leaky: FamilyResult) -> None:
    for subject in ("original", "rounded"):
        for test in ("lira", "rmia", "joint"):
            found = finding(leaky, subject, test)
            assert found.p_adjusted <= 0.01
            assert found.interval is not None
            assert found.interval[0] > 0.05
            assert not found.blind + found.undone
            assert found.not_run is None
    assert not control_problems(leaky.controls)


def test_a_model_that_knows_the_classes_only_does_not_fail_and_its_controls_hold(tight: FamilyResult) -> None:
    for found in (item for items in tight.findings.values() for item in items):
        assert found.p_adjusted == 1.0
        assert found.estimate is not None
        assert found.estimate < 0.03
        assert not found.blind + found.undone + found.doubts
    assert not control_problems(tight.controls)
    assert tight.power is not None
    assert tight.power <= SETTINGS.planted_required


def test_every_subject_has_every_test_and_what_decides_is_plain(leaky: FamilyResult, tight: FamilyResult) -> None:
    for result in (leaky, tight):
        assert {subject: tuple(item.test for item in items) for subject, items in result.findings.items()} == {
            subject: tuple(f"membership.{test}" for test in TESTS) for subject in ("original", "rounded")
        }
        json.dumps([asdict(item) for items in result.findings.values() for item in items], allow_nan=False)
        json.dumps([result.detail, result.shared, [asdict(item) for item in result.controls]], allow_nan=False)


def test_the_worst_records_go_along_under_the_names_that_the_page_shows(leaky: FamilyResult) -> None:
    named = {record["id"] for detail in leaky.detail.values() for attack in detail["attacks"] for record in attack["worst"]}
    assert set(leaky.records) == named
    members = {row.tobytes() for row in data().x[data().member]}
    assert all(record.tobytes() in members for record in leaky.records.values())


def test_shadows_see_as_many_records_as_the_audited_model_where_there_are_enough_of_them(leaky: FamilyResult) -> None:
    member = np.arange(100) < 20
    assert training_share(member, count=16) == 0.2
    assert training_share(member, count=64) == 0.2
    assert training_share(member, count=6) == 0.5, "a record is in three shadows on average"
    assert training_share(~member, count=8) == 0.625
    assert leaky.shared["shadows"]["share"] == leaky.shared["shadows"]["wanted_share"] == 0.5


def test_shadows_of_another_size_leave_their_tests_undone_and_a_leak_that_they_find_counts() -> None:
    few = data()
    rng = np.random.default_rng(5)
    kept = ~few.member | (rng.random(len(few.y)) < 0.35)
    thinner = check_data({"x": few.x[kept], "y": few.y[kept], "member": few.member[kept]}, where="test")
    result = run_membership(bench(thinner, LEAKY), SETTINGS)
    for test in ("lira", "rmia"):
        found = finding(result, "original", test)
        assert any("shadows cannot follow" in reason for reason in found.undone)
    assert not finding(result, "original", "threshold").undone


def test_canaries_are_caught_where_they_were_learnt_and_ask_nothing_where_not(leaky: FamilyResult, tight: FamilyResult) -> None:
    learnt = next(item for item in leaky.controls if item.name == "canary:4")
    assert learnt.required
    assert learnt.held
    not_learnt = next(item for item in tight.controls if item.name == "canary:4")
    assert not not_learnt.required
    assert "not caught" in not_learnt.told


def test_shadows_are_compressed_like_the_variant_where_a_recipe_is_given(leaky: FamilyResult, tight: FamilyResult) -> None:
    assert leaky.shared["shadows"]["compressed_like"] == ["rounded"]
    assert leaky.detail["rounded"]["shadows"] == "rounded"
    assert tight.detail["rounded"]["shadows"] == "float"


def test_the_page_gets_curves_worst_members_and_the_spread_between_seeds(leaky: FamilyResult) -> None:
    for entry in leaky.detail["original"]["attacks"]:
        assert len(entry["roc"]["fpr"]) <= 200
        assert entry["roc"]["fpr"] == sorted(entry["roc"]["fpr"])
        assert entry["roc"]["tpr"] == sorted(entry["roc"]["tpr"])
        assert all(
            low <= at <= high for low, at, high in zip(entry["roc"]["low"], entry["roc"]["tpr"], entry["roc"]["high"], strict=True)
        )
        assert [item["score"] for item in entry["worst"]] == sorted((item["score"] for item in entry["worst"]), reverse=True)
        assert len({item["id"] for item in entry["worst"]}) == SETTINGS.worst
        assert len(entry["by_repeat"]) == (0 if entry["attack"] == "joint" else 2)
        unsupported = [item for item in entry["tpr_at"] if not item["supported"]]
        assert [item["fpr"] for item in unsupported] == [0.001]
        assert all(item["tpr"] is None for item in unsupported)


def test_the_same_inputs_give_the_same_result(tight: FamilyResult) -> None:
    again = run_membership(bench(data(), TIGHT), SETTINGS)
    first, second = (json.dumps(asdict(replace(result, records={})), sort_keys=True) for result in (tight, again))
    assert first == second
    assert again.records.keys() == tight.records.keys()


def test_another_seed_trains_other_shadows_and_keeps_the_judged_records(tight: FamilyResult) -> None:
    base = bench(data(), TIGHT)
    other = run_membership(
        replace(base, policy=replace(base.policy, seed=21)), replace(SETTINGS, canary_copies=(), untrained_twins=0)
    )
    assert finding(other, "original", "threshold").estimate == finding(tight, "original", "threshold").estimate
    areas = [{item["attack"]: item["auc"] for item in result.detail["original"]["attacks"]} for result in (other, tight)]
    assert areas[0]["lira_online"] != areas[1]["lira_online"]
    assert areas[0]["confidence"] == areas[1]["confidence"]


def test_without_a_trainer_only_the_threshold_test_runs() -> None:
    result = run_membership(bench(data(), TIGHT, trainer=None), SETTINGS)
    assert finding(result, "original", "threshold").not_run is None
    for test in ("rmia", "lira", "joint"):
        found = finding(result, "rounded", test)
        assert "training entry point" in (found.not_run or "")
        assert found.p_value == 1.0
    assert not control_problems(result.controls)
    assert result.power is not None


def test_without_a_variant_the_joint_attack_does_not_run() -> None:
    result = run_membership(bench(data(), TIGHT, variants=()), replace(SETTINGS, canary_copies=()))
    assert "one version" in (finding(result, "original", "joint").not_run or "")
    assert finding(result, "original", "lira").not_run is None


def test_too_few_heldouts_for_the_rate_are_no_pass() -> None:
    result = run_membership(bench(data(per_class=20), LEAKY, trainer=None), SETTINGS)
    found = finding(result, "original", "threshold")
    assert found.not_run == "200 held-outs are too few for a false positive rate of 0.01: 300 are needed"
    assert found.p_adjusted == 1.0
    assert found.statistic == "tpr_at_fpr_0.015"
    assert not any(control.required for control in result.controls)


def test_next_to_no_records_are_no_pass() -> None:
    records = data(per_class=20)
    keep = np.flatnonzero(records.y < 2)[:6]
    few = check_data({"x": records.x[keep], "y": records.y[keep], "member": np.arange(6) % 2 == 0}, where="test")
    result = run_membership(bench(data(), TIGHT, data=few), SETTINGS)
    assert all(item.not_run and item.estimate is None for items in result.findings.values() for item in items)


def test_a_class_without_heldouts_blinds_every_test() -> None:
    records = data()
    keep = ~((records.y == 3) & ~records.member)
    lopsided = check_data({"x": records.x[keep], "y": records.y[keep], "member": records.member[keep]}, where="test")
    result = run_membership(bench(lopsided, TIGHT, trainer=None), SETTINGS)
    found = finding(result, "original", "threshold")
    assert found.blind == ("1 classes have fewer than 2 members or held-outs",)


def test_a_variant_that_gives_labels_is_blind_and_hides_nothing() -> None:
    made = bench(data(), LEAKY)
    weights = [np.eye(64, 70, dtype=np.float32), np.ones((70, 10), dtype=np.float32)]
    labels = Subject("labels", check_model(classifier(weights, tail="ArgMax")), RANGE)
    result = run_membership(replace(made, variants=(labels,)), replace(SETTINGS, canary_copies=()))
    for test in TESTS:
        assert finding(result, "labels", test).blind
    assert finding(result, "original", "lira").p_adjusted <= 0.01
    assert result.detail["labels"]["attacks"] == []


def test_a_trainer_unlike_the_audited_model_leaves_the_tests_undone() -> None:
    made = bench(data(), LEAKY)
    result = run_membership(replace(made, trainer=RidgeTrainer(hidden=4, ridge=1.0)), replace(SETTINGS, canary_copies=()))
    assert "unlike the audited model" in finding(result, "original", "lira").undone[0]
    assert not finding(result, "original", "threshold").undone


def test_a_version_that_is_the_original_again_differs_by_nothing() -> None:
    made = bench(data(), TIGHT, trainer=None)
    same = Subject("same", made.original.model, RANGE)
    result = run_membership(replace(made, variants=(same,)), SETTINGS)
    assert all(item["tpr_interval"] == [0.0, 0.0] and item["auc_interval"] == [0.0, 0.0] for item in result.detail["same"]["delta"])


def test_labels_of_other_classes_leave_every_test_undone() -> None:
    made = bench(data(), TIGHT, variants=(), trainer=None)
    shifted = replace(made.data, y=(made.data.y + 3) % 10)
    found = finding(run_membership(replace(made, data=shifted), SETTINGS), "original", "threshold")
    assert "no more often than chance" in found.undone[0]


def test_a_training_that_diverged_is_named_as_what_is_wrong() -> None:
    class Diverged(RidgeTrainer):
        def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
            return classifier([np.full((64, 8), np.nan, dtype=np.float32), np.ones((8, 10), dtype=np.float32)])

    made = bench(data(), TIGHT, variants=())
    with pytest.raises(UsageError) as caught:
        run_membership(replace(made, trainer=Diverged(hidden=4, ridge=1.0)), SETTINGS)
    assert caught.value.code == "trainer_model"
    assert "NaN or infinite" in str(caught.value.actual)
