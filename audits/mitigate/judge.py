"""What a search asks of an audit: one model's bytes in, a leak figure and a verdict out.

The search knows no attack. It is given a judge, and this file holds the default: while it searches, the white-box inversion
of ``run`` on the candidate alone; to confirm, every test of the policy, on the candidate and on what the bundle's recipe makes
of it. The candidate is not compared with the original here: a fixed model replaces it, so the original's reconstructions are
not this model's leak (they are where both are in the field). Shadow models and twins are trained with ``trainer``, which
applies the candidate's own fix: the attacker knows what was done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from audits.compressor import Compressor
from audits.data import AuditData
from audits.evidence import Audit
from audits.policy import AskedTests, Policy
from audits.run import run_audit
from audits.targets import ORIGINAL, BundleTargets, Subject
from audits.trainer import Trainer
from audits.verdict import Verdict, worst
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


class PolicyJudge:
    """Audit runs (``audits.run``) under the policy of the audit that failed.

    Args:
        policy: of the audit that failed.
        input_range: of the model's input, as the bundle's contract states it.
        features: that the contract allows.
        compressor: makes of a candidate what the bundle's recipe makes; None: the candidate alone is confirmed.
        recipe: digest of that recipe.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        input_range: tuple[float, float] | None,
        features: tuple[str, ...] = (),
        compressor: Compressor | None = None,
        recipe: Digest | None = None,
    ) -> None:
        self._policy = policy
        self._input_range = input_range
        self._features = features
        self._compressor = compressor
        self._recipe = recipe

    @property
    def identity(self) -> str:
        """See ``Judge``."""
        parts = (self._policy.digest, cheaper(self._policy).digest, self._recipe, self._input_range, *self._features)
        return " ".join(["policy", *(str(part) for part in parts)])

    def __call__(self, model: bytes, *, data: AuditData, seed: int, trainer: Trainer | None, effort: Effort) -> Judged:
        """See ``Judge``.

        Raises:
            SealiftError: the training of a shadow, or the compression, failed.
        """
        confirms = effort is Effort.CONFIRM
        policy = self._policy if confirms else replace(cheaper(self._policy), tests=_JUDGED)
        compressor = self._compressor if confirms else None
        made = {} if compressor is None else compressor.compress(model, x=data.x, y=data.y)
        variants = tuple(Subject(name, packed, self._input_range, self._features) for name, packed in made.items())
        checked = check_model(model, features=self._features, where="candidate")
        audit = run_audit(
            BundleTargets(Digest.of(b""), "candidate", variants),
            Subject(ORIGINAL, checked, self._input_range, self._features),
            data,
            policy=replace(policy, seed=(policy.seed + seed) % _SEEDS),
            now=_NO_TIME,
            compressor=compressor,
            trainer=trainer if confirms else None,
        ).audit
        verdict = worst([item.verdict for item in audit.subjects])
        reasons = [
            reason if item.id == ORIGINAL else f"{item.id}: {reason}"
            for item in audit.subjects
            if item.verdict is verdict
            for reason in item.reasons
        ]
        p_values = [test.p_value for item in audit.subjects for test in item.ruling.tests]
        return Judged(verdict, _leak(audit), "mean gap in correlation", min(p_values, default=None), tuple(reasons))


def _leak(audit: Audit) -> float | None:
    """The largest mean gap of any attack on any of the models; None where none could be measured."""
    family = audit.family(_FAMILY)
    details = [] if family is None else [family.detail.get(item.id, {}) for item in audit.subjects]
    gaps = [test["estimate"] for detail in details for test in detail.get("tests", []) if test["statistic"] == "mean"]
    return max(gaps, default=None)


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
