"""Memory and time of a self-test against what the release signed for."""

from __future__ import annotations

import pytest

from device_client.bundle import Budget
from device_client.errors import SelfTestError
from device_client.policy.budget import NOTICEABLE_MS, Measured, check_latency, check_memory_budget, latency_limit_ms

BUDGET = Budget(0.01, 1000, (("gateway", 5.0), ("wearable", 40.0)), 1.5)


def test_a_process_may_need_what_was_signed_for_and_not_a_byte_more() -> None:
    check_memory_budget(BUDGET, Measured(1000, 0.0))
    with pytest.raises(SelfTestError) as caught:
        check_memory_budget(BUDGET, Measured(1001, 0.0))
    assert (caught.value.code, caught.value.expected, caught.value.actual) == (
        "selftest_over_memory",
        "at most 1000 bytes",
        "1001 bytes",
    )


def test_a_named_class_has_its_milliseconds_whatever_runs_here() -> None:
    assert latency_limit_ms(BUDGET, device_class="wearable", active_ms=1.0) == 40.0
    assert latency_limit_ms(BUDGET, device_class="gateway", active_ms=None) == 5.0


def test_any_other_device_is_held_to_the_ratio_to_what_runs() -> None:
    assert latency_limit_ms(BUDGET, device_class="", active_ms=10.0) == 15.0
    assert latency_limit_ms(BUDGET, device_class="fridge", active_ms=None) is None
    assert latency_limit_ms(Budget(0.01, 1000, (("gateway", 5.0),), None), device_class="", active_ms=10.0) is None


def test_a_difference_that_no_clock_can_tell_is_none() -> None:
    assert NOTICEABLE_MS == 0.1
    assert latency_limit_ms(BUDGET, device_class="", active_ms=0.05) == pytest.approx(0.15)


def test_a_model_at_its_limit_passes_and_beyond_it_does_not() -> None:
    check_latency(Measured(0, 15.0), 15.0)
    check_latency(Measured(0, 1e9), None)
    with pytest.raises(SelfTestError) as caught:
        check_latency(Measured(0, 15.001), 15.0)
    assert (caught.value.code, caught.value.expected, caught.value.actual) == ("selftest_slow", "at most 15.000 ms", "15.001 ms")
