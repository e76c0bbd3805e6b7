"""ECG5000: 5000 heartbeats of ONE patient, 140 samples each, in the archive's own division: 500 to train, 4500 to test.

The data folder holds all beats scaled, in another order, and the 500 training beats unscaled. Scaling is linear per time step,
so the training beats can be found again among the scaled ones, each by its shape; that the labels then agree for all 500 proves
it. Every beat of both parts is from record chf07 of one person: nothing here says how a network does on another heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.training import Rows

FILES = ("ecg5000_scaled_5000.npz", "ecg5000_train_raw_500.npz")
FIT_SHARE = 0.8
_REFITS = 2
_TOLERANCE = 1e-4  # of a beat's root mean square difference; found: 2e-7


@dataclass(frozen=True)
class Beats:
    """The division. ``x``: float32, (N, 1, 140), standardised by the training beats. ``y``: int64, 1 for abnormal."""

    train: Rows
    test: Rows

    def divided(self, seed: int) -> tuple[Rows, Rows]:
        """Training beats to fit (and calibrate) on, and the rest to choose by; both kinds of beat alike in each."""
        rng = np.random.default_rng(seed)
        fit = np.zeros(len(self.train), dtype=bool)
        for label in (0, 1):
            rows = rng.permutation(np.flatnonzero(self.train.y == label))
            fit[rows[: round(FIT_SHARE * len(rows))]] = True
        return _take(self.train, fit), _take(self.train, ~fit)


def load_beats(folder: Path) -> Beats:
    """Reads the two files of ``folder``, or of ``ecg5000`` in it.

    Raises:
        FileNotFoundError: they are in neither.
        ValueError: the training beats are not among the scaled ones, or carry other labels there.
    """
    where = next((path for path in (folder, folder / "ecg5000") if (path / FILES[0]).is_file()), None)
    if where is None:
        raise FileNotFoundError(f"no {FILES[0]} in {folder}; see docs/data.md")
    with np.load(where / FILES[0], allow_pickle=False) as scaled, np.load(where / FILES[1], allow_pickle=False) as raw:
        beats = np.concatenate([scaled["train_normal"], scaled["test"]])
        labels = np.concatenate([np.zeros(len(scaled["train_normal"])), scaled["test_label"]]).astype(np.int64)
        place = find_rows(raw["signal"], beats)
        if not np.array_equal(labels[place], (raw["label"] != 1).astype(np.int64)):
            raise ValueError("the training beats have other labels among the scaled ones")
    is_train = np.zeros(len(beats), dtype=bool)
    is_train[place] = True
    x = ((beats - beats[is_train].mean()) / beats[is_train].std()).astype(np.float32)[:, None]
    everything = Rows(x, labels)
    return Beats(_take(everything, is_train), _take(everything, ~is_train))


def find_rows(raw: NDArray[Any], scaled: NDArray[Any]) -> NDArray[np.int64]:
    """For each row of ``raw`` (N, T) its place in ``scaled`` (M, T), where column t of one is a line over that of the other.

    Starts from columns of equal median and spread, then fits each line to the pairs found.

    Raises:
        ValueError: a row has no such place, or shares it.
    """
    wanted, known = _spread(raw.astype(np.float64)), _spread(scaled.astype(np.float64))
    moved = wanted
    for _ in range(_REFITS):
        place = _nearest(moved, known)
        line = [np.polyfit(wanted[:, step], known[place, step], 1) for step in range(wanted.shape[1])]
        moved = np.stack([np.polyval(line[step], wanted[:, step]) for step in range(wanted.shape[1])], axis=1)
    place = _nearest(moved, known)
    errors = np.sqrt(np.mean((moved - known[place]) ** 2, axis=1))
    if len(set(place.tolist())) != len(place) or errors.max() > _TOLERANCE:
        raise ValueError(f"not rows of the same data: the worst differs by {errors.max():.2g}")
    return place


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    spread: NDArray[np.float64] = (values - np.median(values, axis=0)) / (values.std(axis=0) + 1e-12)
    return spread


def _nearest(rows: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.int64]:
    distances = (known**2).sum(axis=1)[None] - 2 * rows @ known.T
    return np.asarray(distances.argmin(axis=1), dtype=np.int64)


def _take(rows: Rows, mask: NDArray[np.bool_]) -> Rows:
    return Rows(rows.x[mask], rows.y[mask])
