"""Jobs side by side give what they give one after another."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from audits.parallel import run_all
from audits.policy import Policy
from audits.run import RunResult
from tests.unit.audits.conftest import Case


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_results_come_in_the_order_of_the_jobs(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    seen: set[str] = set()

    def job(number: int) -> int:
        seen.add(threading.current_thread().name)
        return number * number

    assert run_all([lambda number=number: job(number) for number in range(20)]) == [number * number for number in range(20)]  # type: ignore[misc]
    assert (threading.main_thread().name in seen) is (cores == 1)
    assert run_all([]) == []


def test_an_error_of_a_job_is_the_errors_of_all() -> None:
    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_all([lambda: 1, fails, lambda: 2])


def test_a_run_on_one_core_and_on_several_finds_the_same(
    good: Case, policy: Policy, good_run: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = 1 if len(os.sched_getaffinity(0)) > 1 else 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    again = good.run(policy)
    assert replace(again.audit, duration_s=0.0).to_bytes() == replace(good_run.audit, duration_s=0.0).to_bytes()
