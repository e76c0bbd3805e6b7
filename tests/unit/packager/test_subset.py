from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from packager.data import Dataset
from packager.subset import subset

from .models import rows


def data_of(labels: Any, *, count: int = 200) -> Dataset:
    return Dataset({"x": rows(count)}, labels, None, None, "data")


def kinds(data: Dataset) -> Any:
    return data.labels


def test_a_subset_keeps_the_share_of_each_class_and_every_class() -> None:
    labels = np.array([0] * 150 + [1] * 47 + [2] * 3)
    found = subset(data_of(labels), 40, seed=0)
    counts = np.bincount(kinds(found))
    assert counts.sum() == 40
    assert counts[2] >= 1
    assert abs(counts[0] - 30) <= 1
    assert abs(counts[1] - 9) <= 1
    assert sorted(kinds(subset(data_of(labels), 3, seed=0)).tolist()) == [0, 1, 2]


def test_a_subset_is_the_same_every_time_and_whatever_the_order_of_the_source() -> None:
    data = data_of(np.arange(200) % 3)
    one = subset(data, 50, seed=4)
    shuffled = subset(data.take(np.random.default_rng(0).permutation(200)), 50, seed=4)
    assert set(one.row_digests()) == set(shuffled.row_digests())
    assert set(one.row_digests()) != set(subset(data, 50, seed=5).row_digests())


@pytest.mark.parametrize("labels", [None, np.linspace(0, 1, 200)])
def test_without_classes_rows_are_chosen_alike_and_in_their_order(labels: Any) -> None:
    data = data_of(labels)
    found = subset(data, 30, seed=0)
    digests = data.row_digests()
    places = [digests.index(digest) for digest in found.row_digests()]
    assert len(places) == 30
    assert places == sorted(places)
    assert len(np.unique(np.asarray(places) // 50)) == 4


def test_a_smaller_subset_is_part_of_a_larger_one() -> None:
    data = data_of(np.arange(200) % 4)
    assert set(subset(data, 20, seed=0).row_digests()) < set(subset(data, 80, seed=0).row_digests())


def test_more_rows_than_there_are_give_all_of_them() -> None:
    data = data_of(None)
    assert subset(data, 200, seed=0) is data
    with pytest.raises(ValueError, match="at least 1"):
        subset(data, 0, seed=0)
