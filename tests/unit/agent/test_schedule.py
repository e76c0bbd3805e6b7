"""When to poll next, as properties: nobody can make a device poll too often, or never again."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.agent import schedule
from device_client.agent.clock import Moment
from device_client.agent.outcome import ANSWERED, BUSY, FAILED, KINDS, UNREACHABLE, Outcome
from device_client.agent.schedule import Plan

BOOT = "boot-1"
seconds = st.floats(0, 1e8)
shares = st.floats(0, 1, exclude_max=True)
numbers = st.none() | st.integers(0, 2**53)
outcomes = st.builds(
    Outcome,
    st.sampled_from(KINDS),
    st.just(()),
    poll_s=numbers,
    retry_after_s=numbers,
    reports_waiting=st.integers(0, 10),
    is_watching=st.booleans(),
)
plans = st.builds(
    Plan,
    st.sampled_from([BOOT, "boot-2"]),
    poll_at=st.floats(0, 2**52),
    tend_at=st.none() | st.floats(0, 2**52),
    interval_s=st.integers(0, 2**52),
    failures=st.integers(0, 2**52),
    busy=st.integers(0, 2**52),
    tend_failures=st.integers(0, 2**52),
)
LONGEST_S = schedule.MAX_INTERVAL_S + schedule.MAX_RETRY_AFTER_S


def polled(plan: Plan, outcome: Outcome, *, share: float = 0.5, at: float = 1000.0) -> float:
    """The pause after a poll, in seconds."""
    now = Moment(BOOT, at)
    return schedule.polled(plan, outcome, now=now, share=lambda: share).poll_at - at


@given(kept=st.none() | plans, at=seconds, share=shares, history=st.lists(outcomes, max_size=20))
def test_whatever_server_file_and_clock_say_a_poll_comes_within_a_day_and_never_at_once(
    kept: Plan | None, at: float, share: float, history: list[Outcome]
) -> None:
    now = Moment(BOOT, at)
    plan = schedule.resume(kept, now=now, share=lambda: share)
    assert plan.boot == BOOT
    assert plan.wait_s(now) <= LONGEST_S * 1.1
    for outcome in history:
        before = now.seconds
        plan = schedule.polled(plan, outcome, now=now, share=lambda: share)
        pause = plan.poll_at - before
        assert pause + 1e-3 >= schedule.MIN_PAUSE_S
        assert pause <= LONGEST_S + 1e-3
        assert plan.tend_at is None or before < plan.tend_at < plan.poll_at
        now = Moment(BOOT, plan.poll_at)


@given(poll_s=st.integers(0, 2**53), share=shares)
def test_the_servers_interval_counts_between_a_minute_and_a_day_give_or_take_a_tenth(poll_s: int, share: float) -> None:
    pause = polled(Plan(BOOT, 0.0), Outcome(ANSWERED, poll_s=poll_s), share=share)
    wanted = min(max(poll_s, 60), 24 * 3600)
    assert max(60, 0.9 * wanted) - 1e-6 <= pause <= min(24 * 3600, 1.1 * wanted) + 1e-6


def test_a_refused_release_is_asked_for_again_at_the_usual_interval() -> None:
    plan = Plan(BOOT, 0.0, interval_s=600, failures=5)
    assert polled(plan, Outcome(ANSWERED)) == pytest.approx(600)
    assert schedule.polled(plan, Outcome(ANSWERED), now=Moment(BOOT, 0.0), share=lambda: 0.5).failures == 0


@pytest.mark.parametrize("kind", [UNREACHABLE, FAILED])
def test_after_failures_the_bound_of_the_pause_doubles_up_to_a_cap(kind: str) -> None:
    plan, bounds = Plan(BOOT, 0.0), []
    for _ in range(80):
        now = Moment(BOOT, 0.0)
        plan = schedule.polled(plan, Outcome(kind), now=now, share=lambda: 0.999999)
        bounds.append(round(plan.poll_at))
    assert bounds[:7] == [120, 240, 480, 960, 1920, 3840, 7200]
    assert set(bounds[6:]) == {7200}


def test_a_fleet_that_lost_its_server_comes_back_spread_over_the_whole_bound() -> None:
    rng = random.Random(7)
    plan = Plan(BOOT, 0.0, failures=20)
    pauses = [schedule.polled(plan, Outcome(UNREACHABLE), now=Moment(BOOT, 0.0), share=rng.random).poll_at for _ in range(4000)]
    busiest = max(sum(low <= pause < low + 60 for pause in pauses) for low in range(0, 7200, 60))
    assert busiest < 4000 * 60 / 7200 * 2
    assert statistics.mean(pauses) == pytest.approx(3600, rel=0.05)


@given(retry_after_s=st.integers(0, 2**53), share=shares)
def test_retry_after_only_lengthens_a_pause_and_by_an_hour_at_most(retry_after_s: int, share: float) -> None:
    plan = Plan(BOOT, 0.0)
    without = polled(plan, Outcome(UNREACHABLE), share=share)
    pause = polled(plan, Outcome(UNREACHABLE, retry_after_s=retry_after_s), share=share)
    assert pause - without == pytest.approx(min(retry_after_s, 3600))


def test_those_who_were_told_the_same_retry_after_do_not_return_together() -> None:
    told = Outcome(UNREACHABLE, retry_after_s=10 * 86400)
    assert polled(Plan(BOOT, 0.0), told, share=0.9) - polled(Plan(BOOT, 0.0), told, share=0.2) > 60


def test_the_first_poll_after_a_boot_is_a_random_share_of_the_interval_away() -> None:
    kept = Plan("boot-0", 5.0, interval_s=600)
    waits = [
        schedule.resume(kept, now=Moment(BOOT, 30.0), share=lambda s=s: s).wait_s(Moment(BOOT, 30.0)) for s in (0.0, 0.5, 0.99)
    ]
    assert waits == [pytest.approx(0), pytest.approx(300), pytest.approx(594)]
    daily = Plan("boot-0", 5.0, interval_s=86400)
    late = schedule.resume(daily, now=Moment(BOOT, 30.0), share=lambda: 0.999)
    assert late.wait_s(Moment(BOOT, 30.0)) < 900, "a device that is on for an hour a day must poll"


def test_an_agent_that_is_restarted_goes_on_with_the_wait_that_it_had() -> None:
    kept = Plan(BOOT, 5000.0, interval_s=600, failures=3)
    for at in (100.0, 4000.0):
        assert schedule.resume(kept, now=Moment(BOOT, at), share=lambda: 0.0) == kept


def test_a_plan_beyond_every_pause_there_is_does_not_put_a_device_to_sleep() -> None:
    kept = Plan(BOOT, 1e12, interval_s=300)
    assert schedule.resume(kept, now=Moment(BOOT, 10.0), share=lambda: 0.5).wait_s(Moment(BOOT, 10.0)) <= 300


@given(plan=plans.filter(lambda plan: plan.failures < 64), share=shares)
def test_a_crash_in_the_middle_of_a_poll_is_met_by_a_back_off_not_by_another_poll(plan: Plan, share: float) -> None:
    now = Moment(BOOT, 50.0)
    kept = schedule.begun(plan, now=now, share=lambda: share)
    again = schedule.resume(kept, now=now, share=lambda: 0.0)
    assert again.wait_s(now) >= schedule.MIN_PAUSE_S - 1e-6
    assert again.failures == plan.failures + 1


def test_a_held_lock_is_asked_again_soon_and_less_and_less_often() -> None:
    plan, pauses = Plan(BOOT, 0.0, interval_s=3000), []
    for _ in range(10):
        plan = schedule.polled(plan, Outcome(BUSY), now=Moment(BOOT, 0.0), share=lambda: 0.99)
        pauses.append(round(plan.poll_at / 0.99))
    assert pauses[:3] == [40, 80, 160]
    assert pauses[-1] == 3000
    assert plan.failures == 0


def test_waiting_reports_are_tried_before_the_next_poll_and_no_more_once_they_are_taken() -> None:
    now = Moment(BOOT, 0.0)
    plan = schedule.polled(Plan(BOOT, 0.0), Outcome(ANSWERED, poll_s=86400, reports_waiting=2), now=now, share=lambda: 0.5)
    assert plan.tend_at == pytest.approx(60)
    later = Moment(BOOT, 61.0)
    assert plan.is_tending_due(later)
    assert not plan.is_poll_due(later)
    tried = schedule.tended(plan, Outcome(UNREACHABLE, reports_waiting=2), now=later, share=lambda: 0.5)
    assert tried.tend_at == pytest.approx(61 + 120)
    assert tried.poll_at == plan.poll_at, "sending reports does not move the poll"
    assert schedule.tended(tried, Outcome(ANSWERED), now=later, share=lambda: 0.5).tend_at is None


def test_a_bundle_on_probation_is_looked_at_every_minute_at_first_and_every_ten_at_last() -> None:
    """A bad bundle must not run until tomorrow because the server wants to be asked once a day."""
    now, looks = Moment(BOOT, 0.0), []
    watching = Outcome(ANSWERED, poll_s=86400, is_watching=True)
    plan = schedule.polled(Plan(BOOT, 0.0), watching, now=now, share=lambda: 0.5)
    while plan.tend_at is not None and len(looks) < 40:
        looks.append(plan.tend_at - now.seconds)
        now = Moment(BOOT, plan.tend_at)
        assert plan.is_tending_due(now)
        plan = schedule.tended(plan, watching, now=now, share=lambda: 0.5)
    assert looks[:3] == [pytest.approx(60), pytest.approx(72), pytest.approx(86.4)]
    assert looks[-1] == 600
    assert len(looks) == 40
    assert schedule.tended(plan, Outcome(ANSWERED), now=now, share=lambda: 0.5).tend_at is None


@given(ran=st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_a_service_that_ends_is_started_again_after_a_pause_between_a_second_and_five_minutes(ran: list[float]) -> None:
    crashes = 0
    for ran_s in ran:
        crashes, pause_s = schedule.restart_pause_s(crashes, ran_s=ran_s)
        assert 1.0 <= pause_s <= 300.0
    assert schedule.restart_pause_s(60, ran_s=3600.0) == (1, 1.0)
    assert schedule.restart_pause_s(60, ran_s=1.0) == (61, 300.0)
