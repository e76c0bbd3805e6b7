"""What a fix costs in accuracy, against the original on the same held-out records, with an interval.

Held-outs trained neither model (records set aside for a student are left out for all). Pure but for ``right_answers``, which
asks the runtime one record at a time, as a device would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audits.bridge.graph import BridgeError
from audits.class_scores import score_rows, told_briefly
from audits.data import Bools, Floats, Integers
from audits.statistics import percentile_interval
from device_client.errors import UsageError
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel


@dataclass(frozen=True)
class Loss:
    """Accuracy of the original minus accuracy of a candidate; negative where the candidate is better.

    Attributes:
        estimate: mean over records and trainings.
        interval: two-sided, by bootstrap over records.
    """

    estimate: float
    interval: tuple[float, float]

    def surely_above(self, budget: float) -> bool:
        """True if chance in the choice of records does not explain a loss above the budget."""
        return self.interval[0] > budget

    def surely_within(self, budget: float) -> bool:
        """True if the whole interval is within the budget; few held-outs rarely show it."""
        return self.interval[1] <= budget


def class_scores(model: CheckedModel, x: Floats) -> Floats:
    """Raw scores, (N, C), each record alone through the runtime.

    Raises:
        UsageError: the model has not one input and one row of scores (``fix_scores``).
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _no_scores(model, f"{len(model.inputs)} inputs, {len(model.outputs)} outputs")
    given, result = model.inputs[0].name, model.outputs[0].name
    with open_session(model, threads=1) as session:
        rows = [session.run({given: np.ascontiguousarray(x[index : index + 1])})[result] for index in range(len(x))]
    try:
        return score_rows(rows, where=result).astype(np.float32)
    except BridgeError as e:
        raise _no_scores(model, told_briefly(e)) from e


def right_answers(model: CheckedModel, x: Floats, y: Integers) -> Bools:
    """Whether the highest score is the label's, (N,)."""
    right: Bools = class_scores(model, x).argmax(axis=1) == y
    return right


def accuracy_loss(original: Bools, candidates: Sequence[Bools], *, confidence: float, bootstraps: int, seed: int) -> Loss:
    """The loss of a fix over its trainings.

    Records are resampled and not trainings: all models answered the same records, and three trainings say little about
    the spread of trainings. The interval does not cover that spread.

    Args:
        original: right answers of the original, (N,).
        candidates: the same of each training with the fix, at least one.
        confidence: of the interval.
        bootstraps: resamples.
        seed: of the resamples.
    """
    difference = original.astype(np.float64) - np.mean([item.astype(np.float64) for item in candidates], axis=0)
    rng = np.random.default_rng([seed, 12])
    samples = np.array([difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(bootstraps)])
    return Loss(float(difference.mean()), percentile_interval(samples, confidence=confidence))


def _no_scores(model: CheckedModel, actual: str) -> UsageError:
    return UsageError(
        "the model does not give one row of class scores",
        code="fix_scores",
        where=str(model.digest),
        actual=actual,
        hint="mitigation works on classifiers with one input",
    )
