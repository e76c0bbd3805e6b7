"""From the original to the variants that ship: the recipe's chains, or those that a search chose, judged on the test part.

A variant that is larger than the file that was given, or misses the accuracy budget, does not ship; the original ships in
its place and the report says why. After a search the next best is offered instead, up to ``MAX_OFFERS`` times: each is one
more reading of the test part, which is counted and told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from packager.auto.cache import TrialCache
from packager.auto.record import SearchRecord
from packager.auto.search import search
from packager.auto.trial import Chain, Trial, chain_id
from packager.budget import BudgetVerdict
from packager.data import Dataset
from packager.evaluate import Judge, run_rows
from packager.facts import Candidate
from packager.features import check_own
from packager.load import LoadedModel
from packager.recipe import Recipe
from packager.technique import Compressed, TechniqueContext, apply_technique

ORIGINAL_ID = "fp32"
MAX_OFFERS = 3
_CLEARLY_LESS = 0.25  # of the squared error of the outputs


class Step(Protocol):
    """A named step of packing with a progress bar: a context that gives ``advance(steps)``."""

    def __call__(self, name: str, *, length: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begins a step of ``length`` units."""
        ...


@dataclass(frozen=True)
class Variants:
    """What was judged, the recipe that makes it (with a search's choice in it), and how the search went."""

    candidates: tuple[Candidate, ...]
    recipe: Recipe
    search: SearchRecord | None


def make_variants(
    loaded: LoadedModel, test: Dataset, judge: Judge, context: TechniqueContext, *, recipe: Recipe, cache: TrialCache, step: Step
) -> Variants:
    """Compresses and judges.

    Args:
        loaded: the original.
        test: the test part, for the verdicts only.
        judge: knows the original's outputs on it.
        context: what techniques may look at.
        recipe: what to do, or how to search.
        cache: of finished trials, for a search.
        step: shows progress.
    """
    original = Compressed(loaded.model.data, ORIGINAL_ID, module=loaded.module)
    bench = _Bench(original, test, judge, recipe, step, max_bytes=min(len(original.data), loaded.source_bytes))
    if recipe.auto is not None:
        return _searched(bench, context, recipe, cache)
    chains = tuple(chain for chain in (recipe.techniques, *recipe.further) if chain)
    candidates = bench.follow(chains, context)
    if recipe.include_original or all(candidate.refused is not None for candidate in candidates):
        candidates = (*candidates, bench.judged(ORIGINAL_ID, original))
    return Variants(candidates, recipe, None)


def _searched(bench: _Bench, context: TechniqueContext, recipe: Recipe, cache: TrialCache) -> Variants:
    plan = recipe.auto
    if plan is None:
        raise ValueError("no search was asked for")
    allowed = recipe.budget.accuracy_drop
    with bench.step("search", length=100) as advance:
        result = search(
            bench.original,
            context,
            plan=plan,
            allowed_drop=allowed,
            max_bytes=bench.max_bytes,
            cache=cache,
            encodings=recipe.storage.encodings,
            metric=recipe.metric,
            output=recipe.output,
            advance=advance,
        )
    chosen: list[tuple[str, Trial | None]] = []
    rejected: list[tuple[Trial, str]] = []
    candidates: list[Candidate] = []
    for kind in plan.classes:
        trial, candidate = bench.offer(result.ranking[kind], rejected)
        chosen.append((kind, trial))
        if candidate is not None and all(candidate.model.digest != other.model.digest for other in candidates):
            candidates.append(candidate)
    record = SearchRecord(result, plan, bench.max_bytes, allowed, tuple(chosen), tuple(rejected))
    chains = tuple(dict.fromkeys(trial.chain for _, trial in chosen if trial is not None))
    decided = replace(recipe, auto=None, techniques=chains[0] if chains else (), further=chains[1:])
    if recipe.include_original or not candidates:
        candidates.append(bench.judged(ORIGINAL_ID, bench.original))
    return Variants(_with_ids(candidates), decided, record)


class _Bench:
    """Judges variants of one original on the test part."""

    def __init__(self, original: Compressed, test: Dataset, judge: Judge, recipe: Recipe, step: Step, *, max_bytes: int) -> None:
        self.original, self.max_bytes = original, max_bytes
        self.step = step
        self._test, self._judge, self._recipe = test, judge, recipe

    def follow(self, chains: tuple[Chain, ...], context: TechniqueContext) -> tuple[Candidate, ...]:
        """Applies the recipe's chains; a failing technique is an error, since it was asked for by name."""
        made: list[Compressed] = []
        if chains:
            with self.step("compress", length=sum(len(chain) for chain in chains)) as advance:
                for chain in chains:
                    model = self.original
                    for technique in chain:
                        model = apply_technique(technique, model, context)
                        advance(1)
                    made.append(model)
        return _with_ids([self.judged(chain_id(chain), model) for chain, model in zip(chains, made, strict=True)])

    def offer(self, ranking: tuple[Trial, ...], rejected: list[tuple[Trial, str]]) -> tuple[Trial | None, Candidate | None]:
        """The first of a ranking whose drop on the test part is within the budget; else the best of the unproven ones.

        After one that was offered in vain comes the first whose outputs err clearly less: the next in the ranking is often its
        twin. Those that were offered in vain are added to ``rejected``.
        """
        allowed = self._recipe.budget.accuracy_drop
        unproven: list[tuple[Trial, Candidate]] = []
        bound = math.inf
        for _ in range(MAX_OFFERS):
            trial = next((trial for trial in ranking if trial.model is not None and trial.distortion < bound), None)
            if trial is None or trial.model is None:
                break
            bound = trial.distortion * _CLEARLY_LESS
            candidate = self.judged(trial.id, trial.model)
            drop = candidate.evaluation.drop.value
            if candidate.refused is None and drop <= allowed:
                return trial, candidate
            if candidate.refused is None:
                unproven.append((trial, candidate))
            rejected.append((trial, candidate.refused or f"unproven, with a drop of {drop:.4f}"))
        if not unproven:
            return None, None
        chosen = min(unproven, key=lambda pair: pair[1].evaluation.drop.value)
        rejected[:] = [pair for pair in rejected if pair[0] is not chosen[0]]
        return chosen

    def judged(self, name: str, model: Compressed) -> Candidate:
        """A variant with its verdict."""
        checked = check_own(model.data)
        if model is self.original:
            outputs = self._judge.reference
        else:
            with self.step(f"judge {name}", length=len(self._test)) as advance:
                outputs = run_rows(checked, self._test, advance=advance)
        allowed = self._recipe.budget.accuracy_drop
        evaluation = self._judge.evaluate(outputs, allowed_drop=allowed)
        refused = None
        if model is not self.original and len(model.data) > self.max_bytes:
            refused = f"larger than what was given: {len(model.data)} bytes against {self.max_bytes}"
        elif evaluation.budget.verdict is BudgetVerdict.MISSED:
            refused = (
                f"misses the accuracy budget: {evaluation.metric} drops by at least {evaluation.drop.low:.4f}, allowed {allowed:g}"
            )
        return Candidate(name, checked, model.precision, evaluation, model.evidence, refused)


def _with_ids(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """The candidates under names that differ."""
    seen: dict[str, int] = {}
    named = []
    for candidate in candidates:
        seen[candidate.id] = count = seen.get(candidate.id, 0) + 1
        named.append(candidate if count == 1 else replace(candidate, id=f"{candidate.id[:60]}-{count}"))
    return tuple(named)
