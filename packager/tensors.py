"""The model's inputs and outputs in the contract's words, and the ranges that probes are made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from device_client.bundle.contract import TensorSpec
from device_client.errors import UsageError
from device_client.inference.walker import ValueSpec
from packager.data import Dataset
from packager.probes import ProbeSpec
from packager.recipe import TensorMeaning
from packager.split import DataParts


def describe_tensors(specs: Sequence[ValueSpec], meanings: Mapping[str, TensorMeaning], *, kind: str) -> tuple[TensorSpec, ...]:
    """The contract's ``inputs`` or ``outputs``; a range is there only if the recipe declares it, for it is a promise.

    Args:
        specs: as the model declares them.
        meanings: as the recipe declares them, by name.
        kind: ``inputs`` or ``outputs``, for errors.

    Raises:
        UsageError: the recipe speaks of a tensor that the model does not have.
    """
    unknown = sorted(set(meanings) - {spec.name for spec in specs})
    if unknown:
        raise UsageError(
            f"the recipe names a tensor that the model does not have: '{unknown[0]}'",
            code="recipe_tensor",
            where=kind,
            expected=", ".join(spec.name for spec in specs),
        )
    found = []
    for spec in specs:
        meaning = meanings.get(spec.name, TensorMeaning())
        found.append(TensorSpec(spec.name, spec.dtype or "float32", _shape(spec), meaning.meaning, meaning.range))
    return tuple(found)


def check_ranges(inputs: Sequence[TensorSpec], parts: DataParts) -> None:
    """Refuses a declared input range that the data itself breaks.

    Raises:
        UsageError: a row lies outside.
    """
    for spec, part in ((spec, part) for spec in inputs for part in (parts.calibration, parts.test)):
        values = part.inputs[spec.name]
        if spec.range is not None and (values.min() < spec.range[0] or values.max() > spec.range[1]):
            raise UsageError(
                f"data lies outside the declared range of '{spec.name}'",
                code="data_range",
                where=part.where,
                expected=f"[{spec.range[0]:g}, {spec.range[1]:g}]",
                actual=f"[{values.min():g}, {values.max():g}]",
                hint=f"correct inputs.{spec.name}.range in the recipe, or the data",
            )


def probe_specs(inputs: Sequence[TensorSpec], calibration: Dataset) -> tuple[ProbeSpec, ...]:
    """What golden probes are made from: shape of a row, as DATA has it, and the declared range.

    Without a declared range it is the one that the calibration rows span. That tells no more about them than the
    quantised model does, whose first scale is that range.
    """
    specs = []
    for spec in inputs:
        values = calibration.inputs[spec.name]
        low, high = spec.range or (float(values.min()), float(values.max()))
        specs.append(ProbeSpec(spec.name, spec.dtype, values.shape[1:], low, high))
    return tuple(specs)


def _shape(spec: ValueSpec) -> tuple[int | str, ...]:
    """Dynamic axes under names that the contract allows; the first unnamed one is the batch."""
    shape: list[int | str] = []
    for axis, size in enumerate(spec.shape or ()):
        if isinstance(size, int):
            shape.append(size)
            continue
        name = re.sub(r"[^A-Za-z0-9_]", "_", size)[:60]
        default = "batch" if axis == 0 else f"axis{axis}"
        shape.append(default if not name else name if not name[0].isdigit() else f"d_{name}")
    return tuple(shape)
