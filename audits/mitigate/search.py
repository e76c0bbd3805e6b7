"""The search: successive halving over fixes and strengths, then a confirmation with fresh seeds.

1. Every fix gets one training and one cheap judgement. What surely loses more accuracy than the budget allows is out.
2. The better half gets another, then the better half of that two more: until few are left.
3. Up to ``finalists`` that passed are trained again with seeds the search never used, and judged with the policy as it is. A
   fix passes if every one of those models passes and their accuracy is within the budget.

The choice was made by looking at results, so results of the search prove nothing; only the confirmation decides (selection
bias). The model that is named is the first confirmed one, not the best.

Anytime: with a time limit the search may use half of it, and whatever was found is confirmed in the rest. Pure but for what
``Lab`` does: training, attacks, and the folder of finished trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from audits.data import Bools
from audits.mitigate.accuracy import Loss, accuracy_loss
from audits.mitigate.fixes import NONE, Fix, Needs
from audits.mitigate.judge import Effort
from audits.mitigate.trials import Trial
from audits.verdict import Verdict
from device_client.errors import SealiftError

Report = Callable[[str], None]
_CONFIRM_SEED = 1000


@dataclass(frozen=True)
class SearchSettings:
    """How a search decides.

    Attributes:
        accuracy_budget: what a fix may cost in accuracy on held-outs, as a share.
        finalists: fixes that are confirmed at most.
        confirmations: fresh trainings of each.
        confidence, bootstraps: of the accuracy interval.
        seed: of the intervals, and the first of all training and audit seeds.
        max_seconds: for the whole, or None.
    """

    accuracy_budget: float = 0.02
    finalists: int = 3
    confirmations: int = 3
    confidence: float = 0.95
    bootstraps: int = 2000
    seed: int = 0
    max_seconds: float | None = None


class Lab(Protocol):
    """Makes and judges one model, or gives what it kept of that."""

    @property
    def original_right(self) -> Bools:
        """Right answers of the original on the held-outs, (N,)."""

    def trial(self, fix: Fix, *, training_seed: int, audit_seed: int, effort: Effort) -> Trial:
        """One trial.

        Raises:
            SealiftError: the model could not be made.
        """


class State(Enum):
    """How far a fix came."""

    NOT_MADE = "could not be made"
    OVER_BUDGET = "costs too much accuracy"
    BEATEN = "others did better"
    LEAKS = "did not pass in the search"
    REFUTED = "did not pass with fresh seeds"
    CONFIRMED = "passes with fresh seeds"
    UNFINISHED = "not finished in the time given"
    BASELINE = "for comparison"


@dataclass(frozen=True)
class Standing:
    """One fix, with all that was tried of it.

    Attributes:
        search, confirm: trials in order.
        loss: accuracy against the original, of the confirmation where there was one; None before any trial.
        why: the reason of the state where there is more to say.
    """

    fix: Fix
    state: State
    search: tuple[Trial, ...] = ()
    confirm: tuple[Trial, ...] = ()
    loss: Loss | None = None
    why: str = ""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Those that count: of the confirmation where there was one."""
        return self.confirm or self.search

    @property
    def leak(self) -> float | None:
        """Mean leak figure of ``trials``; None if one of them could not be measured."""
        found = [item.judged.leak for item in self.trials]
        measured = [value for value in found if value is not None]
        return sum(measured) / len(measured) if measured and len(measured) == len(found) else None

    @property
    def passed(self) -> int:
        """How many of ``trials`` passed."""
        return sum(item.judged.verdict is Verdict.PASSED for item in self.trials)


class Ending(Enum):
    """What a search came to."""

    PASSED = "passed"
    NONE_PASSES = "none_passes"
    NOT_NEEDED = "not_needed"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class SearchResult:
    """All standings, best first, and the fix that passed."""

    ending: Ending
    standings: tuple[Standing, ...]
    chosen: Standing | None

    @property
    def best(self) -> Standing | None:
        """The chosen one, or else the first within the budget whose leak was measured; a baseline counts for nothing."""
        tried = [item for item in self.standings if item.state not in {State.BASELINE, State.NOT_MADE, State.OVER_BUDGET}]
        return self.chosen or next((item for item in tried if item.leak is not None), None)


class _TimeUp(Exception):  # noqa: N818 - a signal within this file, not an error
    pass


def search(
    fixes: Sequence[Fix],
    lab: Lab,
    *,
    settings: SearchSettings,
    clock: Callable[[], float],
    report: Report = lambda _: None,
) -> SearchResult:
    """Looks for a fix that passes.

    Args:
        fixes: ``none`` first.
        lab: makes trials.
        settings: how it decides.
        clock: seconds, monotonic.
        report: called with one line for each step.
    """
    run = _Search(lab, settings, clock, report)
    first, *rest = fixes
    if first.kind != NONE:
        raise ValueError("the original comes first")
    baseline = run.baseline(first)
    if baseline.passed == len(baseline.trials) > 0:
        return SearchResult(Ending.NOT_NEEDED, (baseline,), None)
    standings = run.halve(rest)
    standings = run.confirm(standings)
    ordered = tuple(sorted(standings, key=run.merit))
    chosen = next((item for item in ordered if item.state is State.CONFIRMED), None)
    unfinished = any(item.state is State.UNFINISHED for item in ordered)
    ending = Ending.PASSED if chosen else Ending.UNFINISHED if unfinished else Ending.NONE_PASSES
    return SearchResult(ending, (baseline, *ordered), chosen)


