"""From findings to a verdict, pure: the only place that decides, called by the run and again before anything is signed.

Order: what makes the audit blind comes first (controls, parity, unreadable model, too few records): INCONCLUSIVE. Then a
leak that was found: FAILED. Then an attack that did not do its work: INCONCLUSIVE. Then doubts: WARNED. PASSED is what is
left, and its meaning is bounded by the power that the planted controls measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from audits.policy import Policy


class Verdict(Enum):
    """A verdict on one model; a gate accepts PASSED, and WARNED only where it says so."""

    PASSED = "PASSED"
    WARNED = "WARNED"
    FAILED = "FAILED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class RunFindings:
    """What holds for all subjects of a run.

    Attributes:
        thin_classes: classes with too few records.
        smallest_caught: the smallest planted strength that was caught, with all stronger ones; None if not even the strongest.
        compressed_missed: compressed planted leaks that were not caught.
        null_alarms: names of null controls that raised an alarm.
        relabelling_alarms: fresh relabellings that raised an alarm.
        relabelling_limit: the most that chance explains.
    """

    thin_classes: int
    smallest_caught: float | None
    compressed_missed: tuple[str, ...]
    null_alarms: tuple[str, ...]
    relabelling_alarms: int
    relabelling_limit: int


@dataclass(frozen=True)
class SubjectFindings:
    """What was found about one model.

    Attributes:
        blocked: why it could not be attacked at all, or None.
        parity_holds: the bridge is the model.
        converged_share: classes on which at least one attack converged.
        transfer_tested: the original's images were scored too; true for the original itself.
        p_value: of this subject, all its attacks and statistics together.
        p_adjusted: the same, for all subjects of the run together.
        delta_lower: lower end of the interval of the leak beyond the original's; None for the original.
    """

    blocked: str | None
    parity_holds: bool
    converged_share: float
    transfer_tested: bool
    p_value: float
    p_adjusted: float
    delta_lower: float | None


@dataclass(frozen=True)
class Ruling:
    """A verdict with its reasons in plain words."""

    verdict: Verdict
    reasons: tuple[str, ...]


def control_problems(run: RunFindings, policy: Policy) -> tuple[str, ...]:
    """Why this run's controls do not support any verdict; empty when they do."""
    problems = []
    if run.thin_classes:
        minimum = policy.decision.min_records_per_class
        problems.append(f"{run.thin_classes} classes have fewer than {minimum} members or held-outs")
    if run.smallest_caught is None or run.smallest_caught > policy.controls.planted_required:
        problems.append(f"a planted leak of strength {policy.controls.planted_required:g} was not caught")
    problems += [f"the compressed planted leak {name} was not caught" for name in run.compressed_missed]
    problems += [f"the null control {name} raised an alarm" for name in run.null_alarms]
    if run.relabelling_alarms > run.relabelling_limit:
        problems.append(f"{run.relabelling_alarms} relabelled memberships raised an alarm, chance explains {run.relabelling_limit}")
    return tuple(problems)


def rule(subject: SubjectFindings, run: RunFindings, policy: Policy) -> Ruling:
    """The verdict on one subject."""
    alpha = policy.decision.alpha
    blind = list(control_problems(run, policy))
    if subject.blocked is not None:
        blind.append(subject.blocked)
    elif not subject.parity_holds:
        blind.append("the bridge does not reproduce the runtime")
    if blind:
        return Ruling(Verdict.INCONCLUSIVE, tuple(blind))
    if subject.p_adjusted <= alpha:
        return Ruling(Verdict.FAILED, (f"training records leak beyond held-out ones (adjusted p = {subject.p_adjusted:.2g})",))
    undone = []
    if subject.converged_share < policy.inversion.min_converged_share:
        undone.append(f"attacks converged on {subject.converged_share:.0%} of the classes only")
    if not subject.transfer_tested:
        undone.append("the original's reconstructions could not be tried")
    if undone:
        return Ruling(Verdict.INCONCLUSIVE, tuple(undone))
    doubts = []
    if subject.p_value <= alpha:
        doubts.append(f"a leak shows for this model alone (p = {subject.p_value:.2g}) and not over all models of the run")
    if subject.delta_lower is not None and subject.delta_lower > policy.decision.delta_warning:
        doubts.append(f"compression raises the gap by at least {subject.delta_lower:.3f}")
    if doubts:
        return Ruling(Verdict.WARNED, tuple(doubts))
    return Ruling(Verdict.PASSED, (f"no leak of training records beyond held-out ones (adjusted p = {subject.p_adjusted:.2g})",))
