"""A metric, bound to the truth that it compares with, and what a drop of it means.

    scores = metric.score(outputs)      # one entry per row
    metric.statistic.value(scores)      # the figure
    metric.loss(original, variant)      # what an accuracy budget is compared with

A drop is in ``points`` (0.005 is half a point of accuracy) where the metric is a share by nature, else ``relative`` (0.005 is
half a percent of the original's figure).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packager.resampling import Floats, Resampler

Array = NDArray[Any]
Outputs = Mapping[str, Array]


class Unit(Enum):
    """What a drop of 1.0 means."""

    POINTS = "points"
    RELATIVE = "relative"


class Statistic(Protocol):
    """How one figure is made of the rows' scores, for all rows and for each resample."""

    @property
    def binary(self) -> bool:
        """Whether the figure is the mean of scores that are 0 or 1, one per row."""
        ...

    def value(self, scores: Floats) -> float:
        """The figure over all rows."""
        ...

    def draws(self, scores: Floats, resampler: Resampler) -> Floats:
        """The figure over each resample; NaN where a resample does not define it."""
        ...

    def carriers(self, resampler: Resampler) -> int:
        """The number of rows or groups that the figure rests on."""
        ...

    def reach(self, original: Floats, variant: Floats, resampler: Resampler) -> float:
        """By how much the figure would change if every carrier changed like the one that changed most; at least one step.

        In the unit that ``shifted`` takes.
        """
        ...

    def shifted(self, value: float, change: float) -> float:
        """The figure after a change as ``reach`` counts it."""
        ...


@dataclass(frozen=True)
class Metric:
    """A metric and the truth in ``score``, which takes outputs and gives one entry per row.

    ``outputs``: names of those that count. ``to_original``: the truth is the original's outputs, whose own figure is 1.
    ``smallest_scale``: relative drops are never divided by less, so that a figure near zero does not make noise a drop.
    """

    name: str
    unit: Unit
    statistic: Statistic
    score: Callable[[Outputs], Floats]
    outputs: tuple[str, ...]
    to_original: bool = False
    higher_is_better: bool = True
    smallest_scale: float = 1e-9

    def scale(self, original: Any) -> Any:
        """What a difference is divided by: floats or arrays of figures."""
        return 1.0 if self.unit is Unit.POINTS else np.maximum(np.abs(original), self.smallest_scale)

    def loss(self, original: Any, variant: Any) -> Any:
        """The drop from the original's figure to the variant's, positive where the variant is worse; floats or arrays."""
        difference = original - variant if self.higher_is_better else variant - original
        return difference / self.scale(original)
