"""The choice among trials, as pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from packager.auto.choice import cost, pareto_front, ranked, refusal
from packager.auto.trial import Trial, chain_id, describe_chain
from packager.latency import LatencyRatio
from packager.ptq.static import Int8Static
from packager.technique import Compressed, TechniqueStep

ORIGINAL, BUDGET = 1000, 0.01
SOUND: dict[str, Any] = {"bytes": 400, "stored": 300, "drop": 0.0, "latency": 0.8}


def trial(**changes: Any) -> Trial:
    values = {**SOUND, **changes}
    ratio = values["latency"]
    return Trial(
        (TechniqueStep("int8-static", Int8Static(calibration=values.get("name", "minmax"))),),
        Compressed(b"x" * values["bytes"], "int8"),
        stored_bytes=values["stored"],
        drop=values["drop"],
        spread=values.get("spread", 0.0),
        distortion=values.get("distortion", 0.0),
        latency=None if ratio is None else LatencyRatio(ratio, ratio - 0.01, ratio + 0.01, 9, 1.0, ratio),
        is_portable=values.get("portable", True),
    )


def refused(item: Trial, *, portable: bool = True) -> str | None:
    return refusal(item, max_bytes=ORIGINAL, allowed_drop=BUDGET, portable=portable)


def order(*items: Trial, prefer: str = "balanced", portable: bool = True) -> list[Trial]:
    return ranked(items, max_bytes=ORIGINAL, allowed_drop=BUDGET, prefer=prefer, portable=portable)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"bytes": 1001}, "larger", id="larger than the original"),
        pytest.param({"drop": 0.011}, "misses the budget", id="beyond the budget"),
        pytest.param({"drop": float("inf")}, "misses the budget", id="outputs that are not finite"),
        pytest.param({"latency": 1.04}, "slower", id="slower, surely"),
        pytest.param({"portable": False}, "overflow", id="not safe on every CPU"),
    ],
)
def test_what_must_not_ship_is_refused_with_the_reason(changes: dict[str, Any], says: str) -> None:
    assert refused(trial()) is None
    assert says in (refused(trial(**changes)) or "")


def test_a_failed_trial_says_why() -> None:
    assert refused(Trial((), None, failure="no such operator")) == "no such operator"


def test_a_latency_that_may_be_equal_is_no_reason_to_refuse() -> None:
    assert refused(trial(latency=1.03)) is None  # its interval begins at 1.02


def test_a_drop_that_a_few_rows_cannot_tell_from_the_budget_is_left_to_the_test_part() -> None:
    assert refused(trial(drop=0.015, spread=0.01)) is None
    assert refused(trial(drop=0.015, spread=0.001)) is not None


def test_only_a_class_with_the_instructions_gets_what_could_overflow() -> None:
    risky = trial(portable=False)
    assert refused(risky, portable=False) is None
    assert order(risky) == []


def test_the_preference_decides_between_small_and_fast() -> None:
    small, fast = trial(stored=200, latency=0.95), trial(stored=300, latency=0.5)
    assert order(small, fast, prefer="size") == [small, fast]
    assert order(small, fast, prefer="latency") == [fast, small]
    assert order(small, fast) == [fast, small]


def test_bytes_on_the_device_count_too_and_less_than_bytes_on_the_way() -> None:
    packed, large = trial(bytes=300, stored=280), trial(bytes=600, stored=260)
    assert order(packed, trial(bytes=400, stored=200))[0] is not packed
    assert order(packed, large) == [packed, large]
    assert order(packed, trial(bytes=300, stored=270))[0] is not packed


def test_accuracy_given_up_must_pay_off() -> None:
    exact = trial(stored=300)
    assert order(exact, trial(stored=280, drop=BUDGET))[0] is exact
    assert order(exact, trial(stored=200, drop=BUDGET))[0] is not exact


def test_a_larger_error_of_the_outputs_must_pay_off_though_no_row_changed() -> None:
    unsure = {"spread": BUDGET}
    exact = trial(bytes=300, stored=300, distortion=1e-4, **unsure)
    assert order(exact, trial(bytes=280, stored=280, distortion=1e-2, **unsure))[0] is exact
    assert order(exact, trial(bytes=150, stored=150, distortion=1e-2, **unsure))[0] is not exact


def test_the_surer_the_metric_the_less_the_error_of_the_outputs_counts() -> None:
    exact = trial(bytes=300, stored=300, distortion=1e-4)
    coarse = [trial(bytes=280, stored=280, distortion=1e-2, spread=share * BUDGET) for share in (0.0, 0.05, 0.5)]
    assert [order(exact, item)[0] is item for item in coarse] == [True, True, False]


def test_a_gain_of_accuracy_is_not_paid_for() -> None:
    values = {"max_bytes": ORIGINAL, "allowed_drop": BUDGET, "prefer": "balanced"}
    assert cost(trial(drop=-0.05), **values) == cost(trial(drop=0.0), **values)  # type: ignore[arg-type]


def test_the_front_holds_what_nothing_beats() -> None:
    small, fast, beaten = trial(stored=200, latency=0.9), trial(stored=300, latency=0.5), trial(stored=310, latency=0.9)
    assert pareto_front([beaten, small, fast, Trial((), None)]) == [small, fast]


def test_two_equal_trials_are_both_on_the_front() -> None:
    assert len(pareto_front([trial(), trial()])) == 2


def test_a_chain_is_named_by_its_techniques_and_told_with_its_settings() -> None:
    chain = (TechniqueStep("int8-static", Int8Static(calibration="percentile")),) * 2
    assert chain_id(chain) == "int8-static"
    assert describe_chain(chain[:1]) == "int8-static(calibration=percentile)"
