"""Decides what a model is judged by: from the recipe's task, the labels, and what the original's outputs look like.

Everything that does not fit is an error here, before any technique has run: labels of another shape or range, one class only,
outputs that are no numbers, a score that ranks the wrong way round (``evaluate.py`` looks at that, for it needs the figure).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from device_client.errors import UsageError
from packager.data import Dataset
from packager.tasks import anomaly, boxes, classes, language, values
from packager.tasks.metric import Array, Metric, Outputs

TASKS = ("auto", "classification", "regression", "anomaly", "detection", "language-modelling", "none")
METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "agreement", "auc", "average-precision"),
    "regression": ("r2", "mae", "fidelity"),
    "anomaly": ("auc", "average-precision"),
    "detection": (*boxes.OVERLAPS, "fidelity"),
    "language-modelling": ("perplexity",),
    "none": ("agreement", "fidelity"),
}
"""Metrics of each task; the first that the data allows is the default."""


@dataclass(frozen=True)
class Choice:
    """The decided task (never ``auto``) with its metric."""

    task: str
    metric: Metric


@dataclass(frozen=True)
class _Question:
    """What there is to decide from."""

    reference: Outputs
    data: Dataset
    output: str
    metric: str
    where: str

    def first(self, what: str, expected: str, fits: Callable[[str], bool]) -> str:
        """Name of the first output (or of the one that the recipe names) that ``fits``.

        Raises:
            UsageError: none does.
        """
        names = [self.output] if self.output else list(self.reference)
        found = next((name for name in names if fits(name)), None)
        if found is None:
            raise UsageError(
                what,
                code="task_output",
                where=f"output {', '.join(names)}"[:200],
                expected=expected,
                actual=", ".join(str(self.reference[name].shape) for name in names)[:200],
                hint='set another task, or task = "none", in the recipe',
            )
        return found

    def labels(self, task: str, expected: str) -> Array:
        """The labels.

        Raises:
            UsageError: there are none.
        """
        if self.data.labels is None:
            raise UsageError(
                f'task = "{task}" needs labels',
                code="task_labels",
                where=self.where,
                expected=f"y: {expected}",
                actual="no y",
                hint='add y, or set task = "none" in the recipe to compare with the original',
            )
        return self.data.labels

    def named(self, task: str, default: str) -> str:
        """The metric that the recipe asks for.

        Raises:
            UsageError: the task has no such metric.
        """
        chosen = default if self.metric == "auto" else self.metric
        if chosen not in METRICS[task]:
            raise UsageError(
                f'task "{task}" has no metric "{chosen}"',
                code="task_metric",
                where=self.where,
                expected=" | ".join(METRICS[task]),
                actual=chosen,
                hint="set metric in the recipe to one of these, or leave it out",
            )
        return chosen


def choose(reference: Outputs, data: Dataset, *, task: str, metric: str = "auto", output: str = "", where: str) -> Choice:
    """The task and metric.

    Args:
        reference: the original's outputs on ``data``, one entry per row each.
        data: the rows to judge on.
        task: one of ``TASKS``.
        metric: one of the task's ``METRICS``, or ``auto``.
        output: which output counts; empty: the first that fits.
        where: the data's name, for errors.

    Raises:
        UsageError: labels, outputs or metric do not fit the task.
    """
    if output and output not in reference:
        raise UsageError(
            f"the recipe judges an output that the model does not have: '{output}'",
            code="recipe_tensor",
            where=where,
            expected=", ".join(reference),
        )
    for name, array in reference.items():
        if array.dtype.kind == "f" and bool(np.isnan(array).any()):
            raise UsageError(
                f"the original model's output '{name}' is not a number on {_rows(np.isnan(array))} rows",
                code="model_output_value",
                where=where,
                expected="numbers",
                hint="check the model, and whether DATA holds what it was trained on",
            )
    question = _Question(reference, _with_class_labels(reference, data, task=task, output=output), output, metric, where)
    decided = _detect(question) if task == "auto" else task
    return Choice(decided, _MAKERS[decided](question))


def _with_class_labels(reference: Outputs, data: Dataset, *, task: str, output: str) -> Dataset:
    """Labels as one class per row, where they can be nothing else: one-hot, or whole numbers kept as floats."""
    labels = data.labels
    if labels is None or task not in ("auto", "classification"):
        return data
    arrays = [reference[output]] if output else list(reference.values())
    scored = [array for array in arrays if classes.class_scores(array) is not None]
    if any(labels.shape == array.shape for array in scored) and _is_one_hot(labels):
        return replace(data, labels=labels.argmax(axis=1))
    whole = labels.dtype.kind == "f" and labels.size == len(labels) and bool((labels == np.rint(labels)).all())
    alone = not any(array.dtype.kind == "f" and array.size == labels.size for array in arrays)
    return replace(data, labels=labels.astype(np.int64)) if whole and alone and scored else data


def _is_one_hot(labels: Array) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def _detect(question: _Question) -> str:
    """What ``auto`` means here."""
    reference, labels, data = question.reference, question.data.labels, question.data
    names = [question.output] if question.output else list(reference)
    if labels is None:
        return "detection" if not question.output and boxes.find_detector(reference) else "none"
    if labels.dtype.kind not in "iub":
        return "regression"
    found = next((task for name in names if (task := _told_by(reference[name], labels, data)) is not None), None)
    is_class = any(reference[name].dtype.kind in "iub" and reference[name].size == labels.size for name in names)
    return found or ("classification" if is_class else "regression")


def _told_by(array: Array, labels: Array, data: Dataset) -> str | None:
    """The task that one output and whole-number labels tell, if any."""
    if array.ndim == 3 and labels.shape == array.shape[:2] and _has_ids(data, labels.shape):
        return "language-modelling"
    if _reconstructs(array, labels, data):
        return "anomaly"
    binary = labels.size == len(labels) and labels.min() >= 0 and labels.max() <= 1
    one = binary and classes.is_one_score(array) and array.min() >= 0 and array.max() <= 1
    return "classification" if one or classes.class_scores(array, _positions(labels)) is not None else None


def _reconstructs(array: Array, labels: Array, data: Dataset) -> bool:
    """Whether labels 0 and 1 stand beside an output of an input's shape: what was reconstructed, and no score per class."""
    binary = labels.size == len(labels) and labels.min() >= 0 and labels.max() <= 1
    return (
        binary
        and array.size > 2 * len(array)
        and any(found.dtype.kind == "f" == array.dtype.kind and found.shape == array.shape for found in data.inputs.values())
    )


