"""Brings an ONNX file into the packager's normal form: one FP32 file that quantises and runs everywhere.

    accept (onnx_file.py) -> FP32 (half.py) -> plain constants, folded, opset 13 or higher (upgrade.py) -> short (shrink.py)

The result is compared with the original on rows of DATA. A conversion that fails or changes the outputs is left out and
noted: a model that runs is packed as well as it can be. Does *not* know about torch (`export.py`) or choose techniques.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from device_client.errors import SealiftError, UsageError
from device_client.inference.walker import CheckedModel, check_model
from packager.comparison import Comparison, make_comparison
from packager.features import check_own, graph_features
from packager.feed import is_batched, row_shape
from packager.graphs import standard_opset
from packager.half import float_types, to_float32
from packager.onnx_file import ANY_PACKING, accept_onnx
from packager.reshapes import constant_sizes
from packager.shrink import shrink_model
from packager.upgrade import flat_biases, plain_constants, raise_opset, set_batch, try_fold

logger = logging.getLogger(__name__)

_FOLDING = 1e-4  # batch normalisation merged into weights rounds; a wrong conversion is off by far more
_ROUNDING = {"float64": 1e-3, "float16": 3e-2, "bfloat16": 2e-1}
"""What the original's own arithmetic may be off by, as a share of its largest output: 24, 11 and 8 bits, over many layers."""


@dataclass(frozen=True)
class PreparedModel:
    """``model``: the normal form. ``source``: the file as it was given. ``notes``: what was changed, for the report."""

    model: CheckedModel
    source: CheckedModel
    notes: tuple[str, ...]


def prepare_onnx(source: bytes, *, where: str, example: Mapping[str, NDArray[Any]] | None = None) -> PreparedModel:
    """Accepts an ONNX file and brings it into normal form.

    Runs the model some ten times and makes as many sessions; holds a few copies of it in memory. Deterministic.

    Args:
        source: the file.
        where: its name for errors.
        example: a few rows of DATA by input name; without them the comparison is on noise.

    Raises:
        UsageError: not a model that can be packed.
        FormatError, LimitError: the walker refuses the file.
    """
    accepted = accept_onnx(source, where=where)
    model, notes = accepted.model, list(accepted.notes)
    types = float_types(model)
    if types:
        model = to_float32(model)
        notes.append(f"{', '.join(types)} widened to float32" if types != ("float64",) else "float64 narrowed to float32")
    fixed = _fixed_batch(accepted.checked)
    plain, constant_notes = plain_constants(model)
    notes += constant_notes
    comparison, reference_notes = _reference(accepted.checked, plain, types, example or {}, fixed_batch=fixed, where=where)
    notes += reference_notes
    if fixed is not None:
        plain = set_batch(plain, "batch")
    allowed = max([_FOLDING, *(_ROUNDING[name] for name in types)])
    data, way_notes = _first_that_holds(plain, comparison, allowed=allowed, fixed_batch=fixed, where=where)
    notes += way_notes
    data, batch_notes = _settle_batch(data, comparison)
    data = _settle_sizes(data, comparison)
    data = _settle_outputs(data, comparison)
    return PreparedModel(check_own(data, where=where), accepted.checked, (*notes, *batch_notes, *_feature_notes(data)))


def _reference(
    source: CheckedModel,
    plain: bytes,
    types: tuple[str, ...],
    example: Mapping[str, NDArray[Any]],
    *,
    fixed_batch: int | None,
    where: str,
) -> tuple[Comparison, tuple[str, ...]]:
    """What the original gives; of a half-precision model that the runtime has no kernels for, what its FP32 form gives."""
    try:
        if "bfloat16" not in types:  # numpy has no such arrays to feed
            return make_comparison(source, example, fixed_batch=fixed_batch, where=where, basic=bool(types)), ()
    except UsageError:
        if not types:
            raise
    widened = make_comparison(
        check_model(plain, features=_features(plain), limits=ANY_PACKING), example, fixed_batch=fixed_batch, where=where
    )
    return widened, ("the runtime does not run the original's float type; compared in FP32 only",)


