from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from device_client.inference.walker import CheckedModel, check_model
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
    assert (found.rounds, found.ratio) == (16, 1.0)  # whole pairs of sessions, four at least
    assert found.to_json()["settled"] is True


def test_a_noisy_machine_gets_more_rounds_up_to_a_bound_and_the_result_says_when_that_was_not_enough() -> None:
    model = check_model(MODEL)
    found = measure_ratio(model, model, {"x": rows(1)}, rounds=5, clock=noisy_clock(3.0))
    assert found.rounds == 16 * MAX_GROWTH
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


def test_both_models_are_opened_anew_in_turns_and_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[object] = []
    one, other = check_model(MODEL), check_model(mlp(seed=1))
    real, close = latency.open_session, latency.Session.close

    def spy(model: CheckedModel) -> latency.Session:
        opened.append("original" if model is one else "variant")
        return real(model)

    def note(self: latency.Session) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(latency, "open_session", spy)
    monkeypatch.setattr(latency.Session, "close", note)
    measure_ratio(one, other, {"x": rows(1)}, rounds=40, clock=noisy_clock(0.0))
    assert opened[:4] == ["original", "variant", "variant", "original"]
    assert len(opened) == 20
    assert len(closed) == 20


def test_the_luck_of_a_session_widens_the_interval_though_all_its_rounds_agree() -> None:
    times = np.ones((16, 4, 2))
    times[::2, :, 1], times[1::2, :, 1] = 1.1, 1 / 1.1
    found = latency._summarise(times, pinned=True)
    assert found.ratio == pytest.approx(1.0)
    assert found.low < 0.97
    assert found.high > 1.03


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
