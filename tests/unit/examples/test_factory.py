from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.factory import nets
from examples.factory.engines import HORIZON, LIFE_CAP, WINDOW, cut_windows, load_engines
from examples.factory.study import best_threshold


def _windows(cycles: tuple[int, ...] = (40, 35), ends: tuple[float, ...] = (0.0, 50.0)) -> object:
    engine = np.concatenate([np.full(count, number + 1) for number, count in enumerate(cycles)])
    values = np.arange(sum(cycles), dtype=np.float64)[:, None]
    return cut_windows(values, engine, np.array(ends), first=100)


def test_a_window_stays_in_its_engine_and_ends_at_its_own_cycle() -> None:
    found = _windows()
    assert found.rows.x.shape == (11 + 6, 1, WINDOW)  # type: ignore[attr-defined]
    assert found.engines.tolist() == [101] * 11 + [102] * 6  # type: ignore[attr-defined]
    assert found.rows.x[11, 0, 0] == 40  # type: ignore[attr-defined]


def test_a_fault_is_imminent_by_the_life_that_is_left_after_the_window() -> None:
    found = _windows(ends=(25.0, 50.0))
    np.testing.assert_array_equal(found.rows.y[:11], np.arange(35, 24, -1) <= HORIZON)  # type: ignore[attr-defined]
    assert not found.rows.y[11:].any()  # type: ignore[attr-defined]
    assert found.rows.aid[-1] == pytest.approx(50 / LIFE_CAP)  # type: ignore[attr-defined]


def test_the_threshold_is_where_f1_is_highest() -> None:
    scores, labels = np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0])
    assert best_threshold(scores, labels) == 0.7
    assert best_threshold(scores, np.array([1, 0, 0, 0])) == 0.9


def test_the_student_has_at_most_a_fortieth_of_the_teachers_parameters() -> None:
    assert nets.teacher().parameters_shipped >= 40 * nets.student().parameters_shipped


def test_no_engine_is_in_two_parts_of_the_real_data(data_dir: Path) -> None:
    engines = load_engines(data_dir)
    parts = [set(part.engines.tolist()) for part in (engines.fit, engines.validation, engines.test)]
    assert [len(part) for part in parts] == [80, 20, 100]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert engines.fit.rows.x.shape[1:] == (nets.SENSORS, WINDOW)
    assert engines.test.rows.y.mean() < engines.fit.rows.y.mean() / 4
