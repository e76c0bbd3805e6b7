"""Families are wired by one entry, imported when they are asked for, and counted as the policy says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from audits import families, policy, verdict
from audits.evidence_reader import read_audit
from audits.families import Access, Family, TestKind
from audits.family import Bench
from audits.finding import Control, FamilyResult, Finding
from audits.policy import Policy, load_policy
from audits.policy_values import naming, read_number, read_section
from audits.random_operators import find_random_operators
from audits.run import RunResult, run_audit
from audits.targets import ORIGINAL, BundleTargets, Subject
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.errors import UsageError
from tests.unit.audits import models
from tests.unit.audits.conftest import NOW, RANGE

PLANTED = Control("planted", planted=True, held=True, required=True, strength=0.5, told="")
NULL = Control("null", planted=False, held=True, required=True, strength=None, told="")


@dataclass(frozen=True)
class Settings:
    """Of the family that these tests make up."""

    tolerated: float


def read_settings(section: dict[str, Any], where: str) -> Settings:
    values = read_section({"tolerated": 0.05, **section}, Settings, where)
    with naming(where):
        return Settings(read_number(values, "tolerated", 0.0, 1.0))


def run_made_up(bench: Bench, settings: Settings) -> FamilyResult:
    """Numbers as a family of another hand might give them: numpy's, and integers."""
    finding = Finding(
        "made.scores", np.float64(0.5), 1, "tpr", estimate=np.float32(0.01), interval=(0, 0.02), tolerated=settings.tolerated
    )  # type: ignore[arg-type]
    with_file = replace(finding, test="made.file", p_value=0.0, p_adjusted=0.0)
    controls = (replace(PLANTED, held=np.bool_(True), strength=1), NULL)
    findings = {subject.id: (finding, with_file) for subject in bench.subjects}
    detail = {subject.id: {"worst": []} for subject in bench.subjects}
    return FamilyResult("made", findings, controls, 0.001, "share of records", detail, {"shadows": 0})


MADE = Family(
    "made",
    (TestKind("made.scores", Access.SCORES), TestKind("made.file", Access.FILE)),
    "made_up_family:run_made_up",
    "made_up_family:read_settings",
)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known = (*families.FAMILIES, MADE)
    for module in (families, policy, verdict):
        monkeypatch.setattr(module, "FAMILIES", known)
    module = ModuleType("made_up_family")
    module.run_made_up = run_made_up  # type: ignore[attr-defined]
    module.read_settings = read_settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_family", module)


def sealed(folder: Path, *lines: str) -> Policy:
    path = folder / "policy.toml"
    path.write_text("\n".join(['threat_model = "sealed_api"', *lines]), encoding="utf-8")
    return load_policy(path)


def run_under(asked: Policy, variant: bytes) -> RunResult:
    data = models.digits_data(models.half(0))
    targets = BundleTargets(Digest.of(b"m"), "clinic/digits/1.0.0", (Subject("v", models.checked(variant), RANGE),))
    return run_audit(targets, Subject(ORIGINAL, models.checked(_linear()), RANGE), data, policy=asked, now=NOW)


def _linear(*, noise: bool = False) -> bytes:
    """Scores that are a product with fixed weights, and with noise on them if asked for."""
    weights = np.linspace(-1, 1, 640, dtype=np.float32).reshape(64, 10)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"])]
    if noise:
        nodes += [helper.make_node("RandomNormalLike", ["a"], ["n"]), helper.make_node("Add", ["a", "n"], ["b"])]
    nodes.append(helper.make_node("Softmax", ["b" if noise else "a"], ["p"]))
    return models.build(nodes, [numpy_helper.from_array(weights, "w")], inputs=("x", [None, 64]), outputs=("p", [None, 10]))


