"""Numbers: R squared and absolute error against targets, and fidelity to the original's outputs."""

from __future__ import annotations

import numpy as np

from packager.metrics import fit_scores
from packager.resampling import Floats
from packager.tasks.mean import Mean
from packager.tasks.metric import Array, Metric, Outputs, Unit

SMALLEST_R2 = 0.1  # below it a model explains nearly nothing, and half a percent of that would be noise


def r2(name: str, targets: Array) -> Metric:
    """Share of the targets' variance that is explained; a drop is relative to the original's share."""
    return Metric(
        "r2",
        Unit.RELATIVE,
        Mean(),
        lambda outputs: fit_scores(outputs[name], targets.reshape(len(targets), -1)),
        (name,),
        smallest_scale=SMALLEST_R2,
    )


def absolute_error(name: str, targets: Array) -> Metric:
    """Mean absolute error, in the targets' unit; a drop is its relative increase."""
    wanted = targets.reshape(len(targets), -1).astype(np.float64)

    def score(outputs: Outputs) -> Floats:
        return np.asarray(np.abs(outputs[name].reshape(wanted.shape).astype(np.float64) - wanted).mean(axis=1))

    spread = float(np.abs(wanted - np.median(wanted, axis=0)).mean())
    # A thousandth of the targets' own spread: an original that is nearly perfect must not turn rounding into a drop.
    return Metric("mae", Unit.RELATIVE, Mean(), score, (name,), higher_is_better=False, smallest_scale=max(1e-3 * spread, 1e-9))


def fidelity(reference: Outputs, names: tuple[str, ...]) -> Metric:
    """Share of the variance of the original's outputs that is reproduced, the mean over outputs; whole numbers must be equal."""

    def score(outputs: Outputs) -> Floats:
        return np.asarray(np.mean([_reproduced(outputs[name], reference[name]) for name in names], axis=0))

    return Metric("fidelity", Unit.RELATIVE, Mean(), score, names, to_original=True)


def _reproduced(values: Array, wanted: Array) -> Floats:
    if wanted.dtype.kind == "f":
        return fit_scores(values, wanted)
    return np.asarray((values == wanted).reshape(len(wanted), -1).mean(axis=1), dtype=np.float64)
