"""The real laboratory of a search: makes a model, judges it in every view of the records, keeps what is finished."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np

from audits.data import AuditData, Bools
from audits.mitigate.accuracy import right_answers
from audits.mitigate.fixes import Fix
from audits.mitigate.judge import Effort, Judge, Judged
from audits.mitigate.trials import Trial, TrialFolder, trial_key
from audits.mitigate.workshop import Workshop
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.inference.walker import CheckedModel, check_model

SUITE = "sealift-mitigation/1"
_SEVERITY = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.WARNED, Verdict.PASSED)


class Laboratory:
    """``search.Lab`` over a workshop and a judge.

    Args:
        workshop: makes the models.
        judge: attacks them.
        features: that the bundle's contract allows; a candidate needs no others.
        folder: of finished trials.
    """

    def __init__(self, workshop: Workshop, judge: Judge, *, features: tuple[str, ...], folder: TrialFolder) -> None:
        self._workshop = workshop
        self._judge = judge
        self._features = features
        self._folder = folder
        data = workshop.records.data
        self._heldouts = ~data.member
        self.original_right: Bools = self._right(workshop.original)[self._heldouts]

    def trial(self, fix: Fix, *, training_seed: int, audit_seed: int, effort: Effort) -> Trial:
        """See ``search.Lab``.

        Raises:
            SealiftError: the training failed, or the walker refuses what it gave.
        """
        key = trial_key({**self._inputs(), **fix.to_json(), "seeds": [training_seed, audit_seed], "effort": effort.value})
        kept = self._folder.get(key)
        if kept is not None:
            return kept
        model = self._workshop.make(fix, seed=training_seed)
        right = self._right(check_model(model, features=self._features, where=fix.label))
        views = self._workshop.records.views(fix)
        judged = _worst(
            [
                self._judge(model, data=view, seed=audit_seed, trainer=self._workshop.twins(fix, exposed=index), effort=effort)
                for index, view in enumerate(views)
            ]
        )
        trial = Trial(judged, float(right[~self._heldouts].mean()), right[self._heldouts], model)
        self._folder.put(key, trial)
        return trial

    def _right(self, model: CheckedModel) -> Bools:
        data: AuditData = self._workshop.records.data
        return right_answers(model, data.x, data.y)

    def _inputs(self) -> Mapping[str, object]:
        records, trainer = self._workshop.records, self._workshop.trainer
        aside = None if records.aside is None else str(Digest.of(np.ascontiguousarray(records.aside).tobytes()))
        return {
            "suite": SUITE,
            "original": str(self._workshop.original.digest),
            "data": str(records.data.digest),
            "aside": [aside, records.private],
            "judge": self._judge.identity,
            "trainer": None if trainer is None else trainer.identity,
            "versions": {name: version(name) for name in ("torch", "onnxruntime", "numpy")},
        }


def _worst(found: list[Judged]) -> Judged:
    """The most severe verdict with the largest leak; two views tested are two chances to fail, which is on the safe side."""
    worst = min(found, key=lambda item: _SEVERITY.index(item.verdict))
    leaks = [item.leak for item in found]
    leak = None if any(value is None for value in leaks) else max(value for value in leaks if value is not None)
    p_values = [item.p_value for item in found if item.p_value is not None]
    reasons = tuple(reason for item in found if item.verdict is worst.verdict for reason in item.reasons)
    return Judged(worst.verdict, leak, worst.unit, min(p_values, default=None), reasons)
