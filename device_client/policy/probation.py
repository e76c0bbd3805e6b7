"""Probation: a new bundle runs, is watched, and is committed only when it was *observed* to be good. Otherwise it goes back.

What was counted comes in as an ``Observation``, the owner's wishes as ``ProbationRules``; the answer is one of three. Time is the
boot clock's, added up over restarts, so that no wall clock shortens or stretches it. Pure.

    verdict = judge_probation(observation, policy.probation)
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from device_client.bundle.fields import Fields
from device_client.errors import FormatError

PROBATION_KEYS = ("minutes", "min_runs", "max_hours", "max_failures", "max_crashes", "max_boots")


@dataclass(frozen=True)
class ProbationRules:
    """What a new bundle must show.

    Attributes:
        minutes: how long it must have run without a fault; 0 commits at once, after the self-test alone.
        min_runs: how many inferences it must have answered.
        max_hours: how long it may take to get there; beyond it the bundle was not observed good.
        max_failures: runs that the runtime failed on; one more rolls back.
        max_crashes: ends of the process that runs it; one more rolls back.
        max_boots: starts of the machine while on probation; one more rolls back, since a model may be what crashes the machine.
    """

    minutes: int = 10
    min_runs: int = 0
    max_hours: int = 72
    max_failures: int = 0
    max_crashes: int = 2
    max_boots: int = 3


@dataclass(frozen=True)
class Observation:
    """What was counted since the bundle became active. ``elapsed_s`` is time that the machine was up, in seconds."""

    elapsed_s: float = 0.0
    boots: int = 0
    runs: int = 0
    failures: int = 0
    non_finite: int = 0
    crashes: int = 0
    votes_good: int = 0
    votes_bad: int = 0


class Verdict(enum.StrEnum):
    """What becomes of a bundle on probation."""

    WAIT = "wait"
    COMMIT = "commit"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Judgement:
    """The answer; of a roll-back also why: ``code`` is a stable reason, ``measured`` and ``allowed`` are texts for people."""

    verdict: Verdict
    code: str | None = None
    measured: str = ""
    allowed: str = ""


def judge_probation(seen: Observation, rules: ProbationRules) -> Judgement:
    """What becomes of the bundle.

    The rules, the first that holds:
        1. Somebody who may vote said that it is bad.
        2. It gave a number that is none (NaN or infinite).
        3. The runtime failed on it more often than allowed.
        4. The process that runs it ended more often than allowed.
        5. The machine started more often than allowed.
        6. It was up long enough and ran often enough: committed.
        7. It has had its time and did not run often enough: not observed good.
    """
    faults = (
        ("probation_vote", seen.votes_bad, 0, "votes against it"),  # 1
        ("probation_non_finite", seen.non_finite, 0, "outputs with NaN or infinity"),  # 2
        ("probation_failures", seen.failures, rules.max_failures, "failed runs"),  # 3
        ("probation_crashes", seen.crashes, rules.max_crashes, "crashes"),  # 4
        ("probation_boots", seen.boots, rules.max_boots, "starts of the machine"),  # 5
    )
    for code, count, allowed, what in faults:
        if count > allowed:
            return Judgement(Verdict.ROLL_BACK, code, f"{count} {what}", f"at most {allowed}")
    if seen.elapsed_s >= rules.minutes * 60 and seen.runs >= rules.min_runs:  # 6
        return Judgement(Verdict.COMMIT)
    if seen.elapsed_s >= rules.max_hours * 3600:  # 7
        measured = f"{seen.runs} runs in {seen.elapsed_s / 3600:.1f} hours"
        return Judgement(Verdict.ROLL_BACK, "probation_unobserved", measured, f"at least {rules.min_runs} runs")
    return Judgement(Verdict.WAIT)


def read_probation(fields: Fields) -> ProbationRules:
    """The table ``[probation]`` of ``policy.toml``; a key that is left out has its default.

    Raises:
        FormatError: a value outside its range, or a time that cannot be reached.
    """
    default = ProbationRules()
    bounds = {
        "minutes": (0, 7 * 24 * 60),
        "min_runs": (0, 1_000_000),
        "max_hours": (1, 60 * 24),
        "max_failures": (0, 1_000_000),
        "max_crashes": (0, 1000),
        "max_boots": (0, 1000),
    }
    given = {key: fields.integer(key, minimum=low, maximum=high) for key, (low, high) in bounds.items() if key in fields}
    rules = replace(default, **given)
    if "max_hours" not in given:
        rules = replace(rules, max_hours=max(rules.max_hours, -(-rules.minutes // 60)))
    if rules.minutes > rules.max_hours * 60:
        raise FormatError(
            "probation would end before it could be passed",
            code="field_value",
            where=f"{fields.where}.max_hours",
            expected=f"at least {-(-rules.minutes // 60)}",
            actual=rules.max_hours,
        )
    return rules