@pytest.mark.usefixtures("made_up")
def test_a_family_is_run_with_its_own_table_and_under_the_threat_model(tmp_path: Path) -> None:
    asked = sealed(tmp_path, "[tests]", 'required = ["made.scores"]', 'optional = ["made.file"]', "[made]", "tolerated = 0.1")
    assert asked.families["made"] == Settings(0.1)
    result = run_under(asked, _linear())
    (family,) = result.audit.families
    assert family.power == 1.0, "power is what the controls say, not what the family said"
    (variant,) = result.audit.variants
    assert (variant.verdict, variant.facts.gradient) == (Verdict.PASSED, "none")
    reasons = {item.test: item.reason for item in variant.ruling.not_tested}
    assert "sealed_api rules out" in reasons["made.file"], "a leak found with the file does not count against a sealed device"
    assert reasons["inversion.instance"] == "the policy does not ask for it"
    data = result.audit.to_bytes()
    assert read_audit(data, where="audit.json").to_bytes() == data


@pytest.mark.usefixtures("made_up")
def test_a_family_gives_only_what_it_is_registered_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sealed(tmp_path, "[tests]", 'required = ["made.scores"]')
    for change in ({"family": "other"}, {"findings": {"v": (Finding("made.more", 1.0, 1.0, "x"),)}}):
        made = lambda bench, settings, change=change: replace(run_made_up(bench, settings), **change)  # noqa: E731
        monkeypatch.setattr(sys.modules["made_up_family"], "run_made_up", made)
        with pytest.raises(ValueError, match="not registered"):
            run_under(asked, _linear())


@pytest.mark.usefixtures("made_up")
def test_a_table_of_a_family_is_checked_by_it_and_counts_in_the_digest(tmp_path: Path) -> None:
    lines = ["[tests]", 'required = ["made.scores"]']
    plain = sealed(tmp_path, *lines)
    assert plain.families["made"] == Settings(0.05)
    assert sealed(tmp_path, *lines, "[made]", "tolerated = 0.06").digest != plain.digest
    for text, code in (("tolerated = 2", "policy_value"), ("tolerate = 0.1", "policy_unknown_key")):
        with pytest.raises(UsageError) as refused:
            sealed(tmp_path, *lines, "[made]", text)
        assert refused.value.code == code
    with pytest.raises(UsageError, match="not a table"):
        sealed(tmp_path, "made = 3", *lines)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("stops", "leaks", "runs"), [(True, True, False), (False, True, True), (True, False, True)])
def test_a_run_stops_where_no_family_that_is_left_can_change_a_verdict(
    *, stops: bool, leaks: bool, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = Family("later", (TestKind("later.scores", Access.SCORES),), "made_up_family:run_later")
    known = (*families.FAMILIES, later)
    for module in (families, policy, verdict):
        monkeypatch.setattr(module, "FAMILIES", known)

    def run_first(bench: Bench, settings: Settings) -> FamilyResult:
        found = run_made_up(bench, settings)
        p = 0.0 if leaks else 0.5
        scores = Finding("made.scores", p, p, "tpr", estimate=0.9, interval=(0.8, 1.0), tolerated=0.05)
        return replace(found, findings={subject.id: (scores,) for subject in bench.subjects})

    def run_later(bench: Bench) -> FamilyResult:
        quiet = Finding("later.scores", 0.5, 0.5, "mean_gap")
        detail = {subject.id: {} for subject in bench.subjects}
        return FamilyResult(
            "later", {subject.id: (quiet,) for subject in bench.subjects}, (PLANTED, NULL), None, "units", detail, {}
        )

    module = sys.modules["made_up_family"]
    monkeypatch.setattr(module, "run_made_up", run_first)
    monkeypatch.setattr(module, "run_later", run_later, raising=False)
    lines = ["[tests]", 'required = ["made.scores", "later.scores"]', "[decision]", f"stop_early = {str(stops).lower()}"]
    audit = run_under(sealed(tmp_path, *lines), _linear()).audit
    expected = Verdict.FAILED if leaks else Verdict.WARNED  # the estimate may be above what is tolerated
    for subject in audit.subjects:
        assert subject.verdict is expected
        told = {item.test: (item.result, item.reasons) for item in subject.ruling.tests}
        if runs:
            assert told["later.scores"][0] is Verdict.PASSED
        else:
            assert told["later.scores"] == (
                Verdict.INCONCLUSIVE,
                ("did not run: stopped early: the model had FAILED made.scores",),
            )
    data = audit.to_bytes()
    assert read_audit(data, where="audit.json").to_bytes() == data


@pytest.mark.usefixtures("made_up")
def test_a_model_that_draws_random_numbers_is_warned_at_best(tmp_path: Path) -> None:
    asked = sealed(tmp_path, "[tests]", 'required = ["made.scores"]')
    (variant,) = run_under(asked, _linear(noise=True)).audit.variants
    assert variant.verdict is Verdict.WARNED
    assert variant.facts.random_operators == ("RandomNormalLike",)


def _dropout(*, opset: int = 17, training: str = "") -> bytes:
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", training] if training else ["x", "ratio"], ["d"]),
        helper.make_node("Softmax", ["d"], ["p"]),
    ]
    switches = [numpy_helper.from_array(np.array(value, dtype=np.bool_), name) for name, value in (("on", True), ("off", False))]
    weights = [numpy_helper.from_array(np.array(0.5, dtype=np.float32), "ratio"), *switches]
    return models.build(nodes, weights, inputs=("x", [None, 64]), outputs=("p", [None, 64]), opset=opset)


