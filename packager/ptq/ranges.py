"""Which real range an activation's 256 levels cover: whole, or clipped where that costs less than it saves.

``minmax``: all that was seen. ``percentile``: without the rarest values at each end. ``mse`` and ``entropy``: the clipping
that gives the smallest quantisation error, or the smallest Kullback-Leibler divergence, on a histogram of the values.
Whole numbers that 256 levels hold (pixels, bytes) get a step of exactly one, whatever the method: that loses nothing. A summand
before a Relu is cut where it can no longer change the result.

Cost: one pass over the rows for ``minmax``, two for the others, whose histograms see at most 32768 evenly spaced values
per batch and tensor. Deterministic. Source of the divergence criterion: Migacz 2017, "8-bit inference with TensorRT"; ours
differs in that both ends of the range are searched and values beyond them count in the outermost bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.data import Dataset
from packager.ptq.graph import Array, GraphView
from packager.ptq.observe import observe

METHODS = ("minmax", "percentile", "entropy", "mse")
_BINS = 2048
_LEVELS = 256
_MAX_VALUES = 32_768
_FRACTIONS = tuple(1 - step / 40 for step in range(34))  # 1.0 down to 0.175 of an end

Range = tuple[float, float]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values in equal bins from ``low`` to ``high``, both as seen."""

    low: float
    high: float
    counts: _Floats


def find_ranges(model: Any, names: Sequence[str], rows: Dataset, *, method: str, percentile: float) -> dict[str, Range]:
    """The range of each named FP32 value, always holding zero, so that zero has an exact level.

    Args:
        model: the FP32 model.
        names: of values of its main graph.
        rows: the calibration part.
        method: one of ``METHODS``.
        percentile: of ``percentile``: the share of values kept, in percent, 50 to 100.
    """
    ends: dict[str, Range] = dict.fromkeys(names, (0.0, 0.0))
    whole = set(names)
    for values in observe(model, names, rows):
        for name, array in values.items():
            if array.size:
                ends[name] = (min(ends[name][0], float(array.min())), max(ends[name][1], float(array.max())))
            if name in whole and (ends[name][1] - ends[name][0] > _LEVELS - 1 or np.any(array != np.rint(array))):
                whole.discard(name)
    lowest = _lowest_that_count(model, ends)
    ends.update({name: (max(ends[name][0], low), ends[name][1]) for name, low in lowest.items()})
    exact = {name: (ends[name][0], ends[name][0] + _LEVELS - 1) for name in whole if ends[name][1] > ends[name][0]}
    if method == "minmax":
        return {**ends, **exact}
    counts = {name: np.zeros(_BINS) for name in ends}
    for values in observe(model, names, rows):
        for name, array in values.items():
            counts[name] += _count(array, ends[name])
    clipped = {name: clip(Histogram(*ends[name], counts[name]), method=method, percentile=percentile) for name in ends}
    lowest = _lowest_that_count(model, clipped)
    clipped.update({name: (max(clipped[name][0], low), clipped[name][1]) for name, low in lowest.items()})
    return {**clipped, **exact}


def _lowest_that_count(model: Any, ends: Mapping[str, Range]) -> dict[str, float]:
    """How far down a summand of ``Relu(a + b)`` matters: below minus the other's largest value, the sum gives zero anyway.

    For summands that nothing else reads. In residual networks this halves the step of the branch before the addition.
    """
    view = GraphView(model)
    found = {}
    for node in model.graph.node:
        after = view.consumers.get(node.output[0], []) if node.op_type == "Add" and view.is_private(node.output[0]) else []
        if after and after[0].op_type == "Relu" and all(name in ends for name in node.input):
            for name, other in (tuple(node.input), tuple(reversed(node.input))):
                if view.is_private(name):
                    found[name] = min(0.0, -ends[other][1])
    return found


def clip(histogram: Histogram, *, method: str, percentile: float) -> Range:
    """The range for one histogram."""
    low, high = histogram.low, histogram.high
    if not high > low or not histogram.counts.sum() > 0:
        return low, high
    if method == "percentile":
        return _percentile(histogram, percentile)
    cost = _divergence if method == "entropy" else _squared_error
    high = _best([high * fraction for fraction in _FRACTIONS] if high > 0 else [high], lambda end: cost(histogram, low, end))
    low = _best([low * fraction for fraction in _FRACTIONS] if low < 0 else [low], lambda end: cost(histogram, end, high))
    return low, high


def _count(array: Array, ends: Range) -> _Floats:
    flat = array.reshape(-1)
    flat = np.clip(flat[:: max(1, flat.size // _MAX_VALUES)], *ends)
    if not ends[1] > ends[0]:
        return np.zeros(_BINS)
    return np.histogram(flat, bins=_BINS, range=ends)[0].astype(np.float64)


def _centres(histogram: Histogram) -> _Floats:
    width = (histogram.high - histogram.low) / _BINS
    centres: _Floats = histogram.low + width * (np.arange(_BINS, dtype=np.float64) + 0.5)
    return centres


def _percentile(histogram: Histogram, percentile: float) -> Range:
    shares = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1 - percentile / 100) / (2 if histogram.low < 0 < histogram.high else 1)
    width = (histogram.high - histogram.low) / _BINS
    high = histogram.low + width * (int(np.searchsorted(shares, 1 - tail)) + 1)
    low = histogram.low + width * int(np.searchsorted(shares, tail, side="right"))
    return (min(0.0, low) if histogram.low < 0 else histogram.low), (max(0.0, high) if histogram.high > 0 else histogram.high)


def _best(ends: Sequence[float], cost: Callable[[float], float]) -> float:
    return min(ends, key=cost)  # of equal costs the first, which clips least


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    step = max((high - low) / (_LEVELS - 1), 1e-30)
    centres = _centres(histogram)
    levels = np.clip(np.rint((centres - low) / step), 0, _LEVELS - 1) * step + low
    # Inside one bin values differ, so a step below a bin's width still has the error of that step.
    inside = np.square(step) / 12 * ((centres >= low) & (centres <= high))
    return float((histogram.counts * np.maximum(np.square(centres - levels), inside)).sum())


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    centres = _centres(histogram)
    counts = histogram.counts.copy()
    counts[int(np.clip((0.0 - histogram.low) / (histogram.high - histogram.low) * _BINS, 0, _BINS - 1))] = 0  # zero is exact
    step = max((high - low) / (_LEVELS - 1), 1e-30)
    levels = np.clip(np.rint((centres - low) / step), 0, _LEVELS - 1).astype(np.int64)
    total = counts.sum()
    if not total:
        return 0.0
    inside = (centres >= low) & (centres <= high)
    first, last = int(inside.argmax()), int(_BINS - 1 - inside[::-1].argmax())
    held = np.bincount(levels[inside], weights=counts[inside], minlength=_LEVELS)
    filled = np.bincount(levels[inside], weights=(counts[inside] > 0).astype(np.float64), minlength=_LEVELS)
    approximated = (held / np.maximum(filled, 1))[levels]
    counts[first] += counts[:first].sum()
    counts[last] += counts[last + 1 :].sum()
    seen = (counts > 0) & inside
    share = counts[seen] / total
    return float((share * np.log(share / (np.maximum(approximated[seen], total * 1e-9) / total))).sum())
