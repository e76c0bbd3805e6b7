"""A day is one of UTC, whatever zone the machine is set to."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import pytest

from device_client.policy.patience import DayCount, counted


def test_the_zone_of_the_machine_does_not_move_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TZ", "JST-9")
    time.tzset()
    try:
        count = counted(DayCount(), holds=True, now=datetime(2026, 6, 1, 23, 0, tzinfo=UTC))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert count == DayCount(1, "2026-06-01")
