"""A7 and A8: leaks that were planted on purpose are found, and models that leak nothing are left alone, by the ruling of a run.

    python -m benchmarks.audits --only fleet

Each case is one whole audit run, FP32 original and INT8 variant together, with its own controls, under the built-in alpha. A
planted leak counts for each of its models; it is found where the verdict is FAILED. A null control counts once; it is a false
alarm where any of its models FAILED. Verdicts that decide nothing (INCONCLUSIVE) are counted and shown: they find no leak, and
they are no alarm. Twenty minutes on one core.

A plant counts where it took: where its planter tells 85 % of the pairs apart (``audits_cases``, ``gauge``). What becomes of the
others is in the rows and beside the goal. Everything is seeded, and no seed was chosen for its result: the bound and the kinds were
settled on seeds below 200, of which 85 to 90 % of the fainter plants were found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from audits.policy import AskedTests, Policy, load_policy
from audits.run import run_audit
from audits.statistics import clopper_pearson
from audits.targets import ORIGINAL, BundleTargets, Subject
from audits.verdict import Verdict
from benchmarks.audits_cases import KINDS, Case, cases
from benchmarks.results_file import Goal
from device_client.bundle.digest import Digest
from device_client.inference.walker import check_model

TESTS = {"instance": "inversion.instance", "membership": "membership.threshold"}
"""What `fleet_policy` knows to ask of a run, by family: tests that need no training function."""
FAMILIES = ("instance",)
LEAST_PLANTED, LEAST_NULL, MOST_ALARMS = 50, 200, 0.01
LEAST_GAUGE = 0.85
_NOW = datetime(2026, 3, 1, tzinfo=UTC)  # a verdict's time, and nothing else

Judge = Callable[[Case, Policy], Mapping[str, Verdict]]


@dataclass(frozen=True)
class Judged:
    """One case with the verdict on each of its models."""

    kind: str
    planted: bool
    seed: int
    verdicts: Mapping[str, Verdict]
    seconds: float
    gauge: float | None = None

    @property
    def took(self) -> bool:
        """A leak that is one: its planter sees it, or put it into the weights."""
        return self.planted and (self.gauge is None or self.gauge >= LEAST_GAUGE)

    @property
    def found(self) -> int:
        """Models that FAILED."""
        return sum(verdict is Verdict.FAILED for verdict in self.verdicts.values())


def fleet_goals(*, families: Sequence[str] = FAMILIES) -> tuple[list[Goal], list[dict[str, Any]]]:
    """Goals and rows of A7 and A8."""
    judged = list(judge_all(cases(), families, judge=judge))
    return goals(judged), rows(judged)


def fleet_policy(families: Sequence[str], *, planted: bool) -> Policy:
    """The built-in policy with fewer controls of its own, which are most of a run's time.

    Null controls also have attacks a fifth as long, and as few relabellings as alpha allows: a false alarm is as likely, for the
    null distribution holds for whatever images there are. Planted leaks are attacked in full.

    Raises:
        ValueError: a family that runs do not have.
    """
    unknown = sorted(set(families) - set(TESTS))
    if unknown:
        raise ValueError(f"no such family of tests: {unknown[0]}")
    policy = load_policy()
    policy = replace(
        policy,
        tests=AskedTests(tuple(TESTS[family] for family in families), ()),
        decision=replace(policy.decision, bootstraps=200),
        controls=replace(policy.controls, planted_strengths=(0.5, 1.0), untrained_twins=1, relabellings=20),
    )
    if planted:
        return policy
    short = replace(policy.inversion, restarts=2, probability_steps=60, cross_entropy_steps=40)
    return replace(
        policy,
        decision=replace(policy.decision, permutations=999),
        inversion=short,
        controls=replace(policy.controls, planted_strengths=(0.5,)),
    )


def judge_all(some: Iterator[Case], families: Sequence[str], *, judge: Judge) -> Iterator[Judged]:
    """Every case under its own seed, so that no two share a draw of records or relabellings."""
    policies = {planted: fleet_policy(families, planted=planted) for planted in (True, False)}
    for number, case in enumerate(some):
        planted, began = KINDS[case.kind].planted, time.monotonic()
        verdicts = judge(case, replace(policies[planted], seed=number))
        yield Judged(case.kind, planted, case.seed, verdicts, time.monotonic() - began, case.gauge)


def judge(case: Case, policy: Policy) -> Mapping[str, Verdict]:
    """The verdicts of one audit run, by model."""
    subjects = [Subject(name, check_model(data, where=name), case.bounds) for name, data in case.models.items()]
    targets = BundleTargets(Digest.of(b"fleet"), "bench/fleet/1.0.0", tuple(item for item in subjects if not item.is_original))
    original = next(item for item in subjects if item.id == ORIGINAL)
    result = run_audit(targets, original, case.data, policy=policy, now=_NOW)
    return {item.id: item.verdict for item in result.audit.subjects}


def goals(judged: Sequence[Judged]) -> list[Goal]:
    """A7: share of planted leaks found. A8: share of null controls that raised an alarm, with the exact interval."""
    planted, faint = [item for item in judged if item.took], [item for item in judged if item.planted and not item.took]
    nulls = [item for item in judged if not item.planted]
    trials, found = _models(planted), sum(item.found for item in planted)
    alarms = sum(bool(item.found) for item in nulls)
    missed = sorted({item.kind for item in planted if item.found < len(item.verdicts)})
    what = f"planted leaks found, {found} of {trials}{_interval(found, trials)}"
    what += f"; of {_models(faint)} that did not take, {sum(item.found for item in faint)}"
    quiet = f"null controls that raised a false alarm, {alarms} of {len(nulls)}{_interval(alarms, len(nulls))}"
    return [
        _share("A7", what + (f"; missed: {', '.join(missed)}" if missed else ""), found, trials, ">=", 1.0, least=LEAST_PLANTED),
        _share("A8", quiet, alarms, len(nulls), "<=", MOST_ALARMS, least=LEAST_NULL),
    ]


def rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """By kind: how many models or runs, and what became of them."""
    made = []
    for kind, about in KINDS.items():
        own = [item for item in judged if item.kind == kind]
        verdicts = [verdict for item in own for verdict in item.verdicts.values()]
        told = {verdict.value: sum(one is verdict for one in verdicts) for verdict in Verdict}
        made.append(
            {
                "part": "A7" if about.planted else "A8",
                "kind": kind,
                "runs": len(own),
                "plants that took": sum(item.took for item in own),
                "gauges": ", ".join(f"{item.gauge:.2f}" for item in own if item.gauge is not None),
                "runs with FAILED": sum(bool(item.found) for item in own),
                **told,
                "s": round(sum(item.seconds for item in own), 1),
            }
        )
    return made


def _models(some: Sequence[Judged]) -> int:
    return sum(len(item.verdicts) for item in some)


def _share(identity: str, what: str, count: int, trials: int, op: str, goal: float, *, least: int) -> Goal:
    if trials < least:
        return Goal(identity, what, None, op, goal, "", f"{trials} of at least {least}")
    return Goal(identity, what, count / trials, op, goal, "")


def _interval(count: int, trials: int) -> str:
    if not trials:
        return ""
    low, high = clopper_pearson(count, trials)
    return f" (95 %: {low:.2%} to {high:.2%})"
