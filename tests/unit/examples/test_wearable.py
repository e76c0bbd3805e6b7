from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.training import Rows
from examples.wearable import nets
from examples.wearable.beats import Beats, find_rows, load_beats


def _scaled(rows: int = 60, steps: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scaled = rng.standard_normal((rows, steps)).cumsum(axis=1)
    place = rng.permutation(rows)[: rows // 2]
    raw = scaled[place] * rng.uniform(0.5, 3, steps) + rng.standard_normal(steps)
    return raw, scaled, place


def test_rows_are_found_again_whatever_line_each_column_went_through() -> None:
    raw, scaled, place = _scaled()
    np.testing.assert_array_equal(find_rows(raw, scaled), place)


def test_rows_of_other_data_are_not_found() -> None:
    raw, scaled, _ = _scaled()
    raw[3] = raw[4] + 0.5
    with pytest.raises(ValueError, match="not rows of the same data"):
        find_rows(raw, scaled)


def test_the_division_by_seed_keeps_both_kinds_in_both_parts_and_no_beat_twice() -> None:
    x = np.arange(50, dtype=np.float32).reshape(50, 1, 1)
    rows = Rows(x, (np.arange(50) % 5 == 0).astype(np.int64))
    fit, held = Beats(rows, rows).divided(0)
    assert (len(fit), len(held)) == (40, 10)
    assert (fit.y.sum(), held.y.sum()) == (8, 2)
    assert not set(fit.x.ravel()) & set(held.x.ravel())
    assert not np.array_equal(fit.x, Beats(rows, rows).divided(1)[0].x)


def test_the_baseline_has_the_parameters_that_it_is_known_by_and_the_student_far_fewer() -> None:
    assert nets.baseline().parameters_shipped == nets.BASELINE_PARAMETERS
    assert nets.student().parameters_shipped < nets.BASELINE_PARAMETERS / 40


def test_a_folder_without_the_data_says_where_to_find_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/data\.md"):
        load_beats(tmp_path)


def test_the_archives_own_training_beats_are_found_among_the_scaled_ones(data_dir: Path) -> None:
    beats = load_beats(data_dir)
    assert (len(beats.train), len(beats.test)) == (500, 4500)
    assert int(beats.train.y.sum()) == 208
    assert abs(float(beats.train.x.mean())) < 1e-4
