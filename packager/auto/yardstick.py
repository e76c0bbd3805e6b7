"""What the trials of a search are compared by: some rows, a judge of the task on them, and the error of the outputs.

The rows are those of the calibration and validation parts; nothing here sees the test part.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.errors import UsageError
from packager.data import Dataset
from packager.evaluate import Judge, make_judge, run_rows
from packager.features import check_own
from packager.technique import Compressed, TechniqueContext

logger = logging.getLogger(__name__)

MAX_ROWS = 1024  # to choose by; more would make trials slow and choices no better


def distortion(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> float:
    """Mean over the float outputs of squared error by variance; 1 for an output that is gone or has another shape."""
    shares = []
    for name, want in reference.items():
        if want.dtype.kind != "f":
            continue
        have = outputs.get(name)
        shares.append(1.0 if have is None or have.shape != want.shape else _share_of_variance(want, have))
    return sum(shares) / len(shares) if shares else 0.0


def _share_of_variance(want: NDArray[Any], have: NDArray[Any]) -> float:
    """Over the numbers that are finite in the original, such as scores that a mask leaves."""
    counted = np.isfinite(want)
    if not np.array_equal(np.isfinite(have), counted):
        return 1.0
    if not counted.any():
        return 0.0
    real, error = want[counted].astype(np.float64), have[counted].astype(np.float64) - want[counted]
    return float(np.square(error).mean()) / max(float(real.var()), 1e-30)


def search_judge(original: Compressed, rows: Dataset, context: TechniqueContext, *, metric: str, output: str) -> Judge:
    """Judges by the task, or by agreement with the original where these rows do not fit it (all of one class)."""
    reference = run_rows(check_own(original.data), rows)
    try:
        return make_judge(reference, rows, task=context.task, seed=context.seed, where="search", metric=metric, output=output)
    except UsageError as e:
        logger.info("the rows to choose by do not fit the task: %s", e)
        unlabelled = Dataset(rows.inputs, None, rows.groups, rows.split, rows.where)
        return make_judge(reference, unlabelled, task="none", seed=context.seed, where="search")


def rows_to_choose_by(context: TechniqueContext) -> tuple[Dataset, str]:
    """The validation part, and its name; with the calibration part where it is small, since few rows choose badly."""
    validation, calibration = context.validation, context.calibration
    if validation is not None and len(validation) >= MAX_ROWS:
        return validation.take(_spread_rows(len(validation))), "validation"
    if validation is None:
        return calibration.take(_spread_rows(len(calibration))), "calibration"
    joined = validation.join(calibration)
    return joined.take(_spread_rows(len(joined))), "validation and calibration"


def _spread_rows(rows: int) -> NDArray[np.int64]:
    """At most ``MAX_ROWS`` row numbers, evenly over all."""
    return np.unique(np.linspace(0, rows - 1, min(rows, MAX_ROWS)).astype(np.int64))
