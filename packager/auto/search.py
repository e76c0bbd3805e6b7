"""The search itself: tries chains in the order of expectation, follows up on the best, and stops when the time is over.

    waves: first the planned chains; then, around the best of them, fewer quantised nodes where the budget is missed and
    coarser weights where there is room. Every finished trial stands on its own, so that the search can end at any moment.

It looks at the calibration and validation parts and never at the test part. Which trial comes next depends on results and,
at the end of the time, on a clock; what was chosen is written out as a recipe, which repeats it without any search.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from device_client.errors import SealiftError
from device_client.inference.walker import CheckedModel
from packager.auto.cache import TrialCache
from packager.auto.choice import SLOWEST, is_plausible, ranked
from packager.auto.plans import WEIGHTS, arithmetic, coarser, first_wave, gentler, mixed, weights_alone
from packager.auto.settings import AutoPlan
from packager.auto.trial import Chain, Trial, describe_chain
from packager.auto.workshop import Workshop
from packager.auto.yardstick import distortion, rows_to_choose_by, search_judge
from packager.encode.stored import store_model
from packager.evaluate import Judge, run_rows
from packager.features import check_own
from packager.feed import feed_rows
from packager.latency import LatencyRatio, measure_ratio
from packager.metrics import Z95
from packager.ptq.saturation import is_saturation_safe
from packager.ptq.sensitivity import NodeSensitivity, sensitivity
from packager.technique import Compressed, TechniqueContext, TechniqueStep

logger = logging.getLogger(__name__)

LATENCY_ROUNDS = 16
_HALF_WIDTH = 0.1
_CLEARLY_SLOW = 1.15
_SHARES = (0.65, 0.8, 1.0)  # of the time, per wave: coarser weights of the best are worth more than the last of the plan
_MAX_SETTLED = 4
_MAX_FOLLOWED = 3  # of the best trials are followed up
_PRODUCTS = ("Gemm", "MatMul", "Conv")

Advance = Callable[[int], None]


@dataclass(frozen=True)
class SearchResult:
    """All trials in the order they were made, the best per device class first, and how the search ended."""

    trials: tuple[Trial, ...]
    ranking: Mapping[str, tuple[Trial, ...]]
    rows: int
    rows_from: str
    ended: str


def search(
    original: Compressed,
    context: TechniqueContext,
    *,
    plan: AutoPlan,
    allowed_drop: float,
    max_bytes: int,
    cache: TrialCache,
    encodings: Sequence[str] = (),
    metric: str = "auto",
    output: str = "",
    advance: Advance | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """Searches for variants.

    Args:
        original: the FP32 normal form.
        context: calibration part, and validation and train parts where there are any.
        plan: the settings.
        allowed_drop: the accuracy budget.
        max_bytes: size of the file that was given; where that is in half precision it is smaller than its FP32 normal form.
        cache: where finished chains are kept.
        encodings: how a bundle may store what is found.
        metric: as in the recipe.
        output: as in the recipe.
        advance: called with the share of the search that is over, in per cent since the last call.
        clock: seconds, monotonic.
    """
    rows, rows_from = rows_to_choose_by(context)
    judge = search_judge(original, rows, context, metric=metric, output=output)
    run = _Run(
        original,
        context,
        judge=judge,
        plan=plan,
        allowed_drop=allowed_drop,
        max_bytes=max_bytes,
        cache=cache,
        encodings=encodings,
        advance=advance,
        clock=clock,
    )
    waves = (run.first, run.repair, run.refine)
    for wave, share in (*zip(waves, _SHARES, strict=True), *((wave, 1.0) for wave in waves)):  # what a share cut off comes last
        for chain in wave():
            if not run.goes_on(share):
                break
            run.attempt(chain)
    run.measure_the_rest()
    run.settle_the_leaders()
    return run.result(rows_from)


class _Run:
    """The state of one search."""

    def __init__(
        self,
        original: Compressed,
        context: TechniqueContext,
        *,
        judge: Judge,
        plan: AutoPlan,
        allowed_drop: float,
        max_bytes: int,
        cache: TrialCache,
        encodings: Sequence[str],
        advance: Advance | None,
        clock: Callable[[], float],
    ) -> None:
        self._original, self._context, self._plan, self._allowed = original, context, plan, allowed_drop
        self._clock, self._begun, self._shown, self._advance = clock, clock(), 0, advance
        self._trains = plan.train and original.module is not None and context.train is not None
        self._seconds = plan.seconds_for(len(original.data), trains=self._trains)
        self._encodings, self._max_bytes = encodings, max_bytes
        self._workshop = Workshop(original, context, cache)
        self._judge = judge
        self._checked = check_own(original.data)
        self._feeds = feed_rows(self._checked.inputs, judge.test.inputs)
        self.trials: list[Trial] = []
        self._tried: set[Chain] = set()
        self._latency: dict[Chain, LatencyRatio] = {}  # what computes alike is timed once
        self._settled: set[Chain] = set()  # and these with care
        self._tables: dict[tuple[Chain, TechniqueStep], Sequence[NodeSensitivity]] = {}

    def goes_on(self, share: float = 1.0) -> bool:
        """Whether there is time for another trial, of a wave that may begin trials in this share of the whole time."""
        return len(self.trials) < self._plan.max_trials and self._clock() - self._begun < share * self._seconds

    def first(self) -> Iterator[Chain]:
        """The planned chains."""
        yield from first_wave(
            self._original.data,
            context=self._context,
            trains=self._trains,
            classes=self._plan.classes,
            eight_bits_do=self._eight_bits_do,
        )

    def _eight_bits_do(self) -> bool:
        tried = next((trial for trial in self.trials if trial.chain == (WEIGHTS,)), None)
        return tried is not None and tried.model is not None and tried.drop <= self._allowed

    def repair(self) -> Iterator[Chain]:
        """Where small chains may miss the budget, or are slow: weights of more bits, and the same with less in INT8."""
        yield from self._surer()
        made = [trial for trial in self.trials if trial.model is not None]
        missed = [trial for trial in made if trial.drop > self._allowed and not _is_slow(trial)]
        for trial in sorted(missed, key=lambda trial: trial.drop)[:_MAX_FOLLOWED]:
            yield from gentler(trial.chain, self._sensitivity)
        slow = [trial for trial in made if _is_slow(trial)]
        for trial in sorted(slow, key=lambda trial: trial.stored_bytes)[:1]:
            yield from mixed(trial.chain, operators=_PRODUCTS)

    def _surer(self) -> Iterator[Chain]:
        """Weights of more bits, where the rows leave it open whether those of 8 bits are within the budget."""
        tried = next((trial for trial in self.trials if trial.chain == (WEIGHTS,)), None)
        if tried is not None and tried.model is not None and tried.drop + Z95 * tried.spread > self._allowed:
            yield from weights_alone(eight_bits_do=False)

    def refine(self) -> Iterator[Chain]:
        """Where the best is within the budget: the same with coarser weights."""
        for kind in self._plan.classes:
            for trial in self._ranking(kind)[:_MAX_FOLLOWED]:
                yield from coarser(trial)

    def _sensitivity(self, before: Chain, step: TechniqueStep) -> Sequence[NodeSensitivity]:
        if (before, step) not in self._tables:
            self._tables[before, step] = self._table(before, step)
        return self._tables[before, step]

    def _table(self, before: Chain, step: TechniqueStep) -> Sequence[NodeSensitivity]:
        model = self._workshop.make(before).model
        try:
            return () if model is None else sensitivity(model.data, step.config, self._context.calibration)
        except SealiftError as e:
            logger.info("no sensitivity table: %s", e)
        except Exception:  # as in the workshop: onnxruntime's errors have no common class, and there are other chains
            logger.info("no sensitivity table", exc_info=True)
        return ()

    def attempt(self, chain: Chain) -> None:
        """Makes and judges one chain, if it is a new one."""
        if chain in self._tried:
            return
        self._tried.add(chain)
        trial = self._known_slow(chain) or self._made(chain)
        logger.info("tried %s: %s", describe_chain(chain), trial.failure or f"{trial.stored_bytes} bytes, drop {trial.drop:.4f}")
        self.trials.append(trial)
        self._show()

    def _known_slow(self, chain: Chain) -> Trial | None:
        """Time is short: what computes exactly as a slow trial did is not made."""
        for trial in self.trials:
            if trial.latency is not None and _is_slow(trial) and arithmetic(trial.chain) == arithmetic(chain):
                told = f"not tried: it computes as {describe_chain(trial.chain)} does, {trial.latency.ratio:.2f} times as slow"
                return Trial(chain, None, failure=told)
        return None

    def _made(self, chain: Chain) -> Trial:
        made = self._workshop.make(chain)
        return Trial(chain, None, failure=made.failure) if made.model is None else self._judged(chain, made.model)

    def measure_the_rest(self) -> None:
        """Latency of what may ship and was not timed yet."""
        for index, trial in enumerate(self.trials):
            if trial.latency is None and is_plausible(trial, allowed_drop=self._allowed):
                self.trials[index] = self._timed(trial)

    def settle_the_leaders(self) -> None:
        """What would be chosen is timed again where its reading leaves it open whether it is slower than the original."""
        for _ in range(_MAX_SETTLED):
            leaders = [self._ranking(kind)[:1] for kind in self._plan.classes]
            open_ = [trial for trial in itertools.chain.from_iterable(leaders) if self._is_open(trial)]
            if not open_:
                return
            key = arithmetic(open_[0].chain)
            self._latency[key] = self._measured(open_[0], careful=True)
            self._settled.add(key)
            for index, trial in enumerate(self.trials):
                if trial.latency is not None and arithmetic(trial.chain) == key:
                    self.trials[index] = replace(trial, latency=self._latency[key])

    def _is_open(self, trial: Trial) -> bool:
        found = trial.latency
        return found is not None and arithmetic(trial.chain) not in self._settled and found.low <= SLOWEST < found.high

    def result(self, rows_from: str) -> SearchResult:
        """What was found."""
        timed_out = self._clock() - self._begun >= self._seconds
        ended = f"after {self._seconds:g} s" if timed_out else "all planned trials are done"
        ranking = {kind: tuple(self._ranking(kind)) for kind in self._plan.classes}
        return SearchResult(tuple(self.trials), ranking, len(self._judge.test), rows_from, ended)

    def _ranking(self, kind: str) -> list[Trial]:
        return ranked(
            self.trials,
            max_bytes=self._max_bytes,
            allowed_drop=self._allowed,
            prefer=self._plan.prefer,
            portable=kind == "portable",
        )

    def _judged(self, chain: Chain, model: Compressed) -> Trial:
        try:
            checked = check_own(model.data)
            outputs = run_rows(checked, self._judge.test)
        except SealiftError as e:
            return Trial(chain, None, failure=f"the result does not run: {e}"[:300])
        found = self._judge.evaluate(outputs, allowed_drop=self._allowed).drop
        drop, spread = found.value, (found.high - found.low) / (2 * Z95)
        trial = Trial(
            chain,
            model,
            stored_bytes=len(model.data),
            drop=drop,
            spread=spread,
            distortion=1.0 if found.value >= 1.0 else distortion(self._judge.reference, outputs),  # broken outputs lose all
            is_portable=is_saturation_safe(model.data),
        )
        if not is_plausible(trial, allowed_drop=self._allowed):
            return trial  # neither encoded nor timed: both take long, and it cannot ship
        return self._timed(replace(trial, stored_bytes=len(store_model(model.data, encodings=self._encodings).data)))

    def _timed(self, trial: Trial) -> Trial:
        if trial.model is None:
            return trial
        key = arithmetic(trial.chain)
        if key not in self._latency:
            found = self._measured(trial, careful=False)
            if SLOWEST < found.low < _CLEARLY_SLOW:  # other work on the machine looks like that, too
                found = self._measured(trial, careful=True)
                self._settled.add(key)
            self._latency[key] = found
        return replace(trial, latency=self._latency[key])

    def _measured(self, trial: Trial, *, careful: bool) -> LatencyRatio:
        variant: CheckedModel = check_own(b"" if trial.model is None else trial.model.data)
        rounds, width = (4 * LATENCY_ROUNDS, _HALF_WIDTH / 4) if careful else (LATENCY_ROUNDS, _HALF_WIDTH)
        return measure_ratio(self._checked, variant, self._feeds, rounds=rounds, half_width=width)

    def _show(self) -> None:
        """Progress in per cent: by time, or by trials where there are few."""
        if self._advance is None:
            return
        done = min(99, round(100 * (self._clock() - self._begun) / self._seconds))
        if done > self._shown:
            self._advance(done - self._shown)
            self._shown = done


def _is_slow(trial: Trial) -> bool:
    return trial.latency is not None and trial.latency.low > SLOWEST
