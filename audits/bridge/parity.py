"""Parity of the bridge with the runtime: measured on every run, recorded, and bounded by the policy.

An attack on a program that is not the shipped model says nothing about the shipped model. What it does not show: agreement
on inputs that were not tried; so the audit scores every reconstruction with the runtime as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.bridge.graph import Graph
from audits.bridge.tap import Tap

Floats = npt.NDArray[np.float32]
_QUANTISERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_FALLBACK_LEVELS = 255  # a graph that is quantised inside and not at its output: one level of eight bits of the output's range


@dataclass(frozen=True)
class ParityBounds:
    """How far bridge and runtime may differ.

    Attributes:
        float_absolute: for graphs without quantisers, relative to max(1, largest output).
        quanta: for quantised graphs, in steps of the output's quantiser.
        quantised_cap: the most for quantised graphs, relative likewise.
    """

    float_absolute: float
    quanta: float
    quantised_cap: float


@dataclass(frozen=True)
class Parity:
    """A measured parity; ``max_difference`` and ``bound`` in output units, over ``rows`` inputs."""

    max_difference: float
    bound: float
    rows: int
    quantised: bool

    @property
    def holds(self) -> bool:
        """True if the difference is finite and within the bound."""
        return bool(np.isfinite(self.max_difference)) and self.max_difference <= self.bound


def measure_parity(bridge: Floats, runtime: Floats, *, graph: Graph, tap: Tap, bounds: ParityBounds) -> Parity:
    """Compares outputs of the same rows; (N, C) each."""
    quantised = any(node.op in _QUANTISERS for node in graph.nodes)
    largest = max(1.0, float(np.max(np.abs(runtime), initial=0.0)))
    if quantised:
        step = largest / _FALLBACK_LEVELS if tap.quantum is None else tap.quantum
        bound = min(bounds.quanta * step, bounds.quantised_cap * largest)
    else:
        bound = bounds.float_absolute * largest
    # non-finite outputs never compare as equal
    difference = float(np.max(np.abs(bridge.astype(np.float64) - runtime.astype(np.float64)), initial=0.0))
    return Parity(max_difference=difference, bound=bound, rows=len(runtime), quantised=quantised)
