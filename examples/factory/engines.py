"""C-MAPSS FD001: will this engine fail within 30 cycles? Windows of 30 cycles, divided by engine.

100 engines run to failure train; 100 others, cut short at an unknown moment, test. In training one window in six is positive, in
the test one in thirty: a threshold or an F1 figure from one does not fit the other, so networks are judged by average precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.training import Rows

WINDOW = 30
HORIZON = 30
LIFE_CAP = 125.0  # a healthy engine's remaining life cannot be told from its sensors (Heimes 2008)
FILES = ("train_FD001.txt", "test_FD001.txt", "RUL_FD001.txt")
VALIDATION_EVERY = 5
_FIRST_SENSOR = 5


@dataclass(frozen=True)
class Windows:
    """Windows with the engine that each is from; ``rows.aid``: remaining life, capped, in [0, 1]."""

    rows: Rows
    engines: NDArray[np.int64]

    def take(self, mask: NDArray[np.bool_]) -> Windows:
        """The windows where ``mask`` is true."""
        aid = None if self.rows.aid is None else self.rows.aid[mask]
        return Windows(Rows(self.rows.x[mask], self.rows.y[mask], aid), self.engines[mask])


@dataclass(frozen=True)
class Engines:
    """Engines to fit on, to choose by, and to test on: no engine is in two of them."""

    fit: Windows
    validation: Windows
    test: Windows


def load_engines(folder: Path) -> Engines:
    """Reads the three files of ``folder``, or of ``cmapss-fd001`` in it.

    Sensors that never change are left out; the others are standardised by the engines to fit on.

    Raises:
        FileNotFoundError: they are in neither.
    """
    where = next((path for path in (folder, folder / "cmapss-fd001") if (path / FILES[0]).is_file()), None)
    if where is None:
        raise FileNotFoundError(f"no {FILES[0]} in {folder}; see docs/data.md")
    run, cut, left = (np.loadtxt(where / name) for name in FILES)
    held = run[:, 0] % VALIDATION_EVERY == 0
    sensors = run[~held, _FIRST_SENSOR:]
    moving = sensors.std(axis=0) > 1e-6
    centre, spread = sensors[:, moving].mean(axis=0), sensors[:, moving].std(axis=0)

    def windows(table: NDArray[np.float64], ends: NDArray[np.float64], *, first: int) -> Windows:
        values = (table[:, _FIRST_SENSOR:][:, moving] - centre) / spread
        return cut_windows(values, table[:, 0].astype(np.int64), ends, first=first)

    everything = windows(run, np.zeros(int(run[:, 0].max())), first=0)
    is_held = everything.engines % VALIDATION_EVERY == 0
    return Engines(everything.take(~is_held), everything.take(is_held), windows(cut, left, first=1000))


def cut_windows(values: NDArray[np.float64], engine: NDArray[np.int64], ends: NDArray[np.float64], *, first: int) -> Windows:
    """Every window of ``WINDOW`` cycles.

    Args:
        values: (cycles, sensors), engine after engine in time.
        engine: (cycles,), numbered from 1.
        ends: remaining life after an engine's last cycle, by engine.
        first: added to the numbers of engines.
    """
    x, life, of = [], [], []
    for number in np.unique(engine):
        cycles = values[engine == number].T
        for stop in range(WINDOW, cycles.shape[1] + 1):
            x.append(cycles[:, stop - WINDOW : stop])
            life.append(cycles.shape[1] - stop + ends[number - 1])
            of.append(number + first)
    remaining = np.array(life)
    aid = (np.minimum(remaining, LIFE_CAP) / LIFE_CAP).astype(np.float32)
    rows = Rows(np.array(x, dtype=np.float32), (remaining <= HORIZON).astype(np.int64), aid)
    return Windows(rows, np.array(of, dtype=np.int64))