class _Search:
    def __init__(self, lab: Lab, settings: SearchSettings, clock: Callable[[], float], report: Report) -> None:
        self._lab, self._settings, self._clock, self._report = lab, settings, clock, report
        self._began = clock()

    def baseline(self, fix: Fix) -> Standing:
        """The original: cheaply, and where it passes that, with the policy as it is."""
        found = self._step(Standing(fix, State.BASELINE), repetition=0, effort=Effort.SEARCH, share=math.inf)
        if found.passed:
            return replace(self._step(found, repetition=0, effort=Effort.CONFIRM, share=math.inf), state=State.BASELINE)
        return found

    def halve(self, fixes: Sequence[Fix]) -> list[Standing]:
        """Every fix with a state; the finalists stay ``UNFINISHED``."""
        alive = [Standing(fix, State.UNFINISHED) for fix in fixes]
        done: list[Standing] = []
        wanted = 1
        while alive:
            try:
                for index in range(len(alive)):
                    while alive[index].state is State.UNFINISHED and len(alive[index].search) < wanted:
                        repetition = len(alive[index].search)
                        alive[index] = self._step(alive[index], repetition=repetition, effort=Effort.SEARCH, share=0.5)
            except _TimeUp:
                self._report("half of the time is used: confirming what was found")
                return done + alive
            done += [item for item in alive if item.state is not State.UNFINISHED]
            alive = sorted((item for item in alive if item.state is State.UNFINISHED), key=self.merit)
            if len(alive) <= self._settings.finalists:
                break
            kept = max(self._settings.finalists, math.ceil(len(alive) / 2))
            done += [replace(item, state=State.BEATEN) for item in alive[kept:]]
            self._report(f"{kept} of {len(alive)} go on")
            alive, wanted = alive[:kept], wanted * 2
        return done + alive

    def confirm(self, standings: Sequence[Standing]) -> list[Standing]:
        """Fresh trainings of those that passed in the search; the first that does not pass ends a fix."""
        settings, result = self._settings, []
        finalists = [item for item in sorted(standings, key=self.merit) if item.state is State.UNFINISHED and item.search]
        chosen = [item for item in finalists if item.passed][: settings.finalists]
        for item in standings:
            if item in chosen:
                continue
            leaks = item.state is State.UNFINISHED and item.search and not item.passed
            result.append(replace(item, state=State.LEAKS) if leaks else item)
        for found in chosen:
            item = found
            try:
                while item.state is State.UNFINISHED:
                    item = self._step(item, repetition=len(item.confirm), effort=Effort.CONFIRM, share=1.0)
                    item = self._ruled(item)
            except _TimeUp:
                self._report(f"no time left to confirm {item.fix.label}")
            result.append(item)
        return result

    def merit(self, item: Standing) -> tuple[float, ...]:
        """Sort key, best first: how far it came, then passing within the budget, passing, leak, loss; equals keep their order."""
        order = (State.CONFIRMED, State.UNFINISHED, State.REFUTED, State.LEAKS, State.BEATEN, State.OVER_BUDGET, State.NOT_MADE)
        place = order.index(item.state) if item.state in order else len(order)
        share = item.passed / len(item.trials) if item.trials else 0.0
        loss = math.inf if item.loss is None else item.loss.estimate
        leak = math.inf if item.leak is None else item.leak
        if item.state is State.CONFIRMED:
            return (place, loss, leak)
        return (place, -share if loss <= self._settings.accuracy_budget else 0.0, -share, leak, loss)

    def _ruled(self, item: Standing) -> Standing:
        if item.state is not State.UNFINISHED or item.loss is None:
            return item
        last = item.confirm[-1].judged
        if last.verdict is not Verdict.PASSED:
            return replace(item, state=State.REFUTED, why=f"{last.verdict.value}: {'; '.join(last.reasons)}")
        if len(item.confirm) < self._settings.confirmations:
            return item
        if item.loss.estimate > self._settings.accuracy_budget:
            return replace(item, state=State.OVER_BUDGET)
        return replace(item, state=State.CONFIRMED)

    def _step(self, item: Standing, *, repetition: int, effort: Effort, share: float) -> Standing:
        """One more trial of a fix."""
        self._check_time(share)
        fix, confirms = item.fix, effort is Effort.CONFIRM
        number = self._settings.seed + repetition + (_CONFIRM_SEED if confirms else 0)
        fixed = fix.about.needs in {Needs.SEAL} or fix.kind in {NONE, "prune"}  # made from the original: no training, no seed
        try:
            trial = self._lab.trial(fix, training_seed=0 if fixed else number, audit_seed=number, effort=effort)
        except SealiftError as e:
            self._report(f"{fix.label}: {e}")
            return replace(item, state=State.NOT_MADE, why=str(e))
        search = item.search if confirms else (*item.search, trial)
        confirm = (*item.confirm, trial) if confirms else item.confirm
        loss = accuracy_loss(
            self._lab.original_right,
            [made.right for made in (confirm or search)],
            confidence=self._settings.confidence,
            bootstraps=self._settings.bootstraps,
            seed=self._settings.seed,
        )
        over = item.state is State.UNFINISHED and loss.surely_above(self._settings.accuracy_budget)
        found = replace(item, search=search, confirm=confirm, loss=loss, state=State.OVER_BUDGET if over else item.state)
        leak = "leak not measured" if trial.judged.leak is None else f"leak {trial.judged.leak:.4f}"
        self._report(
            f"{effort.value} {fix.label} #{repetition}: {trial.judged.verdict.value}, {leak}, "
            f"accuracy {trial.accuracy:.3f} (loss {loss.estimate:+.3f})"
        )
        return found

    def _check_time(self, share: float) -> None:
        limit = self._settings.max_seconds
        if limit is not None and math.isfinite(share) and self._clock() - self._began > share * limit:
            raise _TimeUp
