"""What a family of tests found: plain values between the attacks, which know models, and the ruling, which knows none.

A *test* asks one question of one model ("inversion.instance", "membership.lira"). A *family* is the tests that share attacks,
controls and a null distribution. The ruling (``verdict``) sees findings and controls alone, so that it can be made again from
``audit.json``; what a family wants to show beyond that goes into ``detail``, which decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What one test found about one model.

    Attributes:
        test: its id: the family's name, a dot, the test's own name.
        p_value: of the hypothesis that this model leaks no more than ``tolerated`` (or nothing, where that is None); 1.0 where
            the test did not run.
        p_adjusted: the same for all models and attacks of the run together, within the family.
        statistic: what ``estimate`` is of, such as ``tpr_at_fpr_0.01`` or ``mean_gap``.
        estimate, interval: its value and two-sided interval; None where it could not be computed.
        tolerated: the policy's bound on the statistic; None where the null distribution alone decides.
        threshold: value of the statistic at which the null distribution alone would fail the model; shown, decides nothing.
        blind: why this test says nothing about this model, whichever way it came out.
        undone: why finding no leak would say nothing; a leak that was found counts all the same.
        doubts: why it can at most be WARNED.
        not_run: why it did not run, or None.
    """

    test: str
    p_value: float
    p_adjusted: float
    statistic: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    tolerated: float | None = None
    blind: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    not_run: str | None = None
    threshold: float | None = None

    @property
    def ran(self) -> bool:
        """True if the test was made, whatever it is worth."""
        return self.not_run is None


@dataclass(frozen=True)
class Control:
    """One control of a family, judged by the rule that the models are judged by.

    Attributes:
        name: unique within the family.
        planted: whether it holds a leak that must be caught; otherwise it must stay quiet.
        held: it behaved.
        required: whether the family counts for nothing if it did not hold.
        strength: of a planted leak, in units of the family, also of its compressed twin; None for null controls.
        told: what happened, in plain words.
    """

    name: str
    planted: bool
    held: bool
    required: bool
    strength: float | None
    told: str


@dataclass(frozen=True)
class FamilyResult:
    """Everything that one family gives to a run.

    Attributes:
        family: its name.
        findings: by subject id, one entry for each test of the family, also for those that did not run.
        controls: in the order they ran.
        power: the smallest planted leak that was caught together with all larger ones; None if none was (``power_of``).
        power_unit: what ``power`` is measured in, in plain words.
        detail: by subject id, JSON values for the page.
        shared: JSON values about the family as a whole.
        images: float32 images of the model's input space, by subject id and name of the attack; private, never written to
            ``audit.json``.
        records: float32 records of the data that ``detail`` names, by that name; as private.
    """

    family: str
    findings: Mapping[str, tuple[Finding, ...]]
    controls: tuple[Control, ...]
    power: float | None
    power_unit: str
    detail: Mapping[str, dict[str, Any]]
    shared: dict[str, Any]
    images: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)


def control_problems(controls: tuple[Control, ...]) -> tuple[str, ...]:
    """Why these controls support no verdict; empty where all required ones held, and both kinds were required."""
    problems = [control.told for control in controls if control.required and not control.held]
    kinds = {control.planted for control in controls if control.required}
    if True not in kinds:
        problems.append("no planted leak had to be caught")
    if False not in kinds:
        problems.append("no null control had to stay quiet")
    return tuple(problems)


def power_of(controls: tuple[Control, ...]) -> float | None:
    """The smallest planted strength from which on every planted leak was caught; None if the largest was missed.

    Of those tests of a family that had to catch one, the weakest counts: what a test misses that decides nothing says nothing about
    the others. Where none had to, all count. The test is the first part of a control's name.
    """
    planted = [control for control in controls if control.strength is not None]
    kinds = {_kind(control) for control in planted if control.required} or {_kind(control) for control in planted}
    powers = [_smallest_caught([control for control in planted if _kind(control) == kind]) for kind in kinds]
    found = [power for power in powers if power is not None]
    return max(found) if found and len(found) == len(powers) else None


def _smallest_caught(controls: list[Control]) -> float | None:
    smallest = None
    for strength in sorted({control.strength for control in controls if control.strength is not None}, reverse=True):
        if not all(control.held for control in controls if control.strength == strength):
            break
        smallest = strength
    return smallest


def _kind(control: Control) -> str:
    return control.name.partition(":")[0]
