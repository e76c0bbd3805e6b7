"""The technique ``prune-channels``: from a prepared ONNX file to a smaller one with fewer channels.

    view -> trace (who depends on whom) -> rank (what costs least) -> allocate -> cut -> refit -> check

For models without a program that could train them. There is no recovery training: what a removed channel did is made up
for by fitting the layers behind it on calibration rows. That carries a moderate ratio and no more; whether the result
is good enough is for the judge of the accuracy budget to say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx

from device_client.errors import SealiftError, UsageError
from packager.data import Dataset
from packager.prune_onnx.config import PruneChannels

if TYPE_CHECKING:
    from packager.prune_onnx.graph import GraphView
    from packager.prune_onnx.refit import Refit
    from packager.prune_onnx.select import Ranking
    from packager.prune_onnx.trace import Trace
    from packager.technique import Compressed, TechniqueContext

MOST = 0.75
"""Of one group's channels that ``global`` may remove, whatever the ratio."""

ROWS_AT_FULL_RATIO, LEAST_ROWS = 256, 32
"""Calibration rows that are asked for: the first times the ratio, at least the second. Measured: see docs/recipes.md."""

_CHECK_ROWS = 64
_FIT_ELEMENTS, _LEAST_FIT_ROWS = 2**27, 128
"""Of all tensors together, and whatever that leaves: bounds the time that fitting a large image network takes."""


def prune_channels(model: Compressed, config: PruneChannels, context: TechniqueContext) -> Compressed:
    """Prunes ``model.data``; the result has no torch module any more.

    Raises:
        UsageError: too few calibration rows for this ratio (``prune_data``), or nothing can be pruned (``prune_nothing``).
        SealiftError: the pruned graph does not run as it should (``prune_check``): a defect of ours.
    """
    from packager.prune_onnx.allocate import allocate
    from packager.prune_onnx.cut import cut_channels
    from packager.prune_onnx.graph import GraphView
    from packager.prune_onnx.probe import scale_costs, spread_rows
    from packager.prune_onnx.refit import refit_layers
    from packager.prune_onnx.select import rank_groups
    from packager.prune_onnx.trace import trace_channels
    from packager.shrink import shrink_model
    from packager.technique import Compressed

    rows = context.calibration
    _check_rows(rows, config)
    view = GraphView(model.data, rows)
    _check_names(view, config)
    trace = trace_channels(view, exclude=config.exclude)
    rankings = rank_groups(
        trace, model.data, rows, most=max(MOST, config.ratio), min_channels=config.min_channels, seed=context.seed
    )
    if config.allocation == "global":
        rankings = scale_costs(trace, model.data, rankings, rows, seed=context.seed)
    counts = allocate(rankings, config)
    removed = {root for ranking, count in zip(rankings, counts, strict=True) for root in ranking.order[:count]}
    if not removed:
        raise _nothing(trace, rankings)
    pruned = cut_channels(trace, removed)
    some = spread_rows(rows, view, elements=_FIT_ELEMENTS, least=_LEAST_FIT_ROWS, most=len(rows))
    refits = refit_layers(trace, model.data, pruned, removed, some, seed=context.seed) if config.refit else []
    data = shrink_model(pruned.SerializeToString(deterministic=True))
    evidence = {
        "technique": "prune-channels",
        "channels_removed": len(removed),
        "channels_removable": sum(ranking.count for ranking in rankings),
        "bytes": [len(model.data), len(data)],
        "output_change": _check(model.data, data, rows),
        "groups": _groups(trace, rankings, counts),
        "refits": _refits(trace, refits),
    }
    return Compressed(data, model.precision, (*model.evidence, evidence))


def _check_rows(rows: Dataset, config: PruneChannels) -> None:
    needed = max(LEAST_ROWS, math.ceil(ROWS_AT_FULL_RATIO * config.ratio))
    if len(rows) < needed:
        raise UsageError(
            "too few calibration rows to prune channels by",
            code="prune_data",
            where="technique prune-channels",
            expected=f"at least {needed} rows for ratio {config.ratio:g}",
            actual=len(rows),
            hint="give more data, a larger calibration_share, or a smaller ratio",
        )


def _check_names(view: GraphView, config: PruneChannels) -> None:
    known = {view.label(index) for index in range(len(view.nodes))}
    for name in config.exclude:
        if name not in known:
            raise UsageError(
                "no such node to exclude",
                code="recipe_value",
                where="technique prune-channels: exclude",
                expected="operator#position, such as Conv#3; the report of a run without 'exclude' lists them",
                actual=repr(name)[:60],
            )


def _nothing(trace: Trace, rankings: list[Ranking]) -> UsageError:
    removable = sum(ranking.count for ranking in rankings)
    layers = sum(1 for mixer in trace.mixers)
    return UsageError(
        "no channel of this model can be pruned",
        code="prune_nothing",
        where="technique prune-channels",
        expected="at least one channel to remove",
        actual=f"{layers} layers, {removable} removable channels in {len(rankings)} groups, none chosen",
        hint="give a larger ratio, or smaller round_to and min_channels" if removable else "leave the technique out for this model",
    )


def _check(before: bytes, after: bytes, rows: Dataset) -> dict[str, float]:
    """Shapes by inference and by running, finite values; how far each output moved, as a share of its variance.

    The rows are of those that the fit saw, so the figure says that the model works, not how well.
    """
    from packager.prune_onnx.probe import output_changes, run_outputs

    onnx.shape_inference.infer_shapes(onnx.load_from_string(after), check_type=True, strict_mode=True)
    some = rows.take(np.arange(min(_CHECK_ROWS, len(rows))))
    old, new = run_outputs(before, some), run_outputs(after, some)
    for name, want in old.items():
        have = new[name]
        if want.shape != have.shape or (have.dtype.kind == "f" and not np.isfinite(have).all()):
            raise SealiftError(
                "pruning broke the model's output",
                code="prune_check",
                where=name,
                expected=f"{want.dtype} {want.shape}, finite",
                actual=f"{have.dtype} {have.shape}",
                hint="report this model; leave the technique out for it",
            )
    return {name: round(change, 6) for name, change in output_changes(old, new).items()}


def _groups(trace: Trace, rankings: list[Ranking], counts: list[int]) -> list[dict[str, object]]:
    return [
        {
            "layers": [trace.view.label(owner) for owner in ranking.owners],
            "channels": ranking.count,
            "removed": count,
            "cost": round(sum(ranking.costs[:count]), 6),
        }
        for ranking, count in zip(rankings, counts, strict=True)
    ]


def _refits(trace: Trace, refits: list[Refit]) -> list[dict[str, object]]:
    return [{"layer": trace.view.label(item.node), "error": [round(item.before, 6), round(item.after, 6)]} for item in refits]
