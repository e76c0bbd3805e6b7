"""The search over a made-up laboratory: what goes on, what is out, and that only fresh seeds decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from audits.data import Bools
from audits.mitigate.accuracy import accuracy_loss
from audits.mitigate.fixes import Fix
from audits.mitigate.judge import Effort, Judged
from audits.mitigate.outcome import Outcome, frontier
from audits.mitigate.page import render_page
from audits.mitigate.search import Ending, SearchResult, SearchSettings, Standing, State, search
from audits.mitigate.trials import Trial
from audits.verdict import Verdict
from device_client.bundle.strict_json import canonical_json
from device_client.errors import UsageError

HELDOUTS = 1000
ORIGINAL = Fix("none", 0.0)
FIXES = [ORIGINAL, *(Fix("early_stop", strength) for strength in (0.5, 0.2, 0.08)), *(Fix("prune", s) for s in (0.5, 0.7, 0.85))]


def right(share: float) -> Bools:
    return np.arange(HELDOUTS) < share * HELDOUTS


@dataclass
class Made:
    """What a fix gives: its accuracy, its leak, and whether a seed passes."""

    accuracy: float = 0.9
    leak: float = 0.5
    passes: Callable[[int], bool] = lambda _: False
    broken: bool = False


@dataclass
class FakeLab:
    """Answers from a table; keeps what it was asked."""

    made: dict[str, Made]
    asked: list[tuple[str, int, int, Effort]] = field(default_factory=list)
    now: float = 0.0

    @property
    def original_right(self) -> Bools:
        return right(0.9)

    def trial(self, fix: Fix, *, training_seed: int, audit_seed: int, effort: Effort) -> Trial:
        self.asked.append((fix.label, training_seed, audit_seed, effort))
        self.now += 1.0
        made = self.made.get(fix.label, Made())
        if made.broken:
            raise UsageError("the function failed", code="entry_point", where="train")
        verdict = Verdict.PASSED if made.passes(audit_seed) else Verdict.FAILED
        return Trial(Judged(verdict, made.leak, "unit", 0.5, (verdict.value,)), 1.0, right(made.accuracy), fix.key())

    def run(self, **options: float) -> SearchResult:
        settings = SearchSettings(bootstraps=200, **options)  # type: ignore[arg-type]
        return search(FIXES, self, settings=settings, clock=lambda: self.now)


def states(result: SearchResult) -> dict[str, State]:
    return {item.fix.label: item.state for item in result.standings}


def always(_: int) -> bool:
    return True


def test_a_fix_that_passes_within_the_budget_is_confirmed_and_named() -> None:
    result = FakeLab({"early_stop:0.2": Made(0.89, 0.1, always)}).run()
    assert result.ending is Ending.PASSED
    assert result.chosen is not None
    assert result.chosen.fix.label == "early_stop:0.2"
    assert len(result.chosen.confirm) == 3


def test_of_several_that_pass_the_one_with_the_least_loss_is_named() -> None:
    result = FakeLab({"early_stop:0.2": Made(0.885, 0.1, always), "prune:0.5": Made(0.895, 0.2, always)}).run()
    assert result.chosen is not None
    assert result.chosen.fix.label == "prune:0.5"
    assert states(result)["early_stop:0.2"] is State.CONFIRMED


def test_the_confirmation_uses_seeds_that_the_search_never_used_and_the_full_effort() -> None:
    lab = FakeLab({"early_stop:0.2": Made(0.89, 0.1, always)})
    lab.run()
    searched = {ask[1:3] for ask in lab.asked if ask[3] is Effort.SEARCH}
    confirmed = [ask for ask in lab.asked if ask[3] is Effort.CONFIRM]
    assert [ask[0] for ask in confirmed] == ["early_stop:0.2"] * 3
    assert len({ask[1] for ask in confirmed}) == len({ask[2] for ask in confirmed}) == 3
    assert not {ask[1] for ask in confirmed} & {seed for pair in searched for seed in pair}


def test_a_fix_that_passed_by_luck_in_the_search_is_refuted() -> None:
    result = FakeLab({"early_stop:0.2": Made(0.89, 0.1, lambda seed: seed < 1000)}).run()
    assert result.ending is Ending.NONE_PASSES
    assert states(result)["early_stop:0.2"] is State.REFUTED
    (standing,) = [item for item in result.standings if item.state is State.REFUTED]
    assert len(standing.confirm) == 1  # the first failure ends it


def test_one_failing_training_among_the_confirmations_is_enough_to_refute() -> None:
    result = FakeLab({"early_stop:0.2": Made(0.89, 0.1, lambda seed: seed != 1002)}).run()
    assert result.ending is Ending.NONE_PASSES


def test_a_fix_that_surely_costs_too_much_accuracy_is_out_after_one_trial() -> None:
    lab = FakeLab({"prune:0.85": Made(0.7, 0.0, always)})
    result = lab.run()
    assert states(result)["prune:0.85"] is State.OVER_BUDGET
    assert sum(ask[0] == "prune:0.85" for ask in lab.asked) == 1
    assert result.ending is Ending.NONE_PASSES


def test_a_loss_above_the_budget_that_chance_explains_is_not_chosen_either() -> None:
    result = FakeLab({"early_stop:0.2": Made(0.877, 0.1, always)}).run()  # 0.023 of 1000 records: interval from 0.014
    assert states(result)["early_stop:0.2"] is State.OVER_BUDGET
    assert result.chosen is None


def test_half_of_the_fixes_get_more_trials_and_the_leaky_half_does_not() -> None:
    lab = FakeLab({fix.label: Made(0.9, place / 10) for place, fix in enumerate(FIXES)})
    result = lab.run()
    counts = {fix.label: sum(ask[0] == fix.label for ask in lab.asked) for fix in FIXES[1:]}
    assert list(counts.values()) == [2, 2, 2, 1, 1, 1]
    assert list(states(result).values()).count(State.BEATEN) == 3
    assert result.best is not None
    assert result.best.fix.label == "early_stop:0.5"


def test_a_training_that_fails_is_named_and_the_search_goes_on() -> None:
    result = FakeLab({"early_stop:0.5": Made(broken=True), "prune:0.5": Made(0.9, 0.1, always)}).run()
    assert result.ending is Ending.PASSED
    (broken,) = [item for item in result.standings if item.state is State.NOT_MADE]
    assert "the function failed" in broken.why


def test_an_original_that_passes_needs_no_fix() -> None:
    lab = FakeLab({"none": Made(0.9, 0.0, always)})
    result = lab.run()
    assert (result.ending, len(lab.asked), lab.asked[-1][3]) == (Ending.NOT_NEEDED, 2, Effort.CONFIRM)


def test_an_original_that_passes_only_cheaply_is_not_taken_for_good() -> None:
    result = FakeLab({"none": Made(0.9, 0.0, lambda seed: seed < 1000)}).run()
    assert result.ending is Ending.NONE_PASSES


def test_when_the_time_is_up_what_was_found_is_confirmed() -> None:
    lab = FakeLab({"early_stop:0.5": Made(0.9, 0.1, always)})
    result = lab.run(max_seconds=7.5)  # the search gets half: four trials of seven
    assert result.ending is Ending.PASSED
    assert sum(ask[3] is Effort.SEARCH for ask in lab.asked) == 4
    assert states(result)["prune:0.85"] is State.UNFINISHED


def test_without_time_for_the_confirmation_nothing_is_named() -> None:
    lab = FakeLab({"early_stop:0.5": Made(0.9, 0.1, always)})
    result = lab.run(max_seconds=4.5)  # two trials, then two of three confirmations
    assert sum(ask[3] is Effort.CONFIRM for ask in lab.asked) == 2
    assert result.ending is Ending.UNFINISHED
    assert result.chosen is None


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    lab = FakeLab({"early_stop:0.5": Made(0.9, 0.3), "early_stop:0.2": Made(0.89, 0.1), "prune:0.5": Made(0.88, 0.2)})
    edge = frontier(lab.run().standings)
    assert [item.fix.label for item in edge] == ["early_stop:0.5", "early_stop:0.2"]


def test_the_outcome_says_what_was_not_tried_and_is_the_same_for_the_same_search() -> None:
    def outcome() -> Outcome:
        result = FakeLab({"early_stop:0.2": Made(0.89, 0.1, always)}).run()
        return Outcome(result, SearchSettings(), {"suite": "test"}, {"dp_sgd": "NOT AVAILABLE: <Opacus>"})

    first = outcome()
    assert first.to_bytes() == outcome().to_bytes() == canonical_json(first.to_json())
    assert first.to_json()["chosen"]["fix"] == "early_stop:0.2"
    assert "not tried: NOT AVAILABLE" in first.to_text()
    page = render_page(first)
    assert "&lt;Opacus&gt;" in page
    assert "<Opacus>" not in page
    assert "<script" not in page
    assert "early_stop:0.2" in page


def test_a_sealed_fix_says_so_wherever_it_is_named() -> None:
    trial = Trial(Judged(Verdict.PASSED, 0.0, "unit", 1.0, ()), 1.0, right(0.9), b"model")
    loss = accuracy_loss(right(0.9), [right(0.9)], confidence=0.95, bootstraps=50, seed=0)
    standing = Standing(Fix("label_only", 0.0), State.CONFIRMED, (trial,), (trial,), loss)
    outcome = Outcome(SearchResult(Ending.PASSED, (standing,), standing), SearchSettings(), {}, {})
    assert outcome.to_json()["chosen"]["holds_for_file"] is False
    assert "sealed deployments only" in outcome.headline()
    assert "cuts these off" in render_page(outcome)


def test_a_loss_is_paired_over_records_and_its_interval_covers_it() -> None:
    rng = np.random.default_rng(0)
    original = rng.random(500) < 0.9
    candidate = original & (rng.random(500) < 0.95)
    loss = accuracy_loss(original, [candidate, candidate], confidence=0.95, bootstraps=500, seed=0)
    assert loss.estimate == pytest.approx(float(original.mean() - candidate.mean()))
    assert 0.0 < loss.interval[0] < loss.estimate < loss.interval[1] < 0.1
    assert not loss.surely_within(loss.estimate)
    assert not loss.surely_above(loss.estimate)
    nothing = accuracy_loss(original, [original], confidence=0.95, bootstraps=100, seed=0)
    assert nothing.interval == (0.0, 0.0)
