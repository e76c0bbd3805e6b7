"""What a model puts out, as one row of class scores for each record, and what kind of scores they are: pure.

A file says less than its numbers. Scores may have the shape (N, C, 1, 1), and probabilities may come from operators that are no
softmax, so both are told from what the runtime gave on real records. Every family that reads scores reads them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from audits.bridge.graph import BridgeError
from audits.bridge.tap import Tail
from device_client.errors import SealiftError

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_SUM = 5e-3  # of a row of probabilities, from 1
_CHANCE = 2.326  # one-sided normal quantile at 1 %


def score_rows(parts: Sequence[npt.NDArray[Any]], *, where: str) -> Doubles:
    """(N, C) float64 of the runtime's answers to records, in order; dimensions of size 1 behind the classes are dropped.

    Args:
        parts: answers, each of one or several records.
        where: name of the output, for errors.

    Raises:
        BridgeError: not a row of at least two finite numbers for each record (``bridge_scores``).
    """
    shapes = {part.shape[1:] for part in parts}
    shape = next(iter(shapes)) if len(shapes) == 1 else ()
    if any(part.dtype.kind != "f" for part in parts):
        told = ", ".join(sorted({str(part.dtype) for part in parts}))
        raise BridgeError("the class scores are no floats", code="bridge_scores", where=where, actual=told)
    if not shape or shape[0] < 2 or any(size != 1 for size in shape[1:]):
        told = ", ".join(sorted(str(("records", *item)) for item in shapes))[:120]
        raise BridgeError("the output is not one score per class", code="bridge_scores", where=where, actual=told)
    rows = np.concatenate(list(parts)).reshape(-1, shape[0]).astype(np.float64)
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        raise BridgeError(
            "the class scores are not finite", code="bridge_scores", where=where, actual=f"NaN or infinite on {bad} of {len(rows)}"
        )
    return rows


def settle_tail(tail: Tail, rows: Doubles, *, quantum: float | None, where: str) -> Tail:
    """What the scores are, by the graph's tail and by the numbers on real records.

    Args:
        tail: how the graph ends.
        rows: scores of real records, (N, C).
        quantum: step of the output's quantiser, or None: quantised probabilities do not sum to 1.
        where: name of the output, for errors.

    Raises:
        BridgeError: a softmax, and no probabilities: it is not taken over the classes (``bridge_scores``).
    """
    likely = is_distribution(rows, quantum=quantum)
    if tail is Tail.NONE and likely:
        return Tail.PROBABILITIES
    if tail is Tail.SOFTMAX and quantum is None and not likely:
        raise BridgeError("the softmax is not over the classes", code="bridge_scores", where=where)
    return tail


def is_distribution(rows: Doubles, *, quantum: float | None = None) -> bool:
    """Whether every row is non-negative and sums to 1, but for what a quantiser of this step may move."""
    slack = _SUM + 0.5 * (quantum or 0.0) * rows.shape[1]
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1.0) <= slack).all())


def told_briefly(error: SealiftError) -> str:
    """Why a model cannot be read, for a report: what, where and what was found."""
    found = f": {error.actual}" if error.actual not in {None, ""} else ""
    return f"{error.what} ({error.where}{found})" if error.where else f"{error.what}{found}"


def why_no_better_than_chance(predicted: Integers, y: Integers, *, classes: int) -> str | None:
    """Why the labels look unlike the model's classes, or None: its answers to members have nothing to do with their labels.

    Compares the mean share of right answers over classes with what independent answers of the same frequencies get, so that a
    model which always says the most frequent class gains nothing. Labels of which only some are exchanged are not seen.

    Args:
        predicted: the model's answers to members, (N,).
        y: their labels, (N,).
        classes: of the model.
    """
    present = np.unique(y)
    said = np.bincount(predicted, minlength=classes)[:classes] / max(1, len(predicted))
    right = np.array([np.mean(predicted[y == label] == label) for label in present])
    expected = said[present]
    spread = np.sqrt(np.sum(expected * (1.0 - expected) / np.array([np.sum(y == label) for label in present])))
    if right.sum() - expected.sum() > _CHANCE * spread:
        return None
    return (
        f"the model gives members their label no more often than chance ({right.mean():.0%} on average over classes): are labels "
        "and inputs those that it was trained with?"
    )