def _has_ids(data: Dataset, shape: tuple[int, ...]) -> bool:
    return any(array.dtype.kind in "iu" and array.shape == shape for array in data.inputs.values())


def _classification(question: _Question) -> Metric:
    reference, labels = question.reference, question.data.labels
    positions = () if labels is None else _positions(labels)
    is_binary = labels is not None and labels.size == len(labels) and bool(np.isin(labels, (0, 1)).all())

    def fits(name: str) -> bool:
        array = reference[name]
        whole = array.dtype.kind in "iub" and array.size == len(array) * int(np.prod(positions, dtype=np.int64))
        one = classes.is_one_score(array) and (labels is None or is_binary)
        return whole or one or classes.class_scores(array, positions) is not None

    def covers(name: str) -> bool:
        scores = classes.class_scores(reference[name], positions)
        return fits(name) and (scores is None or labels is None or bool(labels.max() < scores.shape[2]))

    candidates = [question.output] if question.output else list(reference)
    name = next((name for name in candidates if covers(name)), None) or question.first(
        "classification needs one score per class", "(rows, classes), or one score per row with labels 0 and 1", fits
    )
    array = reference[name]
    kind = question.named("classification", "agreement" if labels is None else "accuracy")
    if kind == "agreement":
        return classes.agreement(name, array, positions)
    labels = question.labels("classification", "one integer per row or position")
    labels = labels.reshape(len(labels), *positions)
    scores = classes.class_scores(array, positions)
    count = classes.MAX_CLASSES if array.dtype.kind in "iub" else 2 if scores is None else scores.shape[2]
    classes.check_labels(labels, classes=count, where=question.where)
    if kind == "accuracy":
        return classes.accuracy(name, array, labels)
    if positions or count != 2:
        raise UsageError(
            f'"{kind}" needs two classes and one label per row',
            code="task_metric",
            where=question.where,
            actual=f"{count} classes, labels {labels.shape}",
            hint='leave metric out for "accuracy"',
        )
    return classes.ranking(kind, name, array, labels)


def _positions(labels: Array) -> tuple[int, ...]:
    """Axes of labels besides the row; (rows, 1) is one label per row."""
    return () if labels.size == len(labels) else labels.shape[1:]


def _regression(question: _Question) -> Metric:
    reference, labels = question.reference, question.data.labels
    if labels is None:
        if question.named("regression", "fidelity") != "fidelity":
            question.labels("regression", "targets of the output's shape")
        return values.fidelity(reference, _numbers(question))
    wanted = labels

    def fits(name: str) -> bool:
        array = reference[name]
        return array.dtype.kind == "f" and array.reshape(len(array), -1).shape == wanted.reshape(len(wanted), -1).shape

    names = [question.output] if question.output else list(reference)
    if not any(fits(name) for name in names):
        raise UsageError(
            "targets do not have the shape of the model's output",
            code="task_labels",
            where=question.where,
            expected=" or ".join(f"{reference[name].shape} of float" for name in names if reference[name].dtype.kind == "f")[:200]
            or "an output of floats",
            actual=labels.shape,
            hint="give targets of this shape, or one class per row as a whole number; or leave y out",
        )
    name = question.first("no output for the targets", str(labels.shape), fits)
    kind = question.named("regression", "r2")
    _check_finite(reference[name], name, where=question.where)
    if kind == "fidelity":
        return values.fidelity(reference, (name,))
    return values.r2(name, labels) if kind == "r2" else values.absolute_error(name, labels)


