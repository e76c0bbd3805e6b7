"""Gives each weight one of its tensor's levels, so that the layer's output changes least.

Without a Gram matrix the nearest level is taken. With one, the weights of a row are fixed one after another, and what each is
off by is made up for by those that are still free (Frantar and others 2022, "GPTQ", here with any levels in the place of even
steps). Then the levels, or the scale of each row, are fitted once more to the assignment, by least squares. Pure numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packager.clustering.levels import nearest_level

Floats = NDArray[np.float64]
_DAMPING = 0.01
_MAX_FIT_OPERATIONS = 4_000_000_000


def assign_rows(
    rows: Floats, levels: Floats, scales: Floats, gram: Floats | None, *, zeros: NDArray[np.bool_] | None = None
) -> NDArray[np.intp]:
    """The index of a level for each weight.

    Args:
        rows: (channels, inputs).
        levels: ascending; a weight becomes ``scale * level``.
        scales: (channels,), above 0.
        gram: (group, inputs, inputs), or None.
        zeros: weights that stay 0 whatever index they get; like ``rows``.
    """
    normal = rows / scales[:, None]
    if gram is None:
        return nearest_level(normal, levels)
    found = np.empty(rows.shape, np.intp)
    for part, matrix in zip(np.split(np.arange(len(rows)), len(gram)), gram, strict=True):
        found[part] = _compensated(normal[part], levels, matrix, None if zeros is None else zeros[part])
    return found


def _compensated(rows: Floats, levels: Floats, gram: Floats, zeros: NDArray[np.bool_] | None) -> NDArray[np.intp]:
    """Rows share the order and the inverse; a row's scale does not matter, since its error is made up for within the row."""
    power = np.diag(gram)
    if not power.mean() > 0:
        return nearest_level(rows, levels)
    order = np.argsort(-power, kind="stable")  # what matters most is fixed while there is most to make up with
    damped = gram[np.ix_(order, order)] + _DAMPING * power.mean() * np.eye(len(power))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = rows[:, order].copy()
    found = np.empty(left.shape, np.intp)
    for column in range(left.shape[1]):
        found[:, column] = nearest_level(left[:, column], levels)
        values = levels[found[:, column]]
        if zeros is not None:
            values = np.where(zeros[:, order[column]], 0.0, values)
        error = (left[:, column] - values) / upper[column, column]
        left[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return found[:, back]


def fit_scales(rows: Floats, chosen: Floats, gram: Floats | None, *, together: bool = False) -> Floats:
    """The factor for each row of ``chosen`` that brings the layer's output nearest to that of ``rows``; (channels,), above 0.

    ``together``: one factor for all rows.
    """
    weighted = _times(chosen, gram)
    down, up = (weighted * chosen).sum(axis=1), (weighted * rows).sum(axis=1)
    if together:
        down, up = np.full(len(rows), down.sum()), np.full(len(rows), up.sum())
    factor = np.where(down > 0, up / np.where(down > 0, down, 1), 1)
    return np.where(factor > 0, factor, 1.0)


def fit_levels(
    rows: Floats,
    indices: NDArray[np.intp],
    levels: Floats,
    scales: Floats,
    gram: Floats | None,
    *,
    zeros: NDArray[np.bool_] | None = None,
) -> Floats:
    """The levels that fit the assignment best; the given ones where that costs too much. May leave them in another order."""
    count, width = len(levels), rows.shape[1]
    if gram is None or len(rows) * count * width * width > _MAX_FIT_OPERATIONS:
        return levels
    normal, right = np.zeros((count, count)), np.zeros(count)
    for part, matrix in zip(np.split(np.arange(len(rows)), len(gram)), gram, strict=True):
        for row in part:
            marks = (indices[row] == np.arange(count)[:, None]) * scales[row]  # (levels, inputs)
            if zeros is not None:
                marks[:, zeros[row]] = 0
            weighted = marks @ matrix
            normal += weighted @ marks.T
            right += weighted @ rows[row]
    damping = 1e-6 * max(np.trace(normal) / count, np.finfo(float).tiny)
    return np.linalg.solve(normal + damping * np.eye(count), right + damping * levels)


def output_error(rows: Floats, chosen: Floats, gram: Floats | None) -> float:
    """Square error of the layer's output relative to its size; of the weights, where there is no Gram matrix."""
    size = (_times(rows, gram) * rows).sum()
    gap = rows - chosen
    return float((_times(gap, gram) * gap).sum() / size) if size > 0 else 0.0


def _times(rows: Floats, gram: Floats | None) -> Floats:
    if gram is None:
        return rows
    return np.concatenate([part @ matrix for part, matrix in zip(np.split(rows, len(gram)), gram, strict=True)])
