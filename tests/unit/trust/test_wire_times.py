"""One spelling for each second, so that no two readers can disagree about a signed time."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from device_client.errors import FormatError
from device_client.trust.times import format_time, parse_time, utc_now

MOMENT = datetime(2026, 2, 28, 23, 59, 58, tzinfo=UTC)
SAME_INSTANT_ELSEWHERE = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))


def test_a_time_round_trips_to_the_second() -> None:
    assert format_time(MOMENT) == "2026-02-28T23:59:58Z"
    assert parse_time("2026-02-28T23:59:58Z", "x") == MOMENT
    assert parse_time("2026-02-28T23:59:58Z", "x").utcoffset() == timedelta(0)
    assert parse_time("0001-01-01T00:00:00Z", "x") == datetime(1, 1, 1, tzinfo=UTC)


def test_a_time_of_another_zone_is_written_in_utc_whatever_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TZ", "JST-9")
    time.tzset()
    try:
        assert format_time(SAME_INSTANT_ELSEWHERE) == "2026-02-28T23:59:58Z"
        assert abs(utc_now() - datetime.now(UTC)) < timedelta(minutes=1)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_written_time_has_four_digits_of_year_and_no_fraction() -> None:
    assert format_time(datetime(33, 4, 3, microsecond=7, tzinfo=UTC)) == "0033-04-03T00:00:00Z"


def test_now_is_aware_and_cut_to_the_second() -> None:
    now = utc_now()
    assert now.utcoffset() == timedelta(0)
    assert now.microsecond == 0


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-28T23:59:58",
        "2026-02-28T23:59:58z",
        "2026-02-28t23:59:58Z",
        "2026-02-28 23:59:58Z",
        "2026-02-28T23:59:58+00:00",
        "2026-02-28T23:59:58.0Z",
        "2026-2-28T23:59:58Z",
        "2026-02-28T23:59:58Z\n",
        " 2026-02-28T23:59:58Z",
        "2026-02-30T00:00:00Z",
        "2026-02-28T24:00:00Z",
        "2026-02-28T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "٢٠٢٦-02-28T23:59:58Z",
        "",
        None,
        1_772_323_198,
        b"2026-02-28T23:59:58Z",
        ["2026-02-28T23:59:58Z"],
    ],
)
def test_any_other_spelling_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(FormatError) as refusal:
        parse_time(value, "role.issued")
    assert (refusal.value.code, refusal.value.where) == ("time_syntax", "role.issued")
