"""Judges variants against the original on the same rows, through the device's own runtime, at the bytes that ship.

    reference = run_rows(original, test)
    judge = make_judge(reference, test, task="auto", seed=0, where="data.npz")
    judge.estimate()                                                    # the original's own figure
    judge.evaluate(run_rows(variant, test), allowed_drop=0.005)         # figure, paired drop, verdict
    judge.point(outputs)                                                # the drop alone, for a search

Which metric follows from the task and the data is decided in ``tasks/choose.py``; the report always names the metric and what
its drop is in. Cost of an evaluation: one pass over the outputs and one over the resamples, which are drawn once per judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from device_client.errors import UsageError
from packager.budget import BudgetResult, judge_drop
from packager.data import Dataset
from packager.intervals import Measured, drop_interval, figure_interval, measure, samples_needed
from packager.metrics import Estimate
from packager.resampling import Resampler
from packager.row_runner import BATCH_ROWS, run_rows
from packager.tasks.choose import choose
from packager.tasks.metric import Metric, Outputs
from packager.tasks.ranking import Ranking

__all__ = ["BATCH_ROWS", "Evaluation", "Judge", "make_judge", "refuse_infinite", "run_rows"]

_RESAMPLING_STREAM = 0x5EA1  # so that intervals do not reuse the numbers of the split


@dataclass(frozen=True)
class Evaluation:
    """One variant's figures. ``drop`` is the loss against the original, paired by row, in ``unit``."""

    metric: str
    estimate: Estimate
    drop: Estimate
    budget: BudgetResult
    unit: str = "points"

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "metric": self.metric,
            "how": "measured",
            "test": self.estimate.to_json(),
            "drop": {**self.drop.to_json(), "unit": self.unit},
            "budget": self.budget.to_json(),
        }


@dataclass(frozen=True)
class Judge:
    """The original's outputs on some rows, and the metric that variants are judged by."""

    metric: Metric
    task: str
    test: Dataset
    reference: Outputs
    original: Measured
    resampler: Resampler

    def estimate(self) -> Estimate:
        """The original's own figure."""
        if self.metric.to_original:
            return Estimate(1.0, 1.0, 1.0, len(self.test), "by definition: it is what variants are compared with")
        return figure_interval(self.metric.statistic, self.original, self.resampler)

    def point(self, outputs: Outputs) -> float:
        """The drop without an interval: what a search compares. 1.0, or more, for outputs that are broken."""
        if self._flaw(outputs) is not None:
            return 1.0
        if self._is_same(outputs):
            return 0.0
        return float(self.metric.loss(self.original.value, self.metric.statistic.value(self.metric.score(outputs))))

    def evaluate(self, outputs: Outputs, *, allowed_drop: float) -> Evaluation:
        """Scores a variant's outputs on the same rows.

        Outputs of another shape, not numbers, or infinite where the original's are not, are the worst there can be: a drop of
        1.0 and a verdict of missed, whatever the metric would make of the other rows.
        """
        metric, rows = self.metric, len(self.test)
        flaw = self._flaw(outputs)
        if flaw is not None:
            lost = Estimate(1.0, 1.0, 1.0, rows, flaw)
            none = self.original.value if not metric.higher_is_better else 0.0
            return self._evaluation(Estimate(none, none, none, rows, flaw), lost, allowed_drop=allowed_drop, needed=None)
        if self._is_same(outputs):
            same = Estimate(0.0, 0.0, 0.0, rows, "outputs identical to the original's")
            return self._evaluation(self.estimate(), same, allowed_drop=allowed_drop, needed=None)
        variant = measure(metric.statistic, metric.score(outputs), self.resampler)
        drop = drop_interval(metric, self.original, variant, self.resampler)
        needed = samples_needed(metric, self.original, variant, drop, self.resampler, allowed_drop=allowed_drop)
        estimate = figure_interval(metric.statistic, variant, self.resampler)
        return self._evaluation(estimate, drop, allowed_drop=allowed_drop, needed=needed)

    def _evaluation(self, estimate: Estimate, drop: Estimate, *, allowed_drop: float, needed: int | None) -> Evaluation:
        verdict = judge_drop(drop, allowed_drop=allowed_drop, samples_needed=needed)
        return Evaluation(self.metric.name, estimate, drop, verdict, self.metric.unit.value)

    def _is_same(self, outputs: Outputs) -> bool:
        return all(name in outputs and np.array_equal(outputs[name], array) for name, array in self.reference.items())

    def _flaw(self, outputs: Outputs) -> str | None:
        """What makes outputs unfit for any metric, or ``None``."""
        for name in self.metric.outputs:
            wanted = self.reference[name]
            found = outputs.get(name)
            if found is None or found.shape != wanted.shape:
                return f"output {name} is missing or has another shape"
            if found.dtype.kind == "f" and bool((~np.isfinite(found) & (np.isnan(found) | np.isfinite(wanted))).any()):
                return f"output {name} is not finite on some row"
        return None


def make_judge(
    reference: Outputs, test: Dataset, *, task: str, seed: int, where: str, metric: str = "auto", output: str = ""
) -> Judge:
    """Chooses the metric and scores the original.

    Args:
        reference: the original's outputs on ``test``.
        test: the rows to judge on.
        task: one of ``TASKS``; ``auto`` follows from labels and outputs.
        seed: of the resampling.
        where: the data's name, for errors.
        metric: one of the task's metrics, or ``auto``.
        output: which output counts; empty: the first that fits.

    Raises:
        UsageError: labels, outputs or metric do not fit the task, or the original is no better than chance at ranking.
    """
    choice = choose(reference, test, task=task, metric=metric, output=output, where=where)
    resampler = Resampler(len(test), groups=test.groups, seed=[seed, _RESAMPLING_STREAM])
    original = measure(choice.metric.statistic, choice.metric.score(reference), resampler)
    judge = Judge(choice.metric, choice.task, test, reference, original, resampler)
    _refuse_reversed(judge, where=where)
    return judge


def refuse_infinite(reference: Outputs, *, where: str) -> None:
    """A device takes an infinite output for a broken model and goes back to the one before.

    Raises:
        UsageError: the original gives some.
    """
    for name, array in reference.items():
        flags = np.isinf(array) if array.dtype.kind == "f" else np.zeros(1, dtype=np.bool_)
        if flags.any():
            raise UsageError(
                f"the original model's output '{name}' is infinite on {int(flags.reshape(len(flags), -1).any(axis=1).sum())} rows",
                code="model_output_value",
                where=where,
                expected="finite numbers: a device takes others for a broken model",
                hint="use a large finite number, such as -1e4, for what a mask rules out; else check the model and DATA",
            )


def _refuse_reversed(judge: Judge, *, where: str) -> None:
    """A score that ranks the wrong way round would call every ruined variant an improvement."""
    statistic, scores = judge.metric.statistic, judge.original.scores
    if not isinstance(statistic, Ranking):
        return
    area = Ranking(statistic.positive, precision=False).value(scores)
    if area < 0.5:
        raise UsageError(
            "the scores rank rows of class 0 above those of class 1",
            code="task_reversed",
            where=where,
            expected="higher scores for y = 1; an area under the ROC curve of at least 0.5",
            actual=f"{area:.4f}",
            hint="swap 0 and 1 in y, or give a model that is better than chance",
        )
