"""A part of a data set to judge on when all of it would take too long: the same rows every time, all classes kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packager.data import Dataset
from packager.split import order_key


def subset(data: Dataset, rows: int, *, seed: int) -> Dataset:
    """At most ``rows`` of ``data``, in their order there.

    Chosen by the rows' digests and the seed, so that the source's order does not matter. Where there is one integer label per
    row, each class keeps its share, and at least one row as long as there are as many rows as classes.

    Args:
        data: any data set.
        rows: how many, at least one.
        seed: of the choice.

    Raises:
        ValueError: ``rows`` below one.
    """
    if rows < 1:
        raise ValueError("rows must be at least 1")
    if rows >= len(data):
        return data
    digests = data.row_digests()
    order = sorted(range(len(data)), key=lambda row: (order_key(seed, digests[row]), row))
    return data.take(np.sort(np.asarray(_first(order, _strata(data), rows), dtype=np.int64)))


def _strata(data: Dataset) -> NDArray[np.int64] | None:
    labels = data.labels
    if labels is None or labels.size != len(labels) or labels.dtype.kind not in "iub":
        return None
    return np.asarray(np.unique(labels, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _first(order: list[int], strata: NDArray[np.int64] | None, rows: int) -> list[int]:
    """The first rows of ``order``; with strata the first row of each, then whichever lags most behind its share."""
    if strata is None:
        return order[:rows]
    members = [[row for row in order if strata[row] == kind] for kind in range(int(strata.max()) + 1)]
    # A row's place within its class, as a share of the class: taking the smallest keeps all classes at their share.
    places = [
        (-1.0 if index == 0 else (index + 0.5) / len(group), kind, row)
        for kind, group in enumerate(members)
        for index, row in enumerate(group)
    ]
    return [row for _, _, row in sorted(places)[:rows]]
