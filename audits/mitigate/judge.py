"""What a search asks of an audit: one model's bytes in, a leak figure and a verdict out.

The search knows no attack. It is given a judge, and this file holds the default: the white-box inversion of ``run``, on the
candidate alone. The candidate is not compared with the original here: a fixed model replaces it, so the original's
reconstructions are not this model's leak (they are where both are in the field, and for a compressed variant, whose audit
tries them). A judge that needs shadow models trains them with ``trainer``, which applies the candidate's own fix: the
attacker knows what was done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from audits.data import AuditData
from audits.policy import AskedTests, Policy
from audits.run import run_audit
from audits.targets import ORIGINAL, BundleTargets, Subject
from audits.trainer import Trainer
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.inference.walker import check_model

_SEEDS = 2**31
_FAMILY, _TEST = "instance", "inversion.instance"
_JUDGED = AskedTests(required=(_TEST,), optional=())
_NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # a trial is no audit that anybody may sign


class Effort(Enum):
    """How much one judgement may cost."""

    SEARCH = "search"
    CONFIRM = "confirm"


@dataclass(frozen=True)
class Judged:
    """One judgement.

    Attributes:
        verdict: by the judge's own rule.
        leak: how much leaks, higher is worse, in units of ``unit``; None where nothing could be measured.
        unit: what ``leak`` is, in plain words; the same for all judgements of one judge.
        p_value: behind the verdict, or None.
        reasons: of the verdict.
    """

    verdict: Verdict
    leak: float | None
    unit: str
    p_value: float | None
    reasons: tuple[str, ...]


class Judge(Protocol):
    """Attacks one model and rules."""

    @property
    def identity(self) -> str:
        """Changes when a judgement would: policy, suite, options."""

    def __call__(self, model: bytes, *, data: AuditData, seed: int, trainer: Trainer | None, effort: Effort) -> Judged:
        """Judges a model.

        Args:
            model: ONNX bytes.
            data: who was in this model's training, and who was not.
            seed: of everything random in the audit.
            trainer: trains shadow models and twins with the fix under trial; None where there is no entry point.
            effort: what it may cost.
        """


class InversionJudge:
    """White-box inversion (``audits.run``) of the candidate alone.

    Args:
        policy: of the audit that failed.
        input_range: of the model's input, as the bundle's contract states it.
        features: that the contract allows.
    """

    def __init__(self, policy: Policy, *, input_range: tuple[float, float] | None, features: tuple[str, ...] = ()) -> None:
        self._policy = policy
        self._input_range = input_range
        self._features = features

    @property
    def identity(self) -> str:
        """See ``Judge``."""
        return f"inversion {self._policy.digest} {cheaper(self._policy).digest} {self._input_range} {' '.join(self._features)}"

    def __call__(self, model: bytes, *, data: AuditData, seed: int, trainer: Trainer | None, effort: Effort) -> Judged:
        """See ``Judge``; white-box attacks are fitted to the candidate itself, so ``trainer`` is not needed."""
        del trainer
        checked = check_model(model, features=self._features, where="candidate")
        subject = Subject(ORIGINAL, checked, self._input_range, self._features)
        policy = self._policy if effort is Effort.CONFIRM else cheaper(self._policy)
        policy = replace(policy, seed=(policy.seed + seed) % _SEEDS)
        nothing = BundleTargets(Digest.of(b""), "candidate", ())
        audit = run_audit(nothing, subject, data, policy=replace(policy, tests=_JUDGED), now=_NO_TIME).audit
        (found,), family, finding = audit.subjects, audit.family(_FAMILY), audit.finding(ORIGINAL, _TEST)
        tests = [] if family is None else family.detail[ORIGINAL]["tests"]
        gaps = [test["estimate"] for test in tests if test["statistic"] == "mean"]
        p_value = None if finding is None else finding.p_value
        return Judged(found.verdict, max(gaps, default=None), "mean gap in correlation", p_value, found.reasons)


def cheaper(policy: Policy) -> Policy:
    """The same attacks at a fraction of the cost: fewer relabellings, the least controls.

    Restarts are not saved on: with two of them the required planted leak of four records per class is missed now and then, and
    a search that cannot judge drops good fixes.
    """
    decision, controls = policy.decision, policy.controls
    permutations = min(decision.permutations, max(99, math.ceil(10 / decision.alpha) - 1))
    strengths = tuple(sorted({controls.planted_required or controls.planted_strengths[-1], controls.planted_strengths[-1]}))
    return replace(
        policy,
        decision=replace(decision, permutations=permutations, bootstraps=200),
        controls=replace(controls, planted_strengths=strengths, untrained_twins=1, relabellings=min(100, controls.relabellings)),
    )
