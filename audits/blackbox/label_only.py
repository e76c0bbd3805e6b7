"""Inversion from the winning class alone: walk away from the border until a whole sphere belongs to the class.

First a search that all classes share: random low-frequency points around the start, nearer ones first; a point of a class
starts that class. Then each class asks about points on a sphere around its place. If all belong to it, the sphere grows;
otherwise it steps away from the mean direction of those that do not.

Source: Kahla 2022 (BREP-MI). We differ: a cosine basis instead of a generator that was trained on public pictures, so this
is much weaker, and a class that no random point ever hits gets no image. Weak means that a leak which it finds is
real, and that finding none says little.

Determinism: ``seed``. Cost: at most ``queries`` answers for each class, and ``search`` shared ones for each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.blackbox.basis import low_frequencies
from audits.blackbox.nes import BlackBoxImages, to_range
from audits.blackbox.oracle import Oracle
from audits.inversion import InputRange

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
_GROWTH = 1.2
_RINGS = 8  # the shared search grows its spread in this many rings
_STEP = 0.5  # of a step, as a share of the sphere's radius


@dataclass(frozen=True)
class LabelOnlySettings:
    """Budget and shape of the walk.

    Attributes:
        queries: answers for each class, at most.
        search: answers of the shared search, for each class.
        points: on one sphere.
        radius: of the first sphere, root mean square share of the input range.
    """

    queries: int
    search: int
    points: int
    radius: float


def invert_by_labels(
    oracle: Oracle, *, start: Floats, bounds: InputRange, settings: LabelOnlySettings, seed: int, given: Floats | None = None
) -> BlackBoxImages:
    """One image for each class; the start itself, with confidence 0, for classes that were never hit.

    Args:
        oracle: the model.
        start: (...), centre of the search.
        bounds: input range; no question leaves it.
        settings: budget.
        seed: of all points.
        given: (C, ...), images of another model; a class that the search did not find starts there, if the model agrees.
    """
    walk = _Walk(oracle, start=start, bounds=bounds, settings=settings, seed=seed)
    walk.search()
    if given is not None:
        walk.adopt(given)
    while len(rows := walk.unfinished()):
        walk.advance(rows)
    return BlackBoxImages(walk.render(walk.place)[None], walk.found.astype(np.float64)[None], walk.asked)


class _Walk:
    """The state of all classes; coefficients are in units of the input range."""

    def __init__(self, oracle: Oracle, *, start: Floats, bounds: InputRange, settings: LabelOnlySettings, seed: int) -> None:
        self._oracle, self._bounds, self._settings = oracle, bounds, settings
        self._basis = low_frequencies(start.shape)
        self._rng = np.random.default_rng([seed, 12])
        self._length = float(np.sqrt(start.size))
        self._start = ((start.astype(np.float64) - bounds.low) / bounds.width).astype(np.float32)
        self.place = np.zeros((oracle.classes, self._basis.size), dtype=np.float32)
        self.found = np.zeros(oracle.classes, dtype=np.bool_)
        self.asked = np.zeros(oracle.classes, dtype=np.int64)
        self._radius = np.full(oracle.classes, settings.radius * self._length)

    def search(self) -> None:
        """The first point of each class, in growing rings around the start."""
        classes = len(self.place)
        for ring in range(1, _RINGS + 1):
            if self.found.all():
                return
            count = max(1, self._settings.search * classes // _RINGS)
            points = self._sphere(count) * (ring / _RINGS * self._length)
            labels = self._oracle.labels(self.render(points))
            self.asked += -(-count // classes)
            for label in np.flatnonzero(~self.found):
                hits = np.flatnonzero(labels == label)
                if len(hits):
                    self.place[label], self.found[label] = points[hits[0]], True

    def adopt(self, given: Floats) -> None:
        """Starts a lost class at the given image, as far as the basis shows it, where the model agrees."""
        unit = (given.astype(np.float64) - self._bounds.low) / self._bounds.width - self._start
        places = (unit.reshape(len(given), -1) @ self._basis.functions.T).astype(np.float32)
        lost = np.flatnonzero(~self.found)
        if len(lost) == 0:
            return
        right = lost[self._oracle.labels(self.render(places[lost])) == lost]
        self.asked[lost] += 1
        self.place[right] = places[right]
        self.found[right] = True

    def unfinished(self) -> Integers:
        """Classes that have a place and can pay for one more sphere."""
        return np.flatnonzero(self.found & (self.asked + self._settings.points + 1 <= self._settings.queries))

    def advance(self, rows: Integers) -> None:
        """One sphere for the classes ``rows``: grow, or step away from what does not belong."""
        count = self._settings.points
        directions = self._sphere(len(rows) * count).reshape(len(rows), count, -1)
        points = self.place[rows, None] + self._radius[rows, None, None] * directions
        labels = self._oracle.labels(self.render(points.reshape(-1, self._basis.size).astype(np.float32))).reshape(len(rows), count)
        outside = labels != rows[:, None]
        away = -np.einsum("np,npk->nk", outside.astype(np.float64), directions)
        norm = np.linalg.norm(away, axis=1, keepdims=True)
        away = np.divide(away, norm, out=np.zeros_like(away), where=norm > 0)
        moved = (self.place[rows] + _STEP * self._radius[rows, None] * away).astype(np.float32)
        keeps = self._oracle.labels(self.render(moved)) == rows
        self.place[rows[keeps]] = moved[keeps]
        self._radius[rows[~outside.any(axis=1)]] *= _GROWTH
        self.asked[rows] += count + 1

    def render(self, coefficients: Floats) -> Floats:
        """Records inside the range."""
        return to_range(np.clip(self._start + self._basis.compose(coefficients), 0.0, 1.0), self._bounds)

    def _sphere(self, count: int) -> Floats:
        """Points on the unit sphere of the basis, (count, K)."""
        points = self._rng.standard_normal((count, self._basis.size), dtype=np.float32)
        scaled: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
        return scaled
