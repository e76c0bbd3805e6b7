from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from device_client.inference.walker import check_model
from packager import latency
from packager.latency import HALF_WIDTH, MAX_GROWTH, measure_ratio, pinned

from .models import mlp, rows

MODEL = mlp()


def noisy_clock(spread: float) -> Callable[[], float]:
    """Each reading is a step of one, give or take ``spread``."""
    rng = np.random.default_rng(0)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0 + spread * rng.standard_normal() ** 2
        return now

    return clock


def test_a_steady_machine_needs_no_more_rounds_than_were_asked_for() -> None:
    model = check_model(MODEL)
    found = measure_ratio(model, model, {"x": rows(1)}, rounds=10, clock=noisy_clock(0.0))
    assert (found.rounds, found.ratio) == (10, 1.0)
    assert found.to_json()["settled"] is True


def test_a_noisy_machine_gets_more_rounds_up_to_a_bound_and_the_result_says_when_that_was_not_enough() -> None:
    model = check_model(MODEL)
    found = measure_ratio(model, model, {"x": rows(1)}, rounds=5, clock=noisy_clock(3.0))
    assert found.rounds == 5 * MAX_GROWTH
    assert found.half_width > HALF_WIDTH
    assert found.to_json()["settled"] is False


def test_several_rows_take_turns_and_both_models_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    real = latency.Session.run

    def run(self: latency.Session, feeds: object) -> object:
        seen.append(float(feeds["x"][0, 0]))  # type: ignore[index]
        return real(self, feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(latency.Session, "run", run)
    model = check_model(MODEL)
    feeds = [{"x": np.full((1, 6), value, np.float32)} for value in (1, 2, 3)]
    measure_ratio(model, model, feeds, rounds=3, clock=noisy_clock(0.0))
    assert set(seen) == {1.0, 2.0, 3.0}
    assert max(seen.count(value) for value in (1.0, 2.0, 3.0)) - min(seen.count(value) for value in (1.0, 2.0, 3.0)) <= 8


def test_two_rounds_are_too_few_for_an_interval() -> None:
    model = check_model(MODEL)
    with pytest.raises(ValueError, match="at least 3"):
        measure_ratio(model, model, {"x": rows(1)}, rounds=2)


def test_no_rows_are_refused() -> None:
    model = check_model(MODEL)
    with pytest.raises(ValueError, match="feeds"):
        measure_ratio(model, model, [], rounds=3)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin threads")
def test_the_thread_is_held_on_one_core_and_let_go_even_after_an_error() -> None:
    before = os.sched_getaffinity(0)

    def fails_while_pinned() -> None:
        with pinned() as held:
            assert held
            assert len(os.sched_getaffinity(0)) == 1
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fails_while_pinned()
    assert os.sched_getaffinity(0) == before


def test_a_machine_that_gets_slower_all_the_time_does_not_make_the_second_model_look_slower() -> None:
    ticks = count()
    model = check_model(MODEL)
    found = measure_ratio(model, model, {"x": rows(1)}, rounds=30, clock=lambda: 1.2 ** next(ticks))
    assert found.ratio == pytest.approx(1.0, abs=0.15)
