"""Area under the curve with intervals, and paired differences between models, without resampling.

Source: DeLong 1988. Members and held-outs are samples; the model is given. The area hides the tail: an attack that is sure of few
records and blind for the rest has an area near one half and is a leak all the same, so the area decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from audits.membership.scores import Doubles

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Area:
    """An area with its parts.

    Attributes:
        value: probability that a member scores above a held-out; ties count half.
        of_members: share of held-outs below each member, (n1,).
        of_heldouts: share of members above each held-out, (n0,).
    """

    value: float
    of_members: Doubles
    of_heldouts: Doubles

    def interval(self, *, confidence: float) -> tuple[float, float]:
        """Normal interval, cut to [0, 1]; where all pairs agree, the rule of three on the smaller side."""
        deviation = math.sqrt(_variance(self.of_members) + _variance(self.of_heldouts))
        if deviation == 0.0:
            reach = min(1.0, -math.log((1 - confidence) / 2) / min(len(self.of_members), len(self.of_heldouts)))
            return max(0.0, self.value - reach), min(1.0, self.value + reach)
        reach = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation
        return max(0.0, self.value - reach), min(1.0, self.value + reach)


def area(scores: Doubles, member: Bools) -> Area:
    """The area for scores where higher means member."""
    inside, outside = scores[member], scores[~member]
    low, high = np.sort(outside), np.sort(inside)
    of_members = (np.searchsorted(low, inside, side="left") + np.searchsorted(low, inside, side="right")) / (2.0 * len(low))
    below = np.searchsorted(high, outside, side="left") + np.searchsorted(high, outside, side="right")
    return Area(float(of_members.mean()), of_members, 1.0 - below / (2.0 * len(high)))


def difference(first: Area, second: Area, *, confidence: float) -> tuple[float, tuple[float, float]]:
    """``first`` minus ``second`` on the same records, with its interval; what both have in common cancels."""
    deviation = math.sqrt(_variance(first.of_members - second.of_members) + _variance(first.of_heldouts - second.of_heldouts))
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation
    estimate = first.value - second.value
    return estimate, (estimate - reach, estimate + reach)


def _variance(parts: Doubles) -> float:
    """Variance of the mean of independent parts."""
    return float(parts.var(ddof=1)) / len(parts) if len(parts) > 1 else 0.0
