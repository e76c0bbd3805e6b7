"""Golden probes that bite: made, judged by mutants of each variant, and grown until they catch enough of them.

A device installs a variant only if it reproduces these outputs, so the question is which defects that would show. The
mutation score is the share of damaged copies that the device's own comparison refuses. Below the wanted share probes
that catch survivors are added, up to a bound; if that is not enough, the report says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_client.bundle.contract import Tolerance
from device_client.bundle.digest import Digest
from device_client.errors import FormatError, SelfTestError, UsageError
from device_client.inference.golden import GoldenProbes, compare, encode_golden, record
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel
from packager.features import check_own
from packager.golden_plan import GoldenPlan
from packager.mutations import Mutant, make_mutants
from packager.probe_search import WIDTH, finite_rows, search_steps, searches, seek_probe
from packager.probes import ProbeSpec, join_probes, make_probes
from packager.tolerance import choose_tolerance

Probes = Mapping[str, NDArray[Any]]
_ATTEMPTS = 8


@dataclass(frozen=True)
class MutationScore:
    """How many mutants of one variant the probes catch.

    ``without_effect``: mutants that changed no output in any of ``searched`` inputs, such as a zeroed channel that was
    never active; they cannot be told from the original and do not count. ``survivors``: kind of defect to number missed.
    """

    mutants: int
    caught: int
    without_effect: int
    survivors: tuple[tuple[str, int], ...]
    searched: int

    @property
    def share(self) -> float:
        """Caught mutants of those with an effect, in [0, 1]; 1.0 where there was nothing to damage."""
        effective = self.mutants - self.without_effect
        return self.caught / effective if effective else 1.0

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "mutants": self.mutants,
            "caught": self.caught,
            "without_effect": self.without_effect,
            "score": round(self.share, 4),
            "survivors": dict(self.survivors),
            "inputs_searched_per_survivor": self.searched,
        }


@dataclass(frozen=True)
class GoldenResult:
    """The golden file, the tolerances of the contract, and the scores per variant id."""

    data: bytes
    count: int
    tolerances: tuple[tuple[str, Tolerance], ...]
    scores: tuple[tuple[str, MutationScore], ...]

    @property
    def worst_share(self) -> float:
        """The lowest mutation score of any variant."""
        return min(score.share for _, score in self.scores)


@dataclass(frozen=True)
class GoldenVariant:
    """A variant to make probes for."""

    id: str
    model: CheckedModel
    precision: str


def build_golden(
    variants: Sequence[GoldenVariant],
    specs: Sequence[ProbeSpec],
    *,
    plan: GoldenPlan,
    seed: Digest,
    advance: Callable[[int], None] | None = None,
) -> GoldenResult:
    """Makes, judges and grows the probes.

    Costs ``plan.mutants`` sessions per variant, and that many runs of each probe.

    Args:
        variants: all that ship.
        specs: the inputs with their ranges.
        plan: numbers and bounds. ``max_bytes`` bounds the inputs, which every device downloads; one probe is always made.
        seed: digest of the original model; everything random follows from it.
        advance: called with the number of mutants judged, for a progress bar.

    Raises:
        UsageError: no input within the ranges was found on which every variant gives finite numbers (``golden_not_finite``).
    """
    rng = np.random.default_rng(int(seed.hex[:32], 16))
    max_count = min(plan.max_probes, max(1, plan.max_bytes // sum(spec.row_bytes for spec in specs)))
    probes: Probes = _usable_probes(variants, specs, count=min(plan.probes, max_count), rng=rng)
    trials = [
        _Trial.start(variant, probes, list(make_mutants(variant.model.data, count=plan.mutants, rng=rng))) for variant in variants
    ]
    for trial in trials:
        trial.face(probes, advance)
    probes = _grow(trials, probes, specs, rng=rng, max_count=max_count, min_score=plan.min_score)
    expected = {trial.variant.id: _outputs(trial.variant.model, probes) for trial in trials}
    return GoldenResult(
        encode_golden(GoldenProbes(probes, expected)),
        len(next(iter(probes.values()))),
        tuple(sorted((trial.variant.id, trial.tolerance) for trial in trials)),
        tuple(sorted((trial.variant.id, trial.score()) for trial in trials)),
    )


def _usable_probes(
    variants: Sequence[GoldenVariant], specs: Sequence[ProbeSpec], *, count: int, rng: np.random.Generator
) -> Probes:
    """Up to ``count`` probes on which every variant gives finite numbers; some networks take the logarithm of silence."""
    kept: list[Probes] = []
    found = 0
    for _ in range(_ATTEMPTS):
        probes = make_probes(specs, count=count, rng=rng)
        usable = np.all([finite_rows(_outputs(variant.model, probes)) for variant in variants], axis=0)
        if usable.any():
            kept.append({name: array[usable][: count - found] for name, array in probes.items()})
            found = min(count, found + int(usable.sum()))
        if found == count:
            break
    if not kept:
        raise UsageError(
            "the model gives no finite numbers on inputs within its ranges",
            code="golden_not_finite",
            where="golden probes",
            expected="finite outputs for inputs between the smallest and the largest of DATA, or of inputs.NAME.range",
            actual=f"none for {_ATTEMPTS * count} inputs",
            hint="declare the range that the model is made for in the recipe, or keep the outputs finite",
        )
    return kept[0] if len(kept) == 1 else join_probes(kept)


@dataclass
class _Trial:
    """One variant's mutants on their way through the probes; ``alive`` are those that no probe caught yet."""

    variant: GoldenVariant
    tolerance: Tolerance
    total: int
    alive: list[Mutant]
    without_effect: int = 0
    searched: int = 0

    @classmethod
    def start(cls, variant: GoldenVariant, probes: Probes, mutants: list[Mutant]) -> _Trial:
        outputs = _outputs(variant.model, probes)
        return cls(variant, choose_tolerance(variant.model.data, variant.precision, probes, outputs), len(mutants), mutants)

    def face(self, probes: Probes, advance: Callable[[int], None] | None = None) -> None:
        """Keeps the mutants that these probes do not catch either. A caught one stays caught: tolerances do not change."""
        expected = _outputs(self.variant.model, probes)
        missed = []
        for mutant in self.alive:
            if not _is_caught(mutant, probes, expected, self.tolerance):
                missed.append(mutant)
            if advance is not None:
                advance(1)
        self.alive = missed

    def score(self) -> MutationScore:
        survivors = Counter(mutant.kind for mutant in self.alive)
        caught = self.total - self.without_effect - len(self.alive)
        return MutationScore(self.total, caught, self.without_effect, tuple(sorted(survivors.items())), self.searched)


