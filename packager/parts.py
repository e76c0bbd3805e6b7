"""From DATA, or from nothing, to the disjoint parts that a pack works with: the one call that `pack` and a search share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from device_client.inference.walker import CheckedModel
from packager.data import Array, fit_dataset
from packager.recipe import Recipe
from packager.split import DataParts, split_dataset
from packager.synthetic import WHERE, synthetic_dataset

SYNTHETIC_NOTE = (
    "there was no data: every row is made up, from declared ranges or standard normal; figures say how close a variant is to "
    "its original on noise, and nothing about the field"
)


def make_parts(arrays: Mapping[str, Array] | None, model: CheckedModel, recipe: Recipe, *, where: str) -> DataParts:
    """The parts.

    Args:
        arrays: from ``read_arrays``, or ``None`` where there is no data.
        model: the original.
        recipe: shares, bounds, seed, and declared ranges of inputs.
        where: the data's name, for errors.

    Raises:
        UsageError: see ``fit_dataset``, ``split_dataset`` and ``synthetic_dataset``.
    """
    plan = recipe.data
    if arrays is None:
        known = {spec.name for spec in model.inputs}
        ranges = {name: item.range for name, item in recipe.inputs.items() if item.range is not None and name in known}
        data = synthetic_dataset(model, ranges=ranges, rows=plan.synthetic_rows, seed=recipe.seed)
    else:
        data = fit_dataset(arrays, model.inputs, where=where)
    parts = split_dataset(
        data,
        seed=recipe.seed,
        calibration_share=plan.calibration_share,
        validation_share=plan.validation_share,
        max_calibration_rows=plan.max_calibration_rows,
    )
    return replace(parts, origin="synthetic") if data.where == WHERE and arrays is None else parts