def _first_that_holds(
    plain: bytes, comparison: Comparison, *, allowed: float, fixed_batch: int | None, where: str
) -> tuple[bytes, tuple[str, ...]]:
    """The most thorough conversion that leaves the outputs as they were."""
    reasons: list[str] = []
    for data, notes in _ways(plain, reasons):
        gap, output = comparison.gap(check_own(data, where=where))
        if gap <= allowed:
            return data, notes
        reasons.append(f"{output}: off by {gap:g} of its size" if np.isfinite(gap) else output)
        logger.info("a conversion was left out: %s", reasons[-1])
    if fixed_batch is not None:
        raise UsageError(
            f"the model has a fixed batch of {fixed_batch}",
            code="model_signature",
            where=where,
            expected="a first axis for the batch that is 1 or dynamic",
            actual=f"with another batch: {reasons[0][:160]}",
            hint="export it with a dynamic first axis (torch: dynamic_axes), or with a batch of 1",
        )
    raise SealiftError(
        "preparing the model changed its output",
        code="pack_outputs_changed",
        where=where,
        expected=f"differences of at most {allowed:g} of the output's size",
        actual=reasons[0][:200],
        hint="report this model: the step must not change results",
    )


def _ways(plain: bytes, reasons: list[str]) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Conversions from the most to the least thorough. Folding first: it takes away much of what converters fail on."""
    folded, fold_notes = try_fold(plain)
    raised, raise_notes = raise_opset(folded)
    if raised is not folded:
        again, again_notes = try_fold(raised)
        yield _short(again), (*fold_notes, *raise_notes, *again_notes)
        kept = f"opset {standard_opset(onnx.load_from_string(plain))} kept: the conversion changed the outputs"
        yield _short(folded), (*fold_notes, kept)
    else:
        yield _short(folded), (*fold_notes, *raise_notes)
    if folded is not plain:
        yield _short(plain), ("constants not folded: folding changed the outputs",)
    yield plain, ("graph left as it is: shortening changed the outputs",)


def _short(data: bytes) -> bytes:
    return shrink_model(flat_biases(data))


def _fixed_batch(source: CheckedModel) -> int | None:
    """The batch that all inputs and outputs have, if it is fixed and above one; other fixed first axes are no batch."""
    firsts = {spec.shape[0] if spec.shape else None for spec in (*source.inputs, *source.outputs)}
    first = firsts.pop() if len(firsts) == 1 else None
    return first if isinstance(first, int) and first > 1 else None


def _settle_batch(data: bytes, comparison: Comparison) -> tuple[bytes, tuple[str, ...]]:
    """One row per run, if rows in one run change each other's outputs or do not run at all."""
    model = check_own(data)
    if not _is_free(model, comparison) or len(comparison.expected) < 2 or comparison.batch_gap(model) <= _FOLDING:
        return data, ()
    single = shrink_model(set_batch(data, 1))
    return single, ("batch fixed to one row: rows in one run change each other's outputs, or do not run together",)


def _settle_sizes(data: bytes, comparison: Comparison) -> bytes:
    """Constants for size arithmetic where the batch is the only dynamic axis, if the outputs stay as they were."""
    model = check_own(data)
    if not _is_free(model, comparison) or any(not isinstance(size, int) for spec in model.inputs for size in row_shape(spec)):
        return data
    plain = constant_sizes(data, {name: array[:1] for name, array in comparison.rows.items()})
    if plain is data:
        return data
    shorter = _short(try_fold(plain)[0])
    after = check_own(shorter)
    before = Comparison(comparison.rows, tuple(comparison.run(model)))
    return shorter if before.gap(after)[0] <= _FOLDING and comparison.batch_gap(after) <= _FOLDING else data


def _is_free(model: CheckedModel, comparison: Comparison) -> bool:
    """True if every input takes any number of rows along its first axis."""
    return all(
        is_batched(spec)
        and not isinstance((spec.shape or (1,))[0], int)
        and comparison.rows[spec.name].ndim == len(spec.shape or ())
        for spec in model.inputs
    )


def _settle_outputs(data: bytes, comparison: Comparison) -> bytes:
    """Writes the sizes of output axes where they can only be the ones seen: converters leave made-up names there."""
    model = onnx.load_from_string(data)
    specs = check_own(data).inputs
    if any(not isinstance(size, int) for spec in specs for size in row_shape(spec)):
        return data
    batch = {spec.shape[0] for spec in specs if is_batched(spec) and spec.shape}
    name = batch.pop() if len(batch) == 1 else None
    for value in model.graph.output:
        seen = {outputs[value.name].shape for outputs in comparison.expected}
        shape = seen.pop() if len(seen) == 1 else None
        if shape is None or name is None or not shape or shape[0] != 1:
            continue
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in (name, *shape[1:]):
            dim = dims.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size:  # an axis without a name stays without one, for an empty name costs bytes
                dim.dim_param = size
    settled: bytes = model.SerializeToString(deterministic=True)
    return settled


def _features(data: bytes) -> tuple[str, ...]:
    return graph_features(onnx.load_from_string(data).graph)


def _feature_notes(data: bytes) -> tuple[str, ...]:
    features = _features(data)
    return (f"needs of a device: {', '.join(features)}",) if features else ()
