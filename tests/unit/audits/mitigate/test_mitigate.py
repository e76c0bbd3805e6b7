"""Whole mitigations on networks that fail: by membership in seconds, by inversion where marked slow, and the kept trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from audits.commands import audit
from audits.data import AuditData, check_data
from audits.mitigate.judge import Effort, Judged, PolicyJudge, cheaper
from audits.mitigate.outcome import Outcome
from audits.mitigate.run import mitigate
from audits.mitigate.search import Ending, SearchSettings, State
from audits.mitigate.trials import Trial, TrialFolder, trial_key
from audits.policy import AskedTests, Policy, load_policy
from audits.trainer import Trainer
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.console import run_main
from device_client.errors import IntegrityError
from device_client.inference.walker import CheckedModel, check_model
from tests.unit.audits import models
from tests.unit.audits.attribute import tables
from tests.unit.audits.membership.small import SETTINGS as MEMBERSHIP
from tests.unit.audits.mitigate import trainers
from tests.unit.audits.mitigate.in_process import InProcessTrainer
from tests.unit.audits.mitigate.judges import ShadowJudge
from tests.unit.bundle.samples import sample_bundle, write_layout


class Counting(InProcessTrainer):
    """Counts its trainings, and can be told to die at one of them."""

    def __init__(self, function: Any, *, dies_at: int = 0) -> None:
        super().__init__(function, name="t")
        self.count, self.dies_at = 0, dies_at

    def train(self, x: Any, y: Any, *, seed: int, fix: Mapping[str, Any]) -> bytes:
        self.count += 1
        if self.count == self.dies_at:
            raise KeyboardInterrupt
        return super().train(x, y, seed=seed, fix=fix)


def train_table(x: Any, y: Any, *, seed: int, fix: Mapping[str, Any] | None = None) -> bytes:
    return trainers.train(x, y, seed=seed, fix=fix, epochs=60, width=64)


def memorised_table(*, members: int = 250) -> AuditData:
    data = tables.table(records=1000)
    member = data.member & (np.cumsum(data.member) <= members)
    return check_data({"x": data.x, "y": data.y, "member": member}, where="test")


def run(data: AuditData, folder: Path, *, trainer: Any, judge: Any, only: tuple[str, ...], **options: Any) -> Outcome:
    policy = options.pop("policy", load_policy())
    original = trainers.train(data.x[data.member], data.y[data.member], seed=77, **options.pop("original"))
    return mitigate(
        models.checked(original),
        data,
        judge=judge,
        trainer=trainer,
        policy=policy,
        features=(),
        folder=folder,
        settings=SearchSettings(bootstraps=200, **options),
        only=only,
    )


def run_table(folder: Path, trainer: Counting, **options: Any) -> Outcome:
    judge = ShadowJudge(shadows=2)
    return run(
        memorised_table(),
        folder,
        trainer=trainer,
        judge=judge,
        only=("early_stop",),
        original={"epochs": 60, "width": 64},
        finalists=2,
        confirmations=2,
        **options,
    )


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_table(tmp_path_factory.mktemp("mitigation") / "trials", Counting(train_table))


def test_a_network_that_memorised_a_table_passes_when_it_is_stopped_early(table_run: Outcome) -> None:
    result = table_run.result
    assert result.ending is Ending.PASSED
    baseline, *_ = result.standings
    assert baseline.state is State.BASELINE
    assert baseline.passed == 0
    assert result.chosen is not None
    assert result.chosen.fix.kind == "early_stop"
    assert result.chosen.loss is not None
    assert result.chosen.loss.estimate <= 0.02
    assert result.chosen.leak is not None
    assert baseline.leak is not None
    assert result.chosen.leak < baseline.leak - 0.05


class PassingJudge:
    """Passes everything but the original, so that all of the search runs and no time goes into attacks."""

    identity = "passing"

    def __init__(self, original: bytes) -> None:
        self.original = original

    def __call__(self, model: bytes, *, data: AuditData, seed: int, trainer: Any, effort: Effort) -> Judged:
        verdict = Verdict.FAILED if model == self.original else Verdict.PASSED
        return Judged(verdict, len(data.y) / (1000 + seed), "unit", None, ())


def quick(folder: Path, trainer: Counting, **options: Any) -> Outcome:
    data = memorised_table()
    original = trainers.train(data.x[data.member], data.y[data.member], seed=77, epochs=1)
    return mitigate(
        models.checked(original),
        data,
        judge=PassingJudge(original),
        trainer=trainer,
        policy=load_policy(),
        features=(),
        folder=folder,
        settings=SearchSettings(bootstraps=50, accuracy_budget=1.0, **options),
        only=("retrain", "early_stop", "distil_own", "prune"),
    )


def two_epochs(x: Any, y: Any, *, seed: int, fix: Mapping[str, Any] | None = None) -> bytes:
    return trainers.train(x, y, seed=seed, fix={**(fix or {}), "dropout": 0.1 * bool(fix)}, epochs=2, width=8)


def test_the_same_command_again_trains_nothing_and_says_the_same(tmp_path: Path) -> None:
    first, again = Counting(two_epochs), Counting(two_epochs)
    outcome = quick(tmp_path / "trials", first)
    assert outcome.result.ending is Ending.PASSED
    assert quick(tmp_path / "trials", again).to_bytes() == outcome.to_bytes()
    assert (first.count, again.count) == (10, 0)


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, rest = Counting(two_epochs), Counting(two_epochs)
    outcome = quick(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path / "trials", Counting(two_epochs, dies_at=8))
    assert len(list((tmp_path / "trials").glob("*.json"))) >= 4
    assert quick(tmp_path / "trials", rest).to_bytes() == outcome.to_bytes()
    # the unfinished trial is made again, and for each seed what the training gives without a fix
    assert whole.count - 7 <= rest.count <= whole.count - 4


def test_other_seeds_are_other_trials(tmp_path: Path) -> None:
    quick(tmp_path / "trials", Counting(two_epochs))
    again = Counting(two_epochs)
    quick(tmp_path / "trials", again, seed=50)
    assert again.count == 10


def test_the_result_holds_no_record_and_no_answer(table_run: Outcome) -> None:
    text = table_run.to_bytes().decode()
    assert '"right"' not in text
    data = memorised_table()
    assert not any(repr(float(value)) in text for value in data.x[:50, 0])


def kept_trial(folder: Path) -> tuple[TrialFolder, Digest, Trial]:
    trial = Trial(Judged(Verdict.FAILED, 0.25, "unit", None, ("a reason",)), 0.75, np.arange(21) % 3 == 0, b"model")
    key = trial_key({"fix": "x", "seed": 1})
    TrialFolder(folder).put(key, trial)
    return TrialFolder(folder), key, trial


def test_a_kept_trial_reads_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder, key, trial = kept_trial(tmp_path / "trials")
    found = folder.get(key)
    assert found is not None
    assert (found.judged, found.accuracy_members, found.model) == (trial.judged, 0.75, b"model")
    assert (found.right == trial.right).all()
    assert (tmp_path / "trials").stat().st_mode & 0o077 == 0
    assert folder.get(trial_key({"fix": "x", "seed": 2})) is None


@pytest.mark.parametrize(
    ("pattern", "old", "new"),
    [
        ("*.json", b"FAILED", b"PASSED "),
        ("*.json", b'"leak":0.25', b'"leak":"0"'),
        ("*.json", b"}", b""),
        ("*.json", b'"answers":21', b'"answers":99'),
        ("*.onnx", b"model", b"other"),
    ],
)
def test_a_kept_trial_that_was_changed_is_refused(tmp_path: Path, pattern: str, old: bytes, new: bytes) -> None:
    folder, key, _ = kept_trial(tmp_path / "trials")
    (path,) = (tmp_path / "trials").glob(pattern)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(IntegrityError) as refused:
        folder.get(key)
    assert refused.value.code == "trial_edited"


def small(policy: Policy) -> Policy:
    return replace(
        policy,
        decision=replace(policy.decision, permutations=999, bootstraps=200),
        inversion=replace(policy.inversion, attacks=("logit",), restarts=2),
        controls=replace(policy.controls, planted_strengths=(0.5, 1.0), untrained_twins=1, relabellings=50),
    )


def test_the_default_judge_fails_an_overfit_network_and_uses_its_seed() -> None:
    data = models.digits_data(models.half(0, per_class=5))
    model = trainers.train(data.x[data.member], data.y[data.member], seed=1, epochs=100)
    judge = PolicyJudge(small(load_policy()), input_range=(0.0, 1.0))
    found = [judge(model, data=data, seed=seed, trainer=None, effort=Effort.SEARCH) for seed in (0, 0, 1)]
    assert [item.verdict for item in found] == [Verdict.FAILED] * 3
    assert found[0] == found[1]
    assert found[0].leak is not None
    assert found[0].leak > 0.05
    assert found[0].leak != found[2].leak


class Few(Trainer):
    """Few epochs, as the candidate had; counts."""

    def __init__(self) -> None:
        self.count = 0

    def train(self, x: Any, y: Any, *, seed: int) -> bytes:
        self.count += 1
        return trainers.train(x, y, seed=seed, epochs=20)


class Halving:
    """Compresses by dropping half of the bits of every weight; counts."""

    def __init__(self) -> None:
        self.models = 0

    def compress(self, model: bytes, *, x: object, y: object) -> dict[str, CheckedModel]:
        self.models += 1
        proto = onnx.load_model_from_string(model)
        for tensor in proto.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
        return {"rounded": check_model(proto.SerializeToString(), where="rounded")}


def test_a_fix_is_confirmed_by_every_test_of_the_policy_and_on_what_the_recipe_makes_of_it() -> None:
    data = models.digits_data(models.half(0, per_class=40))
    model = trainers.train(data.x[data.member], data.y[data.member], seed=1, epochs=20)
    asked = AskedTests(("inversion.instance", "membership.threshold"), ("membership.lira",))
    settings = replace(MEMBERSHIP, shadows=4, canary_copies=(), untrained_twins=1)
    built_in = load_policy()
    decision = replace(built_in.decision, permutations=1999, bootstraps=200)  # two families share alpha
    policy = replace(small(built_in), tests=asked, inversion=built_in.inversion, decision=decision)
    policy = replace(policy, families={**policy.families, "membership": settings})
    halving, few = Halving(), Few()
    judge = PolicyJudge(policy, input_range=(0.0, 1.0), compressor=halving, recipe=Digest.of(b"recipe"))
    searched = judge(model, data=data, seed=0, trainer=few, effort=Effort.SEARCH)
    assert (halving.models, few.count) == (0, 0)
    assert all(reason.startswith("inversion.instance") for reason in searched.reasons)
    confirmed = judge(model, data=data, seed=0, trainer=few, effort=Effort.CONFIRM)
    assert halving.models > 1, "the candidate, and the controls like it"
    assert few.count == 4, "shadows, trained with the fix under trial"
    assert any(reason.startswith("rounded: ") for reason in confirmed.reasons)
    assert judge.identity != PolicyJudge(policy, input_range=(0.0, 1.0)).identity


def test_the_cheap_policy_asks_the_same_question_for_less() -> None:
    policy = load_policy()
    less = cheaper(policy)
    assert less.decision.alpha == policy.decision.alpha
    assert less.inversion == policy.inversion
    assert less.decision.permutations < policy.decision.permutations
    assert less.decision.alpha * (less.decision.permutations + 1) >= 10
    assert max(less.controls.planted_strengths) >= policy.controls.planted_required


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    data = models.digits_data(models.half(0, per_class=5))
    original = trainers.train(data.x[data.member], data.y[data.member], seed=1, epochs=100)
    source, _, digest = sample_bundle(models={"fp32": original})
    write_layout(folder / "bundle", source, digest)
    np.savez(folder / "records.npz", x=data.x, y=data.y, member=data.member)
    (folder / "original.onnx").write_bytes(original)
    (folder / "policy.toml").write_text(
        "[tests]\noptional = []\n[decision]\npermutations = 999\nbootstraps = 200\n"
        '[inversion]\nattacks = ["logit"]\nrestarts = 2\n',
        encoding="utf-8",
    )
    return folder


def call(desk: Path, out: str, *more: str) -> int:
    names = {"--data": "records.npz", "--original": "original.onnx", "--policy": "policy.toml"}
    options = [part for name, file in names.items() for part in (name, str(desk / file))]
    arguments = ["mitigate", str(desk / "bundle"), *options, "--out", str(desk / out), *more, "--json"]
    return run_main(audit, prog_name="audit", args=arguments)


def test_the_command_writes_the_frontier_and_says_that_nothing_passes(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = "tests.unit.audits.mitigate.trainers:plain"
    assert call(desk, "out", "--trainer", trainer, "--only", "retrain") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ending"] == "none_passes"
    assert [item["label"] for item in printed["fixes"]] == ["none", "retrain"]
    assert printed["unavailable"]["early_stop"] == "not asked for"
    written = json.loads((desk / "out" / "mitigation.json").read_bytes())
    assert written == {key: value for key, value in printed.items() if key not in {"ok", "out"}}
    assert "<svg" in (desk / "out" / "mitigation.html").read_text(encoding="utf-8")
    assert not (desk / "out" / "model.onnx").exists()
    assert (desk / "out").stat().st_mode & 0o077 == 0
    assert call(desk, "out", "--trainer", trainer, "--only", "retrain") == 0  # goes on in its own folder
    capsys.readouterr()


@pytest.mark.parametrize(
    ("out", "more", "code"),
    [
        ("bundle", (), "file_exists"),
        ("new", ("--only", "magic"), "fix_unknown"),
        ("new", ("--trainer", "nothing"), "entry_point"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    desk: Path, capsys: pytest.CaptureFixture[str], out: str, more: tuple[str, ...], code: str
) -> None:
    assert call(desk, out, *more) == 2
    assert json.loads(capsys.readouterr().out)["code"] == code
    assert not (desk / "new").exists()


def test_a_trainer_that_cannot_be_imported_is_refused_before_any_work(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(desk, "new", "--trainer", "no.such:train") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "isolated_failed"
    assert not (desk / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("per_class", [20, 5])
def test_digits_by_inversion_pass_by_distillation_or_the_frontier_says_that_nothing_does(per_class: int, tmp_path: Path) -> None:
    data = models.digits_data(models.half(0, per_class=per_class))
    policy = load_policy()
    outcome = run(
        data,
        tmp_path / "trials",
        trainer=InProcessTrainer(trainers.train, name="t"),
        judge=PolicyJudge(policy, input_range=(0.0, 1.0)),
        only=("early_stop", "distil_own", "prune"),
        original={"epochs": 150, "width": 64},
    )
    assert outcome.result.standings[0].passed == 0
    if per_class == 20:
        assert outcome.result.ending is Ending.PASSED
        return
    assert outcome.result.ending is Ending.NONE_PASSES
    assert all(item.passed < len(item.trials) or item.state is State.OVER_BUDGET for item in outcome.result.standings)


def purchases() -> AuditData:
    """Binary baskets around ten prototypes with 35 % flipped, 400 of 1400 in the training."""
    rng = np.random.default_rng(0)
    labels = np.arange(1400) % 10
    x = rng.choice([-1.0, 1.0], size=(10, 60))[labels] * np.where(rng.random((1400, 60)) < 0.35, -1, 1)
    member = np.isin(np.arange(1400), rng.permutation(1400)[:400])
    return check_data({"x": x, "y": labels, "member": member}, where="test")


@pytest.mark.slow
def test_baskets_by_membership_pass_or_the_frontier_says_that_nothing_does(tmp_path: Path) -> None:
    outcome = run(
        purchases(),
        tmp_path / "trials",
        trainer=InProcessTrainer(train_table, name="t"),
        judge=ShadowJudge(),
        only=("early_stop", "narrow_early", "distil_early", "prune"),
        original={"epochs": 60, "width": 64},
    )
    assert outcome.result.standings[0].passed == 0
    assert outcome.result.ending in {Ending.PASSED, Ending.NONE_PASSES}
    for item in outcome.result.standings:
        assert (item.state is State.CONFIRMED) == (
            item.passed == len(item.confirm) == 3 and item.loss is not None and item.loss.estimate <= 0.02
        )