def _anomaly(question: _Question) -> Metric:
    labels = question.labels("anomaly", "0 for normal, 1 for an anomaly, one per row")
    name = question.first(
        "anomaly detection needs one score per row, or the input reconstructed",
        "(rows,), (rows, 1), or the shape of an input",
        lambda name: anomaly.is_scored(name, question.reference, question.data),
    )
    if labels.size != len(labels):
        raise UsageError(
            "anomaly labels must be one per row", code="task_labels", where=question.where, expected="(rows,)", actual=labels.shape
        )
    classes.check_labels(labels.reshape(len(labels)), classes=2, where=question.where)
    return anomaly.anomaly(question.named("anomaly", "auc"), name, question.reference, labels, question.data)


def _detection(question: _Question) -> Metric:
    """Without a finding in at least a few rows, or of another form, the outputs are compared as numbers."""
    detector = boxes.find_detector(question.reference)
    kind = question.named("detection", "fidelity" if detector is None else "detection-agreement")
    if kind == "fidelity":
        return values.fidelity(question.reference, _numbers(question))
    if detector is None:
        raise UsageError(
            "the outputs do not look like a detector's, or too few rows show anything",
            code="task_output",
            where=question.where,
            expected=f"scores (rows, anchors, classes) and boxes (rows, anchors, 4), something found in {boxes.MIN_ROWS} rows",
            actual=", ".join(str(array.shape) for array in question.reference.values())[:200],
            hint='give rows with objects, or leave metric out for "fidelity"',
        )
    return boxes.detection(kind, detector, question.reference)


def _language(question: _Question) -> Metric:
    reference = question.reference
    question.named("language-modelling", "perplexity")
    labels = question.data.labels if question.data.labels is not None else language.next_tokens(question.data)
    if labels is None or labels.ndim != 2:
        labels = question.labels("language-modelling", "the next token's id, (rows, tokens)")
        raise UsageError(
            "language modelling needs one label per token",
            code="task_labels",
            where=question.where,
            expected="(rows, tokens)",
            actual=labels.shape,
        )
    shape = labels.shape
    name = question.first(
        "language modelling needs one score per token and vocabulary entry",
        f"{(*shape, 'vocabulary')}",
        lambda name: reference[name].ndim == 3 and reference[name].shape[:2] == shape and reference[name].dtype.kind == "f",
    )
    classes.check_labels(labels, classes=reference[name].shape[2], where=question.where)
    return language.perplexity(name, reference[name], labels)


def _none(question: _Question) -> Metric:
    """Agreement where an output holds class scores, else fidelity over all outputs; labels, if any, are not looked at."""
    reference, data = question.reference, question.data
    names = [question.output] if question.output else list(reference)
    name = next((name for name in names if classes.looks_like_classes(name, reference[name], data)), None)
    tokens = next((name for name in names if reference[name].ndim == 3 and _has_ids(data, reference[name].shape[:2])), None)
    kind = question.named("none", "fidelity" if name is None and tokens is None else "agreement")
    if kind == "fidelity":
        return values.fidelity(reference, _numbers(question))
    if name is None and tokens is not None:
        return classes.agreement(tokens, reference[tokens], reference[tokens].shape[1:2])
    name = question.first(
        "agreement needs class scores", "(rows, classes)", lambda name: classes.class_scores(reference[name]) is not None
    )
    return classes.agreement(name, reference[name], ())


def _numbers(question: _Question) -> tuple[str, ...]:
    """The outputs whose numbers are compared.

    Raises:
        UsageError: infinite values.
    """
    names = (question.output,) if question.output else tuple(question.reference)
    for name in names:
        _check_finite(question.reference[name], name, where=question.where)
    return names


def _check_finite(array: Array, name: str, *, where: str) -> None:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise UsageError(
            f"the original model's output '{name}' is infinite on {_rows(~np.isfinite(array))} rows",
            code="model_output_value",
            where=where,
            expected="finite numbers",
            hint="check the model, and whether DATA holds what it was trained on",
        )


def _rows(flags: Array) -> int:
    return int(flags.reshape(len(flags), -1).any(axis=1).sum())


_MAKERS: Mapping[str, Callable[[_Question], Metric]] = {
    "classification": _classification,
    "regression": _regression,
    "anomaly": _anomaly,
    "detection": _detection,
    "language-modelling": _language,
    "none": _none,
}
