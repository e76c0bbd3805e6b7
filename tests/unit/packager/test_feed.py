"""Rows become inputs: along the batch, or whole where the input has no batch of its own."""

from __future__ import annotations

import numpy as np
import pytest

from device_client.inference.walker import ValueSpec
from packager.feed import feed_rows, is_batched, row_shape, rows_per_run

BATCHED = ValueSpec("x", "float32", ("N", 4))
SINGLE = ValueSpec("x", "float32", (1, 4))
STATE = ValueSpec("state", "float32", (2, "N", 3))
RATE = ValueSpec("rate", "int64", ())


@pytest.mark.parametrize(
    ("spec", "batched", "row"),
    [(BATCHED, True, (4,)), (SINGLE, True, (4,)), (STATE, False, (2, "N", 3)), (RATE, False, ())],
    ids=["dynamic", "one", "state", "scalar"],
)
def test_an_input_is_batched_if_its_first_axis_is_dynamic_or_one(
    spec: ValueSpec, batched: bool, row: tuple[int | str, ...]
) -> None:
    assert is_batched(spec) is batched
    assert row_shape(spec) == row


def test_a_run_of_several_inputs_takes_each_in_its_own_shape() -> None:
    rows = {"x": np.arange(12.0).reshape(3, 4), "state": np.zeros((3, 2, 1, 3)), "rate": np.array([7, 8, 9])}
    feed = feed_rows((BATCHED, STATE, RATE), rows, start=1)
    assert {name: array.shape for name, array in feed.items()} == {"x": (1, 4), "state": (2, 1, 3), "rate": ()}
    assert feed["x"].tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert int(feed["rate"]) == 8


def test_several_rows_go_in_one_run_only_where_every_input_has_a_dynamic_batch() -> None:
    x, state = np.zeros((8, 4)), np.zeros((8, 2, 1, 3))
    assert rows_per_run((BATCHED,), {"x": x}, limit=5) == 5
    assert rows_per_run((SINGLE,), {"x": x}, limit=5) == 1
    assert rows_per_run((BATCHED, STATE), {"x": x, "state": state}, limit=5) == 1
    assert rows_per_run((BATCHED,), {"x": np.zeros((8, 3, 4))}, limit=5) == 1
    assert feed_rows((BATCHED,), {"x": x}, start=2, count=5)["x"].shape == (5, 4)
