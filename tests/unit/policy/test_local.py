"""Maintenance windows and the owner's program: wanted, but not now."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from device_client.bundle.fields import Fields
from device_client.errors import FormatError, PolicyError
from device_client.policy.local import INSTALL_KEYS, Conditions, InstallPolicy, check_conditions, read_install_policy


def policy(**values: object) -> InstallPolicy:
    return read_install_policy(Fields(values, where="policy.install", known=INSTALL_KEYS))


def at(clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return datetime(2026, 6, 1, hour, minute, tzinfo=UTC)


def refusal(rules: InstallPolicy, conditions: Conditions) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        check_conditions(rules, conditions)
    return caught.value


def test_without_windows_any_time_will_do() -> None:
    assert policy() == InstallPolicy() == InstallPolicy((), False, 14, (), "")
    check_conditions(policy(), Conditions(at("12:00")))


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("02:00-05:00", ["02:00", "04:59"], ["01:59", "05:00", "12:00"]),
        ("12:45-12:50", ["12:45", "12:49"], ["12:44", "12:00", "12:50"]),
        ("23:00-01:30", ["23:00", "23:59", "00:00", "01:29"], ["22:59", "01:30"]),
        ("06:00-06:00", ["06:00", "05:59", "00:00"], []),
    ],
)
def test_a_window_holds_from_its_beginning_up_to_its_end_also_over_midnight(
    window: str, inside: list[str], outside: list[str]
) -> None:
    rules = policy(windows=[window])
    assert str(rules.windows[0]) == window
    for clock in inside:
        check_conditions(rules, Conditions(at(clock)))
    for clock in outside:
        found = refusal(rules, Conditions(at(clock), waited_s=5400.0))
        assert (found.code, found.expected) == ("deferred_window", f"{window} UTC")
        assert found.actual == f"{clock}, waiting for 1.5 hours"


def test_one_of_several_windows_is_enough() -> None:
    rules = policy(windows=["02:00-03:00", "14:00-15:00"])
    check_conditions(rules, Conditions(at("14:30")))
    assert refusal(rules, Conditions(at("13:30"))).expected == "02:00-03:00, 14:00-15:00 UTC"


def test_after_its_days_of_waiting_a_release_waits_for_no_window_and_with_zero_days_for_ever() -> None:
    short = policy(windows=["02:00-03:00"], window_days=1)
    assert refusal(short, Conditions(at("12:00"), waited_s=86399.0)).code == "deferred_window"
    check_conditions(short, Conditions(at("12:00"), waited_s=86400.0))
    rules = policy(windows=["02:00-03:00"], window_days=2)
    assert refusal(rules, Conditions(at("12:00"), waited_s=2 * 86400 - 1)).code == "deferred_window"
    check_conditions(rules, Conditions(at("12:00"), waited_s=2 * 86400))
    never = policy(windows=["02:00-03:00"], window_days=0)
    assert refusal(never, Conditions(at("12:00"), waited_s=1e9)).code == "deferred_window"


@pytest.fixture
def kiribati() -> Iterator[None]:
    """Fourteen hours ahead of UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "<+14>-14"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("kiribati")
def test_windows_are_by_the_machines_zone_only_where_the_owner_says_so() -> None:
    check_conditions(policy(windows=["02:00-03:00"], local_time=True), Conditions(at("12:30")))
    found = refusal(policy(windows=["12:00-13:00"], local_time=True), Conditions(at("12:30")))
    assert found.expected == "12:00-13:00 local time"
    check_conditions(policy(windows=["12:00-13:00"]), Conditions(at("12:30")))


def test_the_owners_program_decides_inside_a_window_too() -> None:
    rules = policy(ready_command=["/bin/ready"])
    check_conditions(rules, Conditions(at("12:00"), ready_status=0))
    found = refusal(rules, Conditions(at("12:00"), waited_s=1e9, ready_status=3))
    assert (found.code, found.actual) == ("deferred_not_ready", "exit status 3")


@pytest.mark.parametrize(
    "values",
    [
        {"windows": ["2:00-3:00"]},
        {"windows": ["24:00-03:00"]},
        {"windows": ["02:60-03:00"]},
        {"windows": ["02:00-03:00x"]},
        {"windows": [7]},
        {"windows": ["02:00-03:00"] * 17},
        {"window_days": 91},
        {"local_time": "yes"},
        {"ready_command": ["ready"]},
        {"ready_command": ["/bin/ready", ""]},
        {"ready_command": ["/bin/ready", "a\0b"]},
        {"ready_command": ["/bin/ready", 5]},
        {"ready_command": ["/bin/ready", "x" * 1025]},
        {"ready_command": ["/bin/ready"] * 17},
        {"device_class": "x" * 65},
    ],
)
def test_a_value_outside_its_form_is_an_error(values: dict[str, object]) -> None:
    with pytest.raises(FormatError) as caught:
        policy(**values)
    assert caught.value.where


def test_what_is_no_window_or_command_says_so_with_a_code() -> None:
    for values in ({"windows": ["2-3"]}, {"ready_command": ["ready"]}, {"ready_command": ["/bin/ready", ""]}):
        with pytest.raises(FormatError) as caught:
            policy(**values)
        assert caught.value.code == "field_value"


def test_values_at_their_bounds_are_read() -> None:
    found = policy(
        windows=["02:00-03:00"] * 16, window_days=90, ready_command=["/bin/ready", "x" * 1024] + ["-"] * 14, device_class="x" * 64
    )
    assert (len(found.windows), found.window_days, len(found.ready_command), len(found.device_class)) == (16, 90, 16, 64)
