"""Rounds a matrix of weights to integers so that the layer's output changes least, not each weight.

``nearest`` rounds each weight by itself. The other two minimise the sum of ``d H d'`` over rows, where ``d`` is a row's error
and ``H`` the second moment of the layer's inputs on the calibration rows: exactly the squared error of the layer's output.
``gptq`` goes through the columns once and lets later columns make up for the error of earlier ones; ``adaround`` learns for
each weight whether it goes up or down. Both are checked against ``nearest`` by that sum and fall back to it row by row.

Source: Frantar et al. 2023 (GPTQ, algorithm 1, one column at a time); Nagel et al. 2020 (AdaRound, equations 21 to 24; ours
works on ``H`` alone, so no activation function is part of the loss). Deterministic, numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METHODS = ("nearest", "gptq", "adaround")
MAX_COLUMNS = 4096
"""Above it the second moments take too much memory and time; rounding is to nearest."""

_DAMPING = 0.01  # of the mean diagonal, so that inputs that hardly vary do not blow up
_STEPS = 300
_RATE = 0.02
_WARM_UP = 0.2
_BETA = (20.0, 2.0)
_REGULARISER = 0.01
_STRETCH, _SHIFT = 1.2, 0.1
_MAX_LEARNED_OPERATIONS = 2e8  # rows x columns^2 of one adaround step; larger layers take gptq

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The values that weights can take: ``q * scale + offset`` with integer ``q`` in ``low..high``.

    ``scale`` and ``offset`` broadcast against the (rows, columns) matrix.
    """

    scale: Floats
    offset: Floats
    low: int
    high: int


def round_weights(weights: Floats, grid: Grid, moments: Floats | None, *, method: str) -> NDArray[np.int64]:
    """Integers of a weight matrix.

    Args:
        weights: (rows, columns), one row per output channel.
        grid: what they are rounded to.
        moments: (columns, columns), mean outer product of the layer's inputs, or ``None``: nearest.
        method: one of ``METHODS``.
    """
    plain = _nearest(weights, grid)
    if method == "nearest" or moments is None or weights.shape[1] > MAX_COLUMNS or not np.isfinite(moments).all():
        return plain
    if method == "adaround" and weights.shape[0] * weights.shape[1] ** 2 <= _MAX_LEARNED_OPERATIONS:
        better = _adaround(weights, grid, moments)
    else:
        better = _gptq(weights, grid, moments)
    keep = output_error(weights, better, grid, moments) < output_error(weights, plain, grid, moments)
    return np.where(keep[:, None], better, plain)


def output_error(weights: Floats, rounded: NDArray[np.int64], grid: Grid, moments: Floats) -> Floats:
    """Mean squared error of each row's output, (rows,)."""
    error = rounded * grid.scale + grid.offset - weights
    return np.asarray(((error @ moments) * error).sum(axis=1))


def _nearest(weights: Floats, grid: Grid) -> NDArray[np.int64]:
    return np.clip(np.rint((weights - grid.offset) / grid.scale), grid.low, grid.high).astype(np.int64)


def _gptq(weights: Floats, grid: Grid, moments: Floats) -> NDArray[np.int64]:
    columns = weights.shape[1]
    damped = moments + np.eye(columns) * (_DAMPING * max(float(np.diag(moments).mean()), 1e-12))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    scale, offset = np.broadcast_to(grid.scale, weights.shape), np.broadcast_to(grid.offset, weights.shape)
    left = weights.copy()
    rounded = np.empty(weights.shape, dtype=np.int64)
    for column in range(columns):
        exact = left[:, column]
        q = np.clip(np.rint((exact - offset[:, column]) / scale[:, column]), grid.low, grid.high)
        rounded[:, column] = q
        error = (exact - (q * scale[:, column] + offset[:, column])) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    return rounded


def _adaround(weights: Floats, grid: Grid, moments: Floats) -> NDArray[np.int64]:
    """Gradient descent on a soft choice between floor and ceiling, pushed towards 0 or 1 as the steps go on."""
    scaled = (weights - grid.offset) / grid.scale
    floor = np.floor(scaled)
    fraction = np.clip(scaled - floor, 0.01, 0.99)
    logits = -np.log(_STRETCH / (fraction + _SHIFT) - 1)
    unit = max(float(np.diag(moments).mean()), 1e-30)
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    for step in range(_STEPS):
        sigmoid = 1 / (1 + np.exp(-logits))
        soft = np.clip(sigmoid * _STRETCH - _SHIFT, 0, 1)
        slope = _STRETCH * sigmoid * (1 - sigmoid) * ((soft > 0) & (soft < 1))
        error = floor + soft - scaled  # in steps of the grid
        gradient = (error @ moments) / unit if np.ndim(grid.scale) == 0 else ((error * grid.scale) @ moments) / (unit * grid.scale)
        if step > _WARM_UP * _STEPS:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - step / _STEPS)
            side = 2 * soft - 1
            gradient = gradient - _REGULARISER * 2 * beta * np.sign(side) * np.abs(side) ** (beta - 1)
        gradient = gradient * slope
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient * gradient
        rate = _RATE * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        logits = logits - rate * first / (np.sqrt(second) + 1e-10)
    chosen: NDArray[np.int64] = np.clip(floor + (logits > 0), grid.low, grid.high).astype(np.int64)
    return chosen
