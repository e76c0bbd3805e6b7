"""Channels that can only be removed together, as sets that grow while a graph is read.

A *unit* is one output channel of one layer when it is born. Where the graph adds two tensors, or convolves each channel
by itself, the units of both sides become one. A unit that reaches something which is not understood is *fixed*: it stays.
The id ``FIXED`` stands for a channel that never was a unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FIXED = -1
Ids = NDArray[np.int64]


class Units:
    """Disjoint sets of channels with a mark "stays"."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: list[bool] = []
        self.owner: list[int] = []

    def new(self, count: int, *, owner: int) -> Ids:
        """``count`` new units, born at the node ``owner``."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        self._fixed.extend([False] * count)
        self.owner.extend([owner] * count)
        return np.arange(first, first + count, dtype=np.int64)

    def root(self, unit: int) -> int:
        """The name of the set that ``unit`` belongs to, or ``FIXED``."""
        if unit == FIXED:
            return FIXED
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return FIXED if self._fixed[unit] else unit

    def roots(self, units: Ids) -> Ids:
        """The same for many units."""
        return np.asarray([self.root(int(unit)) for unit in units], dtype=np.int64)

    def couple(self, first: Ids, second: Ids) -> None:
        """The units at equal positions can only be removed together."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            if FIXED in (one, other):
                self.fix(np.asarray([one, other], dtype=np.int64))
                continue
            low, high = sorted((self._raw_root(one), self._raw_root(other)))
            self._parent[high] = low
            self._fixed[low] = self._fixed[low] or self._fixed[high]

    def fix(self, units: Ids) -> None:
        """These units stay."""
        for unit in units.tolist():
            if unit != FIXED:
                self._fixed[self._raw_root(unit)] = True

    def groups(self) -> list[tuple[tuple[int, ...], list[int]]]:
        """Layers whose channels are coupled, and the sets of units that can be removed from them.

        Returns:
            (owners, roots) for each group with at least one removable set; both sorted.
        """
        leader: dict[int, int] = {}

        def find(owner: int) -> int:
            while leader.setdefault(owner, owner) != owner:
                owner = leader[owner]
            return owner

        for unit, owner in enumerate(self.owner):
            low, high = sorted((find(owner), find(self.owner[self._raw_root(unit)])))
            leader[high] = low
        owners: dict[int, set[int]] = {}
        members: dict[int, set[int]] = {}
        for unit, owner in enumerate(self.owner):
            owners.setdefault(find(owner), set()).add(owner)
            if (root := self.root(unit)) != FIXED:
                members.setdefault(find(owner), set()).add(root)
        return [(tuple(sorted(owners[key])), sorted(members[key])) for key in sorted(members)]

    def _raw_root(self, unit: int) -> int:
        while self._parent[unit] != unit:
            unit = self._parent[unit]
        return unit
