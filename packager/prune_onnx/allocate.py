"""Divides what shall be removed among the groups of a graph, from their rankings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from packager.prune_onnx.config import PruneChannels
from packager.prune_onnx.select import Ranking


def allocate(rankings: Sequence[Ranking], config: PruneChannels) -> list[int]:
    """How many sets go from each group.

    ``uniform``: the same share of each. ``global``: over all groups the cheapest, until the share of all sets is reached;
    a group's steps count with the dearest step so far, for they cannot be taken out of order.
    """
    if config.allocation == "uniform":
        counts = [min(int(config.ratio * ranking.count), len(ranking.order)) for ranking in rankings]
    else:
        target = int(config.ratio * sum(ranking.count for ranking in rankings))
        steps = sorted(
            (cost, at, step) for at, ranking in enumerate(rankings) for step, cost in enumerate(accumulate(ranking.costs, max))
        )
        counts = [0] * len(rankings)
        for _, at, _ in steps[:target]:
            counts[at] += 1
    return [_rounded(count, ranking.count, config.round_to) for count, ranking in zip(counts, rankings, strict=True)]


def _rounded(removed: int, count: int, multiple: int) -> int:
    left = count - removed
    return max(0, count - -(-left // multiple) * multiple) if removed else 0
