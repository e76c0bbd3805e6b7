"""From findings to a verdict, pure: the only place that decides, called by the run and again before anything is signed.

Each test of a model gets a result, and the worst of them is the verdict: FAILED, INCONCLUSIVE, WARNED, PASSED. For one test, in
this order: what makes it blind (a control of its family failed, a bridge that is another model, too few records), then a leak
that was found, then an attack that did not do its work, then doubts. PASSED is what is left, and its meaning is bounded by the
power that the planted controls measured. A test that nobody required and that is blind or undone warns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from audits.families import FAMILIES, QUERIES_ONLY, Access, access_of, excluded, known_tests
from audits.finding import FamilyResult, Finding, control_problems
from audits.policy import Policy

NO_GRADIENT = "none"


class Verdict(Enum):
    """A verdict on one model; a gate accepts PASSED, and WARNED only where it says so."""

    PASSED = "PASSED"
    WARNED = "WARNED"
    FAILED = "FAILED"
    INCONCLUSIVE = "INCONCLUSIVE"


_WORST_FIRST = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.WARNED, Verdict.PASSED)


@dataclass(frozen=True)
class ModelFacts:
    """What holds for one model whatever was tested.

    Attributes:
        gradient: ``exact``, ``straight_through`` (through rounding), or ``none`` where no attack had one.
        random_operators: operators of its graph that draw random numbers.
    """

    gradient: str = NO_GRADIENT
    random_operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestRuling:
    """The result of one test, with its p-value over all families and the reasons in plain words."""

    __test__ = False  # not for pytest

    test: str
    result: Verdict
    p_value: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class NotTested:
    """A test that did not run, and why."""

    test: str
    reason: str


@dataclass(frozen=True)
class Ruling:
    """A verdict with its reasons in plain words, the result of every test, and what was not tested."""

    verdict: Verdict
    reasons: tuple[str, ...]
    tests: tuple[TestRuling, ...]
    not_tested: tuple[NotTested, ...]


def worst(results: Sequence[Verdict]) -> Verdict:
    """What several results amount to; nothing tested is INCONCLUSIVE."""
    return min(results, key=_WORST_FIRST.index, default=Verdict.INCONCLUSIVE)


def gradient_of(subject: str, families: Sequence[FamilyResult]) -> str:
    """What attacks with gradients had on a model, by the details of the family that opened it; ``none`` if nobody did."""
    for family in families:
        access = family.detail.get(subject, {}).get("access")
        if isinstance(access, Mapping) and isinstance(access.get("gradient"), str):
            return str(access["gradient"])
    return NO_GRADIENT


def certain_failures(families: Sequence[FamilyResult], policy: Policy) -> dict[str, str]:
    """Models that FAILED whatever the families that are left would find, with the test that found the leak.

    A p-value that is at most alpha over the number of all families that the policy asks for stays below alpha under ``holm``,
    whichever of them run. So a run may stop once every model is in here, and its verdicts are what a whole run would give.
    """
    limit, certain = policy.strictest_alpha, dict[str, str]()
    for family in families:
        if control_problems(family.controls):
            continue
        for subject, findings in family.findings.items():
            for item in findings:
                if item.ran and not item.blind and item.p_adjusted <= limit:
                    certain.setdefault(subject, item.test)
    return certain


def rule(subject: str, facts: ModelFacts, families: Sequence[FamilyResult], policy: Policy) -> Ruling:
    """The verdict on one model.

    Args:
        subject: its id.
        facts: what holds for it whatever was tested.
        families: what every family found, also about other models.
        policy: everything that decides.
    """
    ran = {family.family: tuple(item for item in family.findings.get(subject, ()) if item.ran) for family in families}
    problems = {family.family: control_problems(family.controls) for family in families}
    p_values = holm(ran)
    found = {item.test: (family, item) for family, items in ran.items() for item in items}
    queries = QUERIES_ONLY in found and not (found[QUERIES_ONLY][1].blind or problems[found[QUERIES_ONLY][0]])
    tests: list[TestRuling] = []
    not_tested: list[NotTested] = []
    for test in _in_order([*known_tests(), *found]):
        if test in found:
            family, finding = found[test]
            blind = (*finding.blind, *problems[family])  # a model's own reason first: controls may be missing because of it
            tests.append(_rule_test(finding, p_values[test], blind, facts, policy, queries=queries))
        elif test in policy.tests.required:
            tests.append(
                TestRuling(test, Verdict.INCONCLUSIVE, 1.0, (f"did not run: {_why_not(test, subject, families, policy)}",))
            )
        else:
            not_tested.append(NotTested(test, _why_not(test, subject, families, policy)))
    verdict = worst([item.result for item in tests])
    reasons = [f"{item.test}: {reason}" for item in tests if item.result is verdict for reason in item.reasons]
    return Ruling(verdict, tuple(reasons) or ("nothing was tested",), tuple(tests), tuple(not_tested))


def holm(families: Mapping[str, Sequence[Finding]]) -> dict[str, float]:
    """P-values of one model's tests over all families, by test.

    A family's own ``p_adjusted`` counts all its tests and models already. Families are ordered by their smallest one and
    multiplied by how many are left (Holm 1979). So the chance that a model which leaks nothing fails is at most alpha: for that
    the first step decides, and it is Bonferroni's.
    """
    groups = sorted((min(item.p_adjusted for item in items), name) for name, items in families.items() if items)
    result: dict[str, float] = {}
    reached = 0.0
    for rank, (smallest, name) in enumerate(groups):
        left = len(groups) - rank
        for item in families[name]:
            result[item.test] = min(1.0, max(reached, left * item.p_adjusted))
        reached = min(1.0, max(reached, left * smallest))
    return result


def _rule_test(
    finding: Finding, p_value: float, blind: tuple[str, ...], facts: ModelFacts, policy: Policy, *, queries: bool
) -> TestRuling:
    """One test that ran."""
    alpha = policy.decision.alpha
    required = finding.test in policy.tests.required

    def ruled(result: Verdict, *reasons: str) -> TestRuling:
        return TestRuling(finding.test, result, p_value, reasons)

    if blind and queries and facts.gradient == NO_GRADIENT and access_of(finding.test) is Access.FILE:
        return ruled(Verdict.WARNED, f"no gradient, judged by {QUERIES_ONLY} instead", *blind)
    if blind:
        return ruled(Verdict.INCONCLUSIVE if required else Verdict.WARNED, *blind)
    if p_value <= alpha:
        return ruled(Verdict.FAILED, _leak(finding, p_value))
    if finding.undone:
        return ruled(Verdict.INCONCLUSIVE if required else Verdict.WARNED, *finding.undone)
    doubts = [*finding.doubts, *_doubts(finding, alpha)]
    if facts.random_operators:
        doubts.append(f"the graph draws random numbers ({', '.join(facts.random_operators)})")
    if doubts:
        return ruled(Verdict.WARNED, *doubts)
    return ruled(Verdict.PASSED, f"no leak found (adjusted p = {p_value:.2g})")


def _doubts(finding: Finding, alpha: float) -> list[str]:
    doubts = []
    if finding.p_value <= alpha:
        doubts.append(f"a leak shows in this test alone (p = {finding.p_value:.2g}) and not over the whole run")
    if finding.tolerated is not None and (finding.interval is None or finding.interval[1] > finding.tolerated):
        upper = "unknown" if finding.interval is None else f"{finding.interval[1]:.3g}"
        doubts.append(f"too few records to say that {finding.statistic} is at most {finding.tolerated:g} (it may be {upper})")
    return doubts


def _leak(finding: Finding, p_value: float) -> str:
    if finding.tolerated is None:
        return f"training records leak beyond held-out ones (adjusted p = {p_value:.2g})"
    return f"{finding.statistic} is above the tolerated {finding.tolerated:g} (adjusted p = {p_value:.2g})"


def _why_not(test: str, subject: str, families: Sequence[FamilyResult], policy: Policy) -> str:
    """Why a test has no result."""
    said = [item.not_run for family in families for item in family.findings.get(subject, ()) if item.test == test and item.not_run]
    if said:
        return said[0]
    if test not in policy.tests:
        return "the policy does not ask for it"
    reason = excluded(test, threat_model=policy.threat_model)
    if reason is not None:
        return reason
    owner = next((family.name for family in FAMILIES if test in {kind.id for kind in family.tests}), "no family")
    return f"{owner} gave no result for this model"


def _in_order(names: Sequence[str]) -> list[str]:
    """Each name once, the first place counts."""
    return list(dict.fromkeys(names))
