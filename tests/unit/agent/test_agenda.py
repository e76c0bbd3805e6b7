"""``agent.json``: a plan survives whole, and anything else in its place is no plan."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.agent.agenda import NAME, load_plan, save_plan
from device_client.agent.schedule import Plan

PLAN = Plan("boot-1", 123.5, tend_at=99.25, interval_s=600, failures=3, busy=1, tend_failures=2)


def test_a_plan_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    for plan in (PLAN, Plan("boot-2", 0.0)):
        save_plan(str(tmp_path), plan)
        assert load_plan(str(tmp_path)) == plan
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_no_file_is_no_plan(tmp_path: Path) -> None:
    assert load_plan(str(tmp_path)) is None


GOOD = {
    "schema": 1,
    "boot": "b",
    "poll_at": 1,
    "tend_at": None,
    "interval_s": 60,
    "failures": 0,
    "busy": 0,
    "tend_failures": 0,
}
BROKEN = {
    "empty": b"",
    "not JSON": b"{",
    "too deep": b"[" * 4000,
    "cut off": json.dumps(GOOD).encode()[:-5],
    "longer than is read": json.dumps(GOOD | {"boot": "b" * 5000}).encode(),
    "another schema": json.dumps(GOOD | {"schema": 2}).encode(),
    "a field too many": json.dumps(GOOD | {"more": 1}).encode(),
    "a field too few": json.dumps({key: value for key, value in GOOD.items() if key != "busy"}).encode(),
    "a negative time": json.dumps(GOOD | {"poll_at": -1}).encode(),
    "no number": json.dumps(GOOD | {"poll_at": float("nan")}).encode(),
    "an endless wait": json.dumps(GOOD | {"poll_at": float("inf")}).encode(),
    "a boolean": json.dumps(GOOD | {"failures": True}).encode(),
    "a text for a number": json.dumps(GOOD | {"interval_s": "60"}).encode(),
    "a number for a boot": json.dumps(GOOD | {"boot": 7}).encode(),
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_file_is_no_plan(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NAME).write_bytes(data)
    assert load_plan(str(tmp_path)) is None


@given(data=st.binary(max_size=300))
def test_no_bytes_at_all_stop_the_agent_from_starting(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("agenda")
    (folder / NAME).write_bytes(data)
    assert load_plan(str(folder)) is None


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(json.dumps(GOOD))
    (tmp_path / NAME).symlink_to("other")
    assert load_plan(str(tmp_path)) is None


def test_a_write_that_fails_leaves_the_old_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_plan(str(tmp_path), PLAN)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        save_plan(str(tmp_path), Plan("boot-9", 1.0))
    assert load_plan(str(tmp_path)) == PLAN
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
