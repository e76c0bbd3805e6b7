"""What a technique needs before it begins: torch, a module, rows to train on, and enough of them.

The rules are stated here once, as errors that a person can act on. None of them promises that training will help; the
judge decides that afterwards, on the test part.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from device_client.errors import MissingExtraError, UsageError
from packager.data import Dataset

if TYPE_CHECKING:
    from packager.technique import Compressed, TechniqueContext

MIN_ROWS_PER_CLASS = 10
MIN_MEAN_ROWS_PER_CLASS = 100
MIN_ROWS = 200
PARAMETERS_PER_ROW = 100
_TASKS_WITH_CLASSES = frozenset({"classification"})


def need_module(model: Compressed, *, technique: str) -> Any:
    """A copy of the module to work on: a technique never changes the one it was given.

    Raises:
        UsageError: there is no module, or it cannot be copied.
        MissingExtraError: torch is not installed.
    """
    try:
        import torch  # noqa: F401  # is it there at all
    except ModuleNotFoundError as e:
        raise MissingExtraError("train", missing=e.name or "torch") from e
    if model.module is None:
        raise UsageError(
            f"{technique} needs a torch module",
            code="train_module",
            where=technique,
            expected="a model given as module:function, and no technique before this one that changes the ONNX file alone",
            actual="an ONNX file",
            hint="give the function that builds the network, or put the techniques that train first in the recipe",
        )
    try:
        return copy.deepcopy(model.module).eval()
    except Exception as e:  # somebody's own __deepcopy__, or tensors of a graph kept on the module
        raise UsageError(
            "the torch module cannot be copied",
            code="train_module",
            where=technique,
            actual=f"{type(e).__name__}: {' '.join(str(e).split())[:160]}",
            hint="keep no tensors with a gradient history, locks or files on the module",
        ) from e


def need_rows(context: TechniqueContext, *, technique: str) -> Dataset:
    """The part to train on.

    Raises:
        UsageError: there is none.
    """
    if context.train is None or not len(context.train):
        raise UsageError(
            f"{technique} needs training rows",
            code="train_rows",
            where=technique,
            expected="data with a 'split' array that says train for some rows",
            hint="mark the rows to train on in 'split'; rows are never taken from another part",
        )
    return context.train


def refuse_few_rows(train: Dataset, *, task: str, parameters: int, technique: str) -> None:
    """Structural pruning destroys what a network knows; recovery has to be learnt again from these rows.

    Measured: a keyword spotter of 22 K parameters, half its channels removed, came back to 65 % of 92 % with 500 clips of
    12 classes (42 a class), while 3000 heartbeats of two classes brought an 80 K network back whole. So: at least
    ``MIN_MEAN_ROWS_PER_CLASS`` rows a class on average and ``MIN_ROWS_PER_CLASS`` of the rarest (without classes:
    ``MIN_ROWS``), and one row for each ``PARAMETERS_PER_ROW`` parameters.

    Raises:
        UsageError: fewer.
    """
    wanted, rarest, classes = MIN_ROWS, None, 0
    labels = train.labels
    if task in _TASKS_WITH_CLASSES and labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub":
        counts = np.unique(labels, return_counts=True)[1]
        classes, rarest = len(counts), int(counts.min())
        wanted = MIN_MEAN_ROWS_PER_CLASS * classes
    wanted = max(wanted, -(-parameters // PARAMETERS_PER_ROW))
    if len(train) >= wanted and (rarest is None or rarest >= MIN_ROWS_PER_CLASS):
        return
    detail = "" if rarest is None else f" of {classes} classes, {rarest} of the rarest"
    least = f"at least {wanted} training rows" + ("" if rarest is None else f" and {MIN_ROWS_PER_CLASS} of each class")
    raise UsageError(
        f"{technique} has too few rows to recover what pruning destroys",
        code="train_rows_few",
        where=technique,
        expected=f"{least} for {parameters} parameters",
        actual=f"{len(train)} rows{detail}",
        hint="give more rows marked train, or use techniques that do not remove structure (int8-static, codebook, distil)",
    )


def count_parameters(module: Any) -> int:
    """Elements of all parameters, each counted once."""
    return sum(int(parameter.numel()) for parameter in module.parameters())


def check_names(module: Any, names: tuple[str, ...], *, technique: str) -> None:
    """Refuses names that the module does not have.

    Raises:
        UsageError: one that is none of torch's ``named_modules()``.
    """
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in known:
            raise UsageError(
                "no module of this name",
                code="prune_exclude",
                where=technique,
                expected=", ".join(known[:40]),
                actual=repr(name)[:80],
                hint="use the names that torch's named_modules() gives",
            )
