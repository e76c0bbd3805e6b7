"""The verdict follows from findings and controls alone; blindness is never a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audits import families, policy, verdict
from audits.families import Access, Family, TestKind
from audits.finding import Control, FamilyResult, Finding, power_of
from audits.policy import AskedTests, Policy, load_policy
from audits.verdict import ModelFacts, Ruling, Verdict, certain_failures, holm, rule, worst

FAILED, INCONCLUSIVE, WARNED, PASSED = Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.WARNED, Verdict.PASSED
INSTANCE, QUERIES, LIRA, LABELS = "inversion.instance", "inversion.black_box", "membership.lira", "inversion.label_only"
ALL = (
    Family("instance", (TestKind(INSTANCE, Access.FILE),), "x:y"),
    Family("retrieval", (TestKind(QUERIES, Access.SCORES), TestKind(LABELS, Access.LABELS)), "x:y"),
    Family("membership", (TestKind(LIRA, Access.SCORES),), "x:y"),
)
PLANTED = Control("planted:0.5", planted=True, held=True, required=True, strength=0.5, told="a planted leak was missed")
NULL = Control("null", planted=False, held=True, required=True, strength=None, told="a null control alarmed")
QUIET = Finding(INSTANCE, 0.4, 0.5, "mean_gap", estimate=0.01, interval=(-0.1, 0.1))
LEAK = replace(QUIET, p_value=0.001, p_adjusted=0.002)
FACTS = ModelFacts("exact")
BASE = load_policy()  # before its families are others


@pytest.fixture(autouse=True)
def three_families(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (families, policy, verdict):
        monkeypatch.setattr(module, "FAMILIES", ALL)


def a_policy(*required: str, optional: tuple[str, ...] = (), threat_model: str = "white_box") -> Policy:
    return replace(BASE, tests=AskedTests(required or (INSTANCE,), optional), threat_model=threat_model)


def family(*findings: Finding, name: str = "instance", controls: tuple[Control, ...] = (PLANTED, NULL)) -> FamilyResult:
    return FamilyResult(name, {"v": findings}, controls, power_of(controls), "units", {}, {})


def judged(*results: FamilyResult, asked: Policy | None = None, facts: ModelFacts = FACTS) -> Ruling:
    return rule("v", facts, results, asked or a_policy())


def bad(control: Control) -> Control:
    return replace(control, held=False)


BOUNDED = replace(QUIET, statistic="tpr", tolerated=0.05)
ONE_TEST: dict[str, tuple[Finding, dict[str, Any], Verdict]] = {
    "nothing found, controls behaved": (QUIET, {}, PASSED),
    "a leak": (LEAK, {}, FAILED),
    "a leak at exactly alpha": (replace(LEAK, p_adjusted=0.01), {}, FAILED),
    "a leak of this test alone": (replace(QUIET, p_value=0.009, p_adjusted=0.02), {}, WARNED),
    "doubts": (replace(QUIET, doubts=("compression raises the gap",)), {}, WARNED),
    "a leak with doubts": (replace(LEAK, doubts=("compression raises the gap",)), {}, FAILED),
    "an attack that did not converge": (replace(QUIET, undone=("did not converge",)), {}, INCONCLUSIVE),
    "a leak although an attack did not converge": (replace(LEAK, undone=("did not converge",)), {}, FAILED),
    "a model that cannot be attacked": (replace(QUIET, blind=("unknown operator Sinh",)), {}, INCONCLUSIVE),
    "a leak seen through a bridge that is another model": (replace(LEAK, blind=("parity",)), {}, INCONCLUSIVE),
    "a planted leak missed": (LEAK, {"controls": (bad(PLANTED), NULL)}, INCONCLUSIVE),
    "a weak planted leak missed, which nobody required": (
        QUIET, {"controls": (bad(replace(PLANTED, required=False, strength=0.1)), PLANTED, NULL)}, PASSED,
    ),
    "a null control that alarms": (LEAK, {"controls": (PLANTED, bad(NULL))}, INCONCLUSIVE),
    "no planted control": (QUIET, {"controls": (NULL,)}, INCONCLUSIVE),
    "no null control": (QUIET, {"controls": (PLANTED,)}, INCONCLUSIVE),
    "no controls at all": (LEAK, {"controls": ()}, INCONCLUSIVE),
    "a required test that did not run": (replace(QUIET, not_run="no records"), {}, INCONCLUSIVE),
    "a bounded test that is surely below": (replace(BOUNDED, interval=(0.0, 0.05)), {}, PASSED),
    "a bounded test with too few records": (replace(BOUNDED, interval=(0.0, 0.06)), {}, WARNED),
    "a bounded test without an interval": (replace(BOUNDED, interval=None), {}, WARNED),
    "a bounded test that is surely above": (replace(BOUNDED, p_adjusted=0.01, interval=(0.06, 0.2)), {}, FAILED),
}  # fmt: skip


@pytest.mark.parametrize(("finding", "more", "expected"), ONE_TEST.values(), ids=ONE_TEST.keys())
def test_the_verdict_follows_from_the_findings(finding: Finding, more: dict[str, Any], expected: Verdict) -> None:
    ruling = judged(family(finding, **more))
    assert ruling.verdict is expected
    assert ruling.reasons
    assert all(ruling.reasons)
    assert [item.test for item in ruling.tests] == [INSTANCE]


def test_no_family_at_all_is_inconclusive() -> None:
    ruling = judged()
    assert (ruling.verdict, ruling.tests[0].result) == (INCONCLUSIVE, INCONCLUSIVE)
    assert {item.test for item in ruling.not_tested} == {QUERIES, LABELS, LIRA}


def test_nothing_about_this_model_is_inconclusive() -> None:
    other = replace(family(QUIET), findings={"other": (QUIET,)})
    assert judged(other).verdict is INCONCLUSIVE


def test_the_worst_result_decides_and_the_others_are_told() -> None:
    lira = family(replace(LEAK, test=LIRA), name="membership")
    ruling = judged(family(replace(QUIET, undone=("slow",))), lira, asked=a_policy(INSTANCE, LIRA))
    assert ruling.verdict is FAILED
    assert {item.test: item.result for item in ruling.tests} == {INSTANCE: INCONCLUSIVE, LIRA: FAILED}
    assert all(reason.startswith("membership.lira: ") for reason in ruling.reasons)


def test_failed_controls_of_one_family_do_not_hide_a_leak_that_another_found() -> None:
    blind = family(QUIET, controls=(bad(PLANTED), NULL))
    assert judged(blind, family(replace(LEAK, test=LIRA), name="membership"), asked=a_policy(INSTANCE, LIRA)).verdict is FAILED
    assert (
        judged(blind, family(replace(QUIET, test=LIRA), name="membership"), asked=a_policy(INSTANCE, LIRA)).verdict is INCONCLUSIVE
    )


OPTIONAL: dict[str, tuple[Finding, Verdict]] = {
    "finds a leak": (LEAK, FAILED),
    "passes": (QUIET, PASSED),
    "is blind": (replace(QUIET, blind=("no",)), WARNED),
    "did not do its work": (replace(QUIET, undone=("no",)), WARNED),
    "did not run": (replace(QUIET, not_run="no trainer"), PASSED),
}


@pytest.mark.parametrize(("finding", "expected"), OPTIONAL.values(), ids=OPTIONAL.keys())
def test_a_test_that_nobody_requires(finding: Finding, expected: Verdict) -> None:
    lira = family(replace(finding, test=LIRA), name="membership")
    ruling = judged(family(QUIET), lira, asked=a_policy(INSTANCE, optional=(LIRA,)))
    assert ruling.verdict is expected
    named = {item.test: item.reason for item in ruling.not_tested}
    assert named.get(LIRA) == finding.not_run
    assert named[QUERIES] == "the policy does not ask for it"


def test_a_graph_that_draws_random_numbers_is_warned_at_best() -> None:
    facts = ModelFacts("exact", ("RandomNormal",))
    assert judged(family(QUIET), facts=facts).verdict is WARNED
    assert judged(family(LEAK), facts=facts).verdict is FAILED


NO_BRIDGE = replace(QUIET, p_value=1.0, p_adjusted=1.0, blind=("unknown operator Sinh",))
WITHOUT_GRADIENT: dict[str, tuple[tuple[FamilyResult, ...], Verdict]] = {
    "queries ran": ((family(NO_BRIDGE), family(replace(QUIET, test=QUERIES), name="retrieval")), WARNED),
    "queries found a leak": ((family(NO_BRIDGE), family(replace(LEAK, test=QUERIES), name="retrieval")), FAILED),
    "queries did not run": ((family(NO_BRIDGE),), INCONCLUSIVE),
    "queries are blind": ((family(NO_BRIDGE), family(replace(NO_BRIDGE, test=QUERIES), name="retrieval")), INCONCLUSIVE),
    "controls of the queries failed": (
        (family(NO_BRIDGE), family(replace(QUIET, test=QUERIES), name="retrieval", controls=(bad(PLANTED), NULL))), INCONCLUSIVE,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("results", "expected"), WITHOUT_GRADIENT.values(), ids=WITHOUT_GRADIENT.keys())
def test_a_model_without_gradient_counts_only_with_queries_and_never_passes(
    results: tuple[FamilyResult, ...], expected: Verdict
) -> None:
    asked = a_policy(INSTANCE, optional=(QUERIES,))
    assert judged(*results, asked=asked, facts=ModelFacts("none")).verdict is expected


def test_queries_stand_in_for_nothing_where_there_was_a_gradient() -> None:
    results = (family(NO_BRIDGE), family(replace(QUIET, test=QUERIES), name="retrieval"))
    assert judged(*results, asked=a_policy(INSTANCE, optional=(QUERIES,)), facts=ModelFacts("exact")).verdict is INCONCLUSIVE


def test_what_a_threat_model_rules_out_is_named() -> None:
    asked = a_policy(LABELS, optional=(INSTANCE, LIRA), threat_model="label_only")
    ruling = judged(family(replace(QUIET, test=LABELS), name="retrieval"), asked=asked)
    reasons = {item.test: item.reason for item in ruling.not_tested}
    assert ruling.verdict is PASSED
    assert "label_only rules out" in reasons[INSTANCE]
    assert "label_only rules out" in reasons[LIRA]
    assert [family.name for family in asked.asked] == ["retrieval"]


def at(test: str, p_value: float) -> Finding:
    return Finding(test, p_value, p_value, "x")


def holm_of(**p_values: float) -> dict[str, float]:
    return holm({name: [at(name, p)] for name, p in p_values.items()})


HOLM: dict[str, tuple[Callable[[], dict[str, float]], dict[str, float]]] = {
    "one family as it is": (lambda: holm_of(a=0.02), {"a": 0.02}),
    "the smallest by all, the next by one less": (lambda: holm_of(a=0.03, b=0.001, c=0.02), {"b": 0.003, "c": 0.04, "a": 0.04}),
    "never below the one before": (lambda: holm_of(a=0.02, b=0.021), {"a": 0.04, "b": 0.04}),
    "at most one": (lambda: holm_of(a=0.9, b=0.8), {"a": 1.0, "b": 1.0}),
    "other tests of a family by its rank": (
        lambda: holm({"a": [at("a1", 0.001), at("a2", 0.01)], "b": [at("b", 0.005)]}),
        {"a1": 0.002, "a2": 0.02, "b": 0.005},
    ),
    "families without a result do not count": (lambda: holm({"a": [at("a", 0.02)], "b": []}), {"a": 0.02}),
}  # fmt: skip


@pytest.mark.parametrize(("made", "expected"), HOLM.values(), ids=HOLM.keys())
def test_p_values_are_corrected_for_the_number_of_families(
    made: Callable[[], dict[str, float]], expected: dict[str, float]
) -> None:
    assert made() == pytest.approx(expected)


def test_a_leak_that_only_the_correction_saves_is_a_warning() -> None:
    results = (family(replace(QUIET, p_value=0.006, p_adjusted=0.006)), family(replace(QUIET, test=LIRA), name="membership"))
    assert judged(results[0]).verdict is FAILED
    assert judged(*results, asked=a_policy(INSTANCE, LIRA)).verdict is WARNED


def test_the_worst_of_nothing_is_inconclusive_and_failed_is_the_worst() -> None:
    assert worst([]) is INCONCLUSIVE
    assert worst([PASSED, WARNED, INCONCLUSIVE]) is INCONCLUSIVE
    assert worst([INCONCLUSIVE, FAILED, PASSED]) is FAILED


def test_power_is_the_smallest_planted_leak_caught_with_all_larger_ones() -> None:
    def planted(*held: tuple[float, bool]) -> tuple[Control, ...]:
        return tuple(replace(PLANTED, strength=strength, held=caught) for strength, caught in held)

    assert power_of(planted((0.1, False), (0.2, True), (0.5, True))) == 0.2
    assert power_of(planted((0.1, True), (0.2, False), (0.5, True))) == 0.5
    assert power_of(planted((0.1, True), (0.5, False))) is None
    assert power_of(planted((0.5, True), (0.5, False))) is None
    assert power_of((NULL,)) is None


def test_what_a_test_misses_that_decides_nothing_takes_no_power_from_the_others() -> None:
    twins = [replace(PLANTED, name=f"swap_split:planted:{strength:g}", strength=strength) for strength in (0.5, 1.0)]
    labels = replace(PLANTED, name="label_only:planted:1", strength=1.0, held=False, required=False)
    assert power_of((*twins, labels)) == 0.5
    assert power_of((*twins, replace(labels, required=True))) is None
    assert power_of((*twins, replace(labels, required=True, held=True))) == 1.0  # the weakest of those that decide
    assert power_of((labels,)) is None


def test_who_surely_failed_is_failed_whatever_is_still_to_come() -> None:
    asked = a_policy(optional=(QUERIES, LIRA))
    rng = np.random.default_rng(0)
    surely = 0
    for _ in range(300):
        results = [
            family(replace(QUIET, test=test, p_value=p, p_adjusted=p), name=name)
            for (name, test), p in zip(
                (("instance", INSTANCE), ("retrieval", QUERIES), ("membership", LIRA)), 10.0 ** rng.uniform(-4, 0, 3), strict=True
            )
        ]
        for known in (1, 2):
            if certain_failures(results[:known], asked):
                surely += 1
                assert judged(*results[:known], asked=asked).verdict is FAILED
                assert judged(*results, asked=asked).verdict is FAILED
    assert surely > 30


@pytest.mark.parametrize(
    "result",
    [
        family(replace(LEAK, p_adjusted=0.004)),  # alpha is shared by three families
        family(replace(LEAK, p_adjusted=0.0), controls=(bad(PLANTED), NULL)),
        family(replace(LEAK, p_adjusted=0.0, blind=("too few records",))),
        family(replace(LEAK, p_adjusted=0.0, not_run="no trainer")),
    ],
    ids=("only without the others", "a control failed", "blind", "did not run"),
)
def test_who_may_still_get_another_verdict_has_not_surely_failed(result: FamilyResult) -> None:
    asked = a_policy(optional=(QUERIES, LIRA))
    assert certain_failures([result], asked) == {}
    assert certain_failures([family(replace(LEAK, p_adjusted=0.003))], asked) == {"v": INSTANCE}