def _inside_a_branch() -> bytes:
    draw = helper.make_graph(
        [helper.make_node("RandomUniform", [], ["y"], shape=[1, 64])], "then", [], [helper.make_tensor_value_info("y", 1, [1, 64])]
    )
    keep = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "else", [], [helper.make_tensor_value_info("z", 1, ["n", 64])]
    )
    nodes = [helper.make_node("If", ["flag"], ["p"], then_branch=draw, else_branch=keep)]
    flag = numpy_helper.from_array(np.array(False), "flag")
    return models.build(nodes, [flag], inputs=("x", [None, 64]), outputs=("p", [None, 64]))


RANDOM: dict[str, tuple[Any, tuple[str, ...]]] = {
    "none": (_linear, ()),
    "noise": (lambda: _linear(noise=True), ("RandomNormalLike",)),
    "a dropout that does nothing": (_dropout, ()),
    "a dropout switched off": (lambda: _dropout(training="off"), ()),
    "a dropout switched on": (lambda: _dropout(training="on"), ("Dropout",)),
    "one inside a branch": (_inside_a_branch, ("RandomUniform",)),
}


@pytest.mark.parametrize(("make", "expected"), RANDOM.values(), ids=RANDOM.keys())
def test_random_operators_are_found(make: Any, expected: tuple[str, ...]) -> None:
    assert find_random_operators(make()) == expected


_RUN = """
import sys
from dataclasses import replace
from audits.policy import load_policy
from device_client.bundle.digest import Digest
from tests.unit.audits.conftest import make_case
policy = load_policy()
policy = replace(
    policy,
    decision=replace(policy.decision, permutations=999, bootstraps=200),
    inversion=replace(policy.inversion, restarts=1, probability_steps=20, logit_steps=5, cross_entropy_steps=10),
    controls=replace(policy.controls, planted_strengths=(0.5,), untrained_twins=1),
)
audit = make_case(seed=0, per_class=None, epochs=2).run(policy).audit
print(Digest.of(replace(audit, duration_s=0.0).to_bytes()))
"""


@pytest.mark.slow
def test_the_evidence_does_not_depend_on_the_order_of_hashes() -> None:
    root = Path(__file__).resolve().parents[3]
    digests = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, cwd=root, check=True, env=environment)
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_commands_that_do_not_attack_load_nothing_that_does() -> None:
    heavy = "torch,sklearn,scipy,matplotlib,art"
    code = f"import sys, audits.commands; print([name for name in {heavy!r}.split(',') if name in sys.modules])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_the_run_itself_needs_no_torch_before_a_family_does() -> None:
    code = "import sys, audits.run; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
