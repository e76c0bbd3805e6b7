"""Days on which something was seen to hold: not hours, not polls, not what a clock jumped over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.policy.patience import DayCount, counted

DAY = timedelta(days=1)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
looks = st.lists(st.tuples(st.sampled_from([True, False, None]), st.datetimes(timezones=st.just(UTC))))


def after(*seen: tuple[bool | None, datetime], start: DayCount | None = None) -> DayCount:
    count = start or DayCount()
    for holds, now in seen:
        count = counted(count, holds=holds, now=now)
    return count


def test_a_day_counts_once_however_often_the_device_polls() -> None:
    assert after(*((True, NOW + timedelta(minutes=minute)) for minute in range(600))) == DayCount(1, "2026-06-01")


def test_each_further_day_counts() -> None:
    assert after((True, NOW), (True, NOW + DAY), (True, NOW + 5 * DAY)) == DayCount(3, "2026-06-06")


def test_days_on_which_nobody_looked_do_not_count() -> None:
    assert after((True, NOW), (True, NOW + 300 * DAY)).days == 2


def test_a_look_that_finds_nothing_out_changes_nothing() -> None:
    before = DayCount(3, "2026-05-31")
    assert counted(before, holds=None, now=NOW) == before


def test_the_count_begins_anew_when_it_no_longer_holds() -> None:
    assert counted(DayCount(30, "2026-05-31"), holds=False, now=NOW) == DayCount()
    assert after((True, NOW), (False, NOW), (True, NOW)) == DayCount(1, "2026-06-01")


def test_a_clock_that_once_stood_in_the_future_does_not_stop_the_count() -> None:
    count = after((True, NOW + 5000 * DAY), *((True, NOW + day * DAY) for day in range(5)))
    assert count == DayCount(6, "2026-06-05")


@pytest.mark.parametrize("hours", [-12, 5.5, 14])
def test_a_day_is_one_of_utc_wherever_the_device_is(hours: float) -> None:
    there = NOW.replace(hour=23, minute=59).astimezone(timezone(timedelta(hours=hours)))
    count = after((True, NOW.replace(hour=0)), (True, there))
    assert count == DayCount(1, "2026-06-01")
    assert after((True, there + timedelta(minutes=1)), start=count) == DayCount(2, "2026-06-02")


@pytest.mark.parametrize(
    ("days", "patience", "expected"), [(0, 0, False), (1, 0, True), (1, 1, False), (2, 1, True), (7, 7, False)]
)
def test_patience_ends_on_the_day_after_the_last_allowed_one(days: int, patience: int, expected: bool) -> None:
    assert DayCount(days, "2026-06-01").exceeds(patience) is expected


@given(looks)
def test_the_count_is_never_more_than_the_different_days_since_it_last_did_not_hold(
    seen: list[tuple[bool | None, datetime]],
) -> None:
    since = max((index + 1 for index, (holds, _) in enumerate(seen) if holds is False), default=0)
    held = [now.date() for holds, now in seen[since:] if holds]
    count = after(*seen)
    assert (count.days == 0) == (not held)
    assert count.days <= len(held)
    assert count.days >= len(set(held)), "another day always counts, in whatever order the days come"


@given(looks, st.datetimes(timezones=st.just(UTC)))
def test_one_look_adds_one_day_at_most(seen: list[tuple[bool | None, datetime]], now: datetime) -> None:
    before = after(*seen)
    assert 0 <= counted(before, holds=True, now=now).days - before.days <= 1
    assert counted(before, holds=None, now=now) == before
