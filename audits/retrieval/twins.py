"""The swap-split test as a whole: train two twins, compress them like the audited model, attack, compare, control.

It needs a trainer; without one it does not run and says so. A variant needs the bundle's recipe, since its twins have to
be compressed as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from audits.controls import untrained_twin
from audits.family import Bench
from audits.finding import Control
from audits.retrieval.controls import UNTRAINED, swap_split_controls, swap_split_pairs
from audits.retrieval.scene import Scene
from audits.retrieval.settings import RetrievalSettings
from audits.retrieval.swap_split import MIN_HALF, Gap, Twins, attack_twins, compare, split_members
from device_client.errors import SealiftError
from device_client.inference.walker import CheckedModel, check_model


@dataclass(frozen=True)
class SwapSplit:
    """What the test gave.

    Attributes:
        not_run: by subject id, why there is no gap.
        gaps: of subjects, by id.
        twins: the attacked pairs, by subject id.
        controls: judged, empty where nothing ran.
        per_half: records of the smallest class in one half.
    """

    not_run: Mapping[str, str]
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    twins: Mapping[str, Twins] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    per_half: int = 0


def run_swap_split(bench: Bench, scene: Scene, settings: RetrievalSettings, *, blocks: int) -> SwapSplit:
    """Runs the test on the original and on every variant that the recipe makes.

    Args:
        bench: with the trainer and the compressor.
        scene: what attacks share.
        settings: budgets and the tolerated gap.
        blocks: of tests in this family, which share its alpha.
    """
    everyone = [subject.id for subject in bench.subjects]
    alpha = scene.policy.decision.alpha
    if bench.trainer is None:
        return SwapSplit(dict.fromkeys(everyone, "no training entry point was given"))
    if blocks * 2.0**-scene.classes > alpha:
        return SwapSplit(dict.fromkeys(everyone, f"{scene.classes} classes are too few for alpha {alpha:g}"))
    halves = split_members(scene)
    if halves.smallest < MIN_HALF:
        reason = f"a class has {halves.smallest} members in one half, and {MIN_HALF} are needed"
        return SwapSplit(dict.fromkeys(everyone, reason))
    try:
        bench.report("training two twins on half of the members each")
        sides = (halves.first, halves.second)
        made = [bench.trainer.train(side.x, side.y, seed=scene.policy.seed) for side in sides]
        pairs: dict[str, tuple[CheckedModel, CheckedModel]] = {
            bench.original.id: (_checked(made[0], bench, "the first twin"), _checked(made[1], bench, "the second twin"))
        }
        if bench.compressor is not None:
            first, second = (bench.compressor.compress(model, x=side.x, y=side.y) for model, side in zip(made, sides, strict=True))
            pairs |= {name: (first[name], second[name]) for name in first if name in second}
    except SealiftError as e:
        return SwapSplit(dict.fromkeys(everyone, f"the twins could not be made: {e.what}"))
    twins, not_run = _attack(bench, scene, settings, pairs)
    if bench.original.id not in twins:
        return SwapSplit({**dict.fromkeys(everyone, "the original's twins could not be attacked"), **not_run})
    bench.report("attacking the twins' controls")
    controls = swap_split_pairs(bench, halves, scene, settings)
    shuffled = [untrained_twin(model, seed=scene.policy.seed + index) for index, model in enumerate(made)]
    pair = (_checked(shuffled[0], bench, UNTRAINED), _checked(shuffled[1], bench, UNTRAINED))
    controls[UNTRAINED] = attack_twins(pair, scene, settings)
    able = {name: found for name, found in controls.items() if not found.blocked}
    original, tolerated = bench.original.id, settings.max_gap
    gaps = compare(twins, halves.pools, scene, original=original, tolerated=tolerated, controls=able)
    judged = swap_split_controls(gaps, list(controls), blocks=blocks, alpha=alpha, required=settings.planted_required)
    return SwapSplit(not_run, {name: gaps[name] for name in twins}, twins, tuple(judged), halves.smallest)


def _attack(
    bench: Bench, scene: Scene, settings: RetrievalSettings, pairs: Mapping[str, tuple[CheckedModel, CheckedModel]]
) -> tuple[dict[str, Twins], dict[str, str]]:
    """Attacks the pairs, the original's first; and why the others are missing."""
    twins: dict[str, Twins] = {}
    not_run: dict[str, str] = {}
    for subject in bench.subjects:
        if subject.id not in pairs:
            given = bench.compressor is not None
            not_run[subject.id] = "the recipe makes no such variant" if given else "no recipe was given to compress the twins"
            continue
        bench.report(f"attacking the twins of {subject.id}")
        found = attack_twins(pairs[subject.id], scene, settings, original=twins.get(bench.original.id))
        if found.blocked:
            not_run[subject.id] = found.blocked
        else:
            twins[subject.id] = found
    return twins, not_run


def _checked(model: bytes, bench: Bench, where: str) -> CheckedModel:
    return check_model(model, features=bench.original.features, where=where)
