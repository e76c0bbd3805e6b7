"""Which of several models no other beats in everything at once: the Pareto front. A pure decision, no clock."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> tuple[bool, ...]:
    """For each point, whether it is on the front; every coordinate is a cost, less is better.

    Equal points are on the front together. NaN is worse than any number.
    """
    clean = [tuple(float("inf") if value != value else float(value) for value in point) for point in points]  # noqa: PLR0124
    return tuple(not any(_beats(other, point) for other in clean) for point in clean)


def _beats(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(a <= b for a, b in zip(other, point, strict=True))
