"""Inversion from scores alone: natural evolution strategies in a low-frequency basis, for all classes at once.

Each class climbs the logarithm of its probability. The gradient comes from pairs of mirrored steps (antithetic NES); its
length is dropped, so that a saturated softmax does not stop the climb, and a small decay pulls back to the start, which
keeps the image smooth. A class stops when it is sure enough or its questions are used up.

Source: Wierstra 2014 (NES), Ilyas 2018 (mirrored pairs against classifiers). We differ: steps of fixed length, a cosine
basis, decay. What the images do not show: anything finer than the basis.

Determinism: ``seed``. Cost: at most ``queries`` answers for each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.blackbox.basis import Basis, low_frequencies
from audits.blackbox.oracle import FLOOR, Oracle
from audits.inversion import InputRange

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_LATE = 0.7  # share of the budget after which another model's image is tried
_START_NOISE = 0.1  # root mean square distance of later starts, as a share of the input range
_FLAT = 1e-9  # answers that differ by less say nothing about a direction


@dataclass(frozen=True)
class NesSettings:
    """Budget and shape of the search.

    Attributes:
        queries: answers for each class, at most, over all restarts.
        restarts: climbs for each class, as far as its answers last.
        pairs: mirrored pairs for one step.
        spread: root mean square distance of the asked points, as a share of the input range.
        step: the same for one step.
        decay: share of the way back to the start after each step.
        stop: probability at which a class is done.
    """

    queries: int
    restarts: int
    pairs: int
    spread: float
    step: float
    decay: float
    stop: float


@dataclass(frozen=True)
class BlackBoxImages:
    """What a black-box attack made.

    Attributes:
        images: float32, (R, C, ...), in the model's input space; where a class had no answers left for a restart, the image
            of which the model is surest stands in.
        confidence: (R, C), what the model gives class c for its images; of a label-only attack 1.0 where the label is right.
        queries: (C,), answers used for each class; shared ones are divided among the classes, rounded up.
    """

    images: Floats
    confidence: Doubles
    queries: Integers


def invert_by_scores(
    oracle: Oracle, *, start: Floats, bounds: InputRange, settings: NesSettings, seed: int, given: Floats | None = None
) -> BlackBoxImages:
    """Images for each class and restart.

    Args:
        oracle: the model.
        start: (...), where every class starts first: what anybody knows of the domain, never a record.
        bounds: input range; no question leaves it.
        settings: budget.
        seed: of all directions, and of the later starts, which are low-frequency noise around the first.
        given: (C, ...), images of another model; a class that is not done late in its budget goes on from there, if the
            model prefers that to what was found. First climb only.
    """
    used = np.zeros(oracle.classes, dtype=np.int64)
    images, confidence = [], []
    for restart in range(settings.restarts):
        left = settings.queries - used
        able = left > _cost(settings)
        if not able.any():
            break
        search = _Search(oracle, start=start, bounds=bounds, settings=settings, seed=seed, restart=restart, left=left)
        search.begin(np.flatnonzero(able))
        while len(rows := search.unfinished()):
            if given is not None and restart == 0:
                search.turn_to(given, rows)
            search.advance(rows)
        used += search.asked
        images.append(search.render(search.place, np.arange(oracle.classes)))
        confidence.append(np.where(able, search.confidence, -1.0))
    return _filled(np.stack(images), np.stack(confidence), used)


def _cost(settings: NesSettings) -> int:
    """Answers for a step, its result, and perhaps a look at the given image."""
    return 2 * settings.pairs + 2


def _filled(images: Floats, confidence: Doubles, used: Integers) -> BlackBoxImages:
    """Puts the surest image of a class wherever it could not pay for a restart."""
    classes = np.arange(images.shape[1])
    best = confidence.argmax(axis=0)
    for row in range(len(images)):
        lost = confidence[row] < 0
        images[row, lost] = images[best[lost], classes[lost]]
        confidence[row, lost] = confidence[best[lost], classes[lost]]
    return BlackBoxImages(images, confidence, used)


class _Search:
    """The state of all classes; coefficients are in units of the input range."""

    def __init__(
        self,
        oracle: Oracle,
        *,
        start: Floats,
        bounds: InputRange,
        settings: NesSettings,
        seed: int,
        restart: int,
        left: Integers,
    ) -> None:
        self._oracle, self._bounds, self._settings = oracle, bounds, settings
        self._basis: Basis = low_frequencies(start.shape)
        self._rng = np.random.default_rng([seed, 11, restart])
        classes, length = oracle.classes, float(np.sqrt(start.size))
        self._step = settings.step * length
        self._spread = settings.spread * length / float(np.sqrt(self._basis.size))
        unit = (start.astype(np.float64) - bounds.low) / bounds.width
        self._origin = np.repeat(unit[None].astype(np.float32), classes, axis=0)
        self.place = np.zeros((classes, self._basis.size), dtype=np.float32)
        if restart:
            noise = self._rng.standard_normal(self.place.shape, dtype=np.float32)
            self.place = (_START_NOISE * length / float(np.sqrt(self._basis.size)) * noise).astype(np.float32)
        self._left = left
        self.confidence = np.ones(classes)  # nobody climbs before ``begin``
        self.asked = np.zeros(classes, dtype=np.int64)
        self._turned = np.zeros(classes, dtype=np.bool_)

    def begin(self, rows: Integers) -> None:
        """Asks about the starts of the classes ``rows``."""
        self.confidence[rows] = self._oracle.probabilities(self.render(self.place[rows], rows))[np.arange(len(rows)), rows]
        self.asked[rows] += 1

    def turn_to(self, given: Floats, rows: Integers) -> None:
        """Moves late classes to the given image where the model prefers it; each class is asked once."""
        late = rows[(self.asked[rows] >= _LATE * self._settings.queries) & ~self._turned[rows]]
        if len(late) == 0:
            return
        self._turned[late] = True
        self.asked[late] += 1
        images = np.ascontiguousarray(given[late], dtype=np.float32)
        found = self._oracle.probabilities(images)[np.arange(len(late)), late]
        better = found > self.confidence[late]
        moved = late[better]
        self._origin[moved] = ((images[better] - self._bounds.low) / self._bounds.width).astype(np.float32)
        self.place[moved] = 0.0
        self.confidence[moved] = found[better]

    def unfinished(self) -> Integers:
        """Classes that are not sure enough and can pay for one more step."""
        able = self.asked + _cost(self._settings) <= self._left
        return np.flatnonzero((self.confidence < self._settings.stop) & able)

    def advance(self, rows: Integers) -> None:
        """One step for the classes ``rows``."""
        pairs = self._settings.pairs
        directions = self._rng.standard_normal((len(rows), pairs, self._basis.size), dtype=np.float32)
        offsets = self._spread * np.concatenate([directions, -directions], axis=1)
        points: Floats = (self.place[rows, None] + offsets).reshape(-1, self._basis.size).astype(np.float32)
        labels = np.repeat(rows, 2 * pairs)
        found = self._oracle.probabilities(self.render(points, labels))[np.arange(len(labels)), labels]
        values = np.log(np.maximum(found, FLOOR)).reshape(len(rows), 2, pairs)
        gradient = np.einsum("np,npk->nk", values[:, 0] - values[:, 1], directions)
        norm = np.linalg.norm(gradient, axis=1, keepdims=True)
        towards = np.divide(gradient, norm, out=np.zeros_like(gradient), where=norm > _FLAT)
        self.place[rows] = ((1.0 - self._settings.decay) * self.place[rows] + self._step * towards).astype(np.float32)
        self.confidence[rows] = self._oracle.probabilities(self.render(self.place[rows], rows))[np.arange(len(rows)), rows]
        self.asked[rows] += 2 * pairs + 1

    def render(self, coefficients: Floats, labels: Integers) -> Floats:
        """Records inside the range."""
        flat: Floats = np.clip(self._origin[labels] + self._basis.compose(coefficients), 0.0, 1.0)
        return to_range(flat, self._bounds)


def to_range(unit: Floats, bounds: InputRange) -> Floats:
    """From units of the range to the model's input; the map may round past the ends."""
    inside: Floats = np.clip(bounds.low + bounds.width * unit, bounds.low, bounds.high).astype(np.float32)
    return inside
