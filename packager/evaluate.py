"""Judges each variant against the original on the test part, through the device's own runtime, at the bytes that ship.

Which metric follows from the task and the data: ``accuracy`` (labels), ``agreement`` (top-1 equals the original's),
``r2`` (targets), ``fidelity`` (share of the original's output variance reproduced). The last one serves where nothing
better is known; the report always names the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import UsageError
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel
from packager.budget import BudgetResult, judge_drop
from packager.data import Dataset
from packager.metrics import Estimate, Scores, correct_scores, drop_interval, fit_scores, mean_interval, samples_needed

BATCH_ROWS = 128
_RESAMPLING_STREAM = 0x5EA1  # so that intervals do not reuse the numbers of the split

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Evaluation:
    """One variant's figures. ``drop`` is original minus variant, paired by row."""

    metric: str
    estimate: Estimate
    drop: Estimate
    budget: BudgetResult

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "metric": self.metric,
            "how": "measured",
            "test": self.estimate.to_json(),
            "drop": self.drop.to_json(),
            "budget": self.budget.to_json(),
        }


@dataclass(frozen=True)
class Metric:
    """How rows are scored. ``binary``: scores are 0 or 1. ``relative``: against the original's outputs, not labels."""

    name: str
    score: Callable[[NDArray[Any], NDArray[Any]], Scores]
    binary: bool
    relative: bool


ACCURACY = Metric("accuracy", correct_scores, binary=True, relative=False)
AGREEMENT = Metric(
    "agreement", lambda outputs, reference: correct_scores(outputs, reference.argmax(axis=1)), binary=True, relative=True
)
R2 = Metric("r2", lambda outputs, targets: fit_scores(outputs, targets.reshape(outputs.shape)), binary=False, relative=False)
FIDELITY = Metric("fidelity", fit_scores, binary=False, relative=True)


@dataclass(frozen=True)
class Judge:
    """The original's outputs on the test part, and the metric that variants are judged by."""

    metric: Metric
    task: str
    test: Dataset
    reference: Outputs
    truth: NDArray[Any]
    scores: Scores
    output: str
    seed: int

    def estimate(self) -> Estimate:
        """The original's own figure."""
        if self.metric.relative:
            return Estimate(1.0, 1.0, 1.0, len(self.scores), "by definition: it is what variants are compared with")
        return mean_interval(self.scores, binary=self.metric.binary, groups=self.test.groups, rng=self._rng())

    def evaluate(self, outputs: Outputs, *, allowed_drop: float) -> Evaluation:
        """Scores a variant's outputs on the same rows."""
        binary, groups = self.metric.binary, self.test.groups
        if all(np.array_equal(outputs[name], self.reference[name]) for name in self.reference):
            scores, estimate = self.scores, self.estimate()
            drop = Estimate(0.0, 0.0, 0.0, len(scores), "outputs identical to the original's")
        else:
            scores = self.metric.score(outputs[self.output], self.truth)
            estimate = mean_interval(scores, binary=binary, groups=groups, rng=self._rng())
            drop = drop_interval(self.scores, scores, binary=binary, groups=groups, rng=self._rng())
        needed = samples_needed(self.scores, scores, allowed_drop=allowed_drop)
        return Evaluation(self.metric.name, estimate, drop, judge_drop(drop, allowed_drop=allowed_drop, samples_needed=needed))

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, _RESAMPLING_STREAM])


def make_judge(reference: Outputs, test: Dataset, *, task: str, seed: int, where: str) -> Judge:
    """Chooses the metric and scores the original.

    Args:
        reference: the original's outputs on ``test``.
        test: the test part.
        task: ``classification``, ``regression``, or ``auto``: classification where ``y`` holds one integer per row and
            the first output one score per class, else regression.
        seed: of the resampling.
        where: the data's name, for errors.

    Raises:
        UsageError: labels that do not fit the task or the output.
    """
    name, values = next(iter(reference.items()))
    labels = test.labels
    is_scores = values.ndim == 2 and values.shape[1] > 1
    is_labels = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub"
    if task == "auto":
        task = "classification" if is_scores and is_labels else "regression"
    if task == "classification":
        if not is_scores:
            raise UsageError(
                "classification needs one score per class",
                code="task_output",
                where=f"output {name}",
                expected="(rows, classes)",
                actual=values.shape,
                hint='set task = "regression" in the recipe',
            )
        metric = AGREEMENT if labels is None else ACCURACY
        if labels is not None:
            _check_labels(labels, classes=values.shape[1], where=where)
    else:
        metric = FIDELITY if labels is None else R2
        if labels is not None and labels.reshape(len(labels), -1).shape != values.reshape(len(values), -1).shape:
            raise UsageError(
                "targets do not have the shape of the model's output",
                code="task_labels",
                where=where,
                expected=values.shape,
                actual=labels.shape,
                hint="leave y out to compare with the original's outputs",
            )
    truth = values if labels is None else labels
    return Judge(metric, task, test, reference, truth, metric.score(values, truth), name, seed)


def run_rows(model: CheckedModel, data: Dataset, *, advance: Callable[[int], None] | None = None) -> dict[str, NDArray[Any]]:
    """All outputs for all rows, in the device's runtime, one thread; in batches where the model allows it."""
    with open_session(model) as session:
        batch = batch_rows(session)
        parts: list[dict[str, NDArray[Any]]] = []
        for start in range(0, len(data), batch):
            parts.append(session.run({name: array[start : start + batch] for name, array in data.inputs.items()}))
            if advance is not None:
                advance(len(next(iter(data.inputs.values()))[start : start + batch]))
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def batch_rows(session: Session) -> int:
    """Rows per run: ``BATCH_ROWS`` where every input's first axis is dynamic, else one."""
    fixed = any(isinstance((spec.shape or (1,))[0], int) for spec in session.inputs)
    return 1 if fixed else BATCH_ROWS


def _check_labels(labels: NDArray[Any], *, classes: int, where: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() >= classes:
        raise UsageError(
            "labels do not fit the model's classes",
            code="task_labels",
            where=where,
            expected=f"one integer in 0..{classes - 1} per row",
            actual=f"{labels.dtype} {labels.shape}" + (f", {labels.min()}..{labels.max()}" if labels.dtype.kind in "iub" else ""),
        )