def _grow(
    trials: Sequence[_Trial],
    probes: Probes,
    specs: Sequence[ProbeSpec],
    *,
    rng: np.random.Generator,
    max_count: int,
    min_score: float,
) -> Probes:
    """Adds a probe for one survivor after another, while a variant is under the wanted share and searching is not too much work."""
    for trial in trials:
        steps, left = search_steps(trial.variant.model.data), searches(trial.variant.model.data)
        with open_session(trial.variant.model) as healthy:
            for mutant in list(trial.alive):
                if len(next(iter(probes.values()))) >= max_count or trial.score().share >= min_score or not left:
                    break
                if mutant not in trial.alive:  # a probe found for another one caught it
                    continue
                with open_session(check_own(mutant.data)) as damaged:
                    found = seek_probe(healthy, damaged, specs, allowed=trial.tolerance.value, steps=steps, rng=rng)
                trial.searched = steps * WIDTH
                left -= found.probe is None
                if found.gap == 0:
                    trial.alive.remove(mutant)
                    trial.without_effect += 1
                if found.probe is not None:
                    probes = join_probes([probes, found.probe])
                    for other in trials:
                        other.face(found.probe)
    return probes


def _is_caught(mutant: Mutant, probes: Probes, expected: Mapping[str, NDArray[Any]], tolerance: Tolerance) -> bool:
    """True if the device's self-test would refuse the mutant, by its outputs or because it does not run."""
    try:
        compare(expected, _outputs(check_own(mutant.data), probes), tolerance)
    except (SelfTestError, FormatError):
        return True
    return False


def _outputs(model: CheckedModel, probes: Probes) -> dict[str, NDArray[Any]]:
    with open_session(model) as session:
        return record(session, probes)
