"""Swap-split: two twins, each trained on one half of the members; whose pictures does a twin draw?

Twin A learns one half of each class, twin B the other. What both halves share (the class) cancels: the gap of a class is
how much more like its own half than like the other half a twin's image is, mean of both twins. Compression is compared on
the same twins, halves and resamples, so the delta of a variant is paired and its interval narrow.

Two statistics for each attack: ``mean`` likeness, which the class averages of the halves move, and ``nearest``, the best
record of the own half minus the best of the other after all that averages explain is taken out (``instance_gap``), which
a few memorised records move however many there are. The policy tolerates a bounded ``mean``; ``nearest`` may not show at all.

The p-value is by sign flips over classes: the halves are random, so without any trace of single records each class's gap is
as often negative as positive, exactly. A bound that the policy tolerates is subtracted first. Attacks and models share the
flips: the largest standardised gap is compared with its own distribution, and so is the smallest p-value over models.

What it does not show: the audited model itself. The twins see half of its records and therefore remember them rather
better; the question is what this training and this compression leave of single records. With C classes no p-value is
below 2^-C.

Cost: two trainings, two attacks for each model. Determinism: ``seed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from audits.attacked import Attacked, attack
from audits.data import AuditData
from audits.instance_gap import STATISTICS, Likeness, Pools, bootstrap_gaps, draw_pools, gap_interval, gap_table, likeness
from audits.parallel import run_all
from audits.retrieval.scene import Scene
from audits.retrieval.settings import RetrievalSettings
from audits.statistics import rank_p_values
from device_client.bundle.digest import Digest
from device_client.inference.walker import CheckedModel

Doubles = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]
_ENUMERATED = 12  # classes up to which all sign patterns are tried
MIN_HALF = 2


@dataclass(frozen=True)
class Halves:
    """The members of each class in two random halves of equal size.

    Attributes:
        first, second: records of a half, as an audit's records in which nobody is held out.
        both: all of them, the first half as members and the second as held-outs.
        pools: of ``both``, for the comparison.
        smallest: records of the smallest class in one half.
    """

    first: AuditData
    second: AuditData
    both: AuditData
    pools: Pools
    smallest: int


@dataclass(frozen=True)
class Twins:
    """The two halves' models of one subject, attacked; first half first."""

    first: Attacked
    second: Attacked

    @property
    def blocked(self) -> str | None:
        """Why one of them could not be attacked, or None."""
        return self.first.blocked or self.second.blocked

    def names(self) -> list[str]:
        """Attacks in the order of ``likenesses``."""
        return [item.attack for item in self.first.reconstructions]

    def likenesses(self, pools: Pools) -> list[Likeness]:
        """For each attack: how much more the first twin's image is like each record than the second's, halved."""
        return [
            _difference(likeness(mine.images, pools), likeness(theirs.images, pools))
            for mine, theirs in zip(self.first.reconstructions, self.second.reconstructions, strict=True)
        ]

    def nearest_gaps(self, pools: Pools) -> Doubles:
        """(attacks, C): best record of the own half minus best of the other, without what averages explain, mean of both."""
        pairs = zip(self.first.reconstructions, self.second.reconstructions, strict=True)
        return np.stack(
            [
                (_nearest(likeness(mine.images, pools), pools) - _nearest(likeness(theirs.images, pools), pools)) / 2.0
                for mine, theirs in pairs
            ]
        )


@dataclass(frozen=True)
class Gap:
    """What swap-split found about one subject.

    Attributes:
        p_value, p_adjusted: of at most the tolerated gap and no nearest record, over all attacks; adjusted over subjects.
        attack: the attack with the largest gap on the original.
        gap, interval: of that attack, in correlation.
        by_class: (C,), of that attack.
        delta, delta_interval: minus the original's, paired; None for the original and for controls.
    """

    p_value: float
    p_adjusted: float
    attack: str
    gap: float
    interval: tuple[float, float]
    by_class: tuple[float, ...]
    delta: float | None
    delta_interval: tuple[float, float] | None


def split_members(scene: Scene) -> Halves:
    """Draws the halves by the policy's seed; a class of odd size leaves one record out."""
    data, chosen = scene.data, []
    for label in range(scene.classes):
        rng = np.random.default_rng([scene.policy.seed, 31, label])
        rows = rng.permutation(np.flatnonzero((data.y == label) & data.member))
        half = min(len(rows) // 2, scene.policy.decision.max_records_per_class)
        chosen.append((np.sort(rows[:half]), np.sort(rows[half : 2 * half])))
    first, second = (np.concatenate([pair[side] for pair in chosen]) for side in (0, 1))
    both = np.concatenate([first, second])
    told_apart = _records(data, both, member=np.arange(len(both)) < len(first))
    pools = pool_halves(told_apart, scene)
    smallest = min(len(pair[0]) for pair in chosen)
    return Halves(_records(data, first), _records(data, second), told_apart, pools, smallest)


def pool_halves(both: AuditData, scene: Scene) -> Pools:
    """The records of both halves, class by class; which half counts as members is up to ``both``."""
    maximum = scene.policy.decision.max_records_per_class
    return draw_pools(both, classes=scene.classes, minimum=1, maximum=maximum, seed=scene.policy.seed)


def attack_twins(
    models: tuple[CheckedModel, CheckedModel], scene: Scene, settings: RetrievalSettings, *, original: Twins | None = None
) -> Twins:
    """Attacks both twins of one subject; the start knows both halves alike."""
    inversion = replace(scene.policy.inversion, attacks=settings.swap_split_attacks, restarts=settings.swap_split_restarts)
    policy = replace(scene.policy, inversion=inversion)
    known = (original.first, original.second) if original else (None, None)
    first, second = run_all(
        [
            partial(attack, model, scene.data, start=scene.start, bounds=scene.bounds, policy=policy, original=theirs)
            for model, theirs in zip(models, known, strict=True)
        ]
    )
    return Twins(first, second)


def compare(
    twins: Mapping[str, Twins],
    pools: Pools,
    scene: Scene,
    *,
    original: str,
    tolerated: float,
    controls: Mapping[str, Twins] | None = None,
) -> dict[str, Gap]:
    """Judges the twins of all subjects, those of ``original`` among them.

    Args:
        twins: by subject id, none blocked; these are adjusted for each other.
        pools: of the halves.
        scene: seed, resamples and confidence.
        original: id of the uncompressed model.
        tolerated: a gap that is allowed.
        controls: further pairs by name, none blocked, which are measured by the same family and are no part of it.
    """
    decision = scene.policy.decision
    items = {name: found.likenesses(pools) for name, found in {**twins, **(controls or {})}.items()}
    gaps = {name: np.stack([_class_gaps(item) for item in found]) for name, found in items.items()}
    nearest = {name: found.nearest_gaps(pools) for name, found in {**twins, **(controls or {})}.items()}
    signs = sign_flips(scene.classes, flips=decision.permutations, seed=scene.policy.seed)
    combined = {name: strongest_p_values(np.concatenate([found - tolerated, nearest[name]]), signs) for name, found in gaps.items()}
    family = np.min([combined[name] for name in twins], axis=0)
    own = len(twins[original].first.own)
    best = int(gaps[original][:own].mean(axis=1).argmax())
    samples = bootstrap_gaps([found[best] for found in items.values()], resamples=decision.bootstraps, seed=scene.policy.seed)
    rows = dict(zip(items, samples, strict=True))
    result = {}
    for name, found in gaps.items():
        delta = None if name == original or name not in twins else float(found[best].mean() - gaps[original][best].mean())
        result[name] = Gap(
            p_value=float(combined[name][0]),
            p_adjusted=float((family <= combined[name][0]).mean()),
            attack=twins[original].names()[best],
            gap=float(found[best].mean()),
            interval=gap_interval(rows[name], confidence=decision.confidence),
            by_class=tuple(float(gap) for gap in found[best]),
            delta=delta,
            delta_interval=None if delta is None else gap_interval(rows[name] - rows[original], confidence=decision.confidence),
        )
    return result


def sign_flips(classes: int, *, flips: int, seed: int) -> Signs:
    """(1 + flips, C) of +1 and -1, the first row all +1; every pattern exactly once where there are few classes."""
    if classes <= _ENUMERATED:
        patterns = np.arange(2**classes)[:, None] >> np.arange(classes)[None, :]
        return (1 - 2 * (patterns & 1)).astype(np.int8)
    drawn = np.random.default_rng([seed, 32]).integers(0, 2, size=(flips, classes))
    return np.concatenate([np.ones((1, classes)), 1 - 2 * drawn]).astype(np.int8)


def strongest_p_values(gaps: Doubles, signs: Signs) -> Doubles:
    """p-values of the largest of K standardised mean gaps, (K, C), under every sign pattern, (patterns,).

    A mean is divided by the root of the sum of squares, which no flip changes; the largest over K is compared with its own
    distribution (max-T, Westfall and Young 1993). Ties count against the model. With few classes this keeps the smallest
    p-value near 2^-C, where the smallest of K p-values would be K times that.
    """
    size = np.sqrt((gaps**2).sum(axis=1, keepdims=True))
    sums = gaps @ signs.T.astype(np.float64)
    standard = np.divide(sums, size, out=np.zeros_like(sums), where=size > 1e-12)
    largest = np.round(standard.max(axis=0, keepdims=True), 9)
    p_values: Doubles = rank_p_values(largest, reference=largest.shape[1])[0]
    return p_values


def _difference(mine: Likeness, theirs: Likeness) -> Likeness:
    plain = tuple((one - other) / 2.0 for one, other in zip(mine.plain, theirs.plain, strict=True))
    return Likeness(plain, ())


def _nearest(item: Likeness, pools: Pools) -> Doubles:
    """(C,), for members minus held-outs of ``pools``: the statistic of ``instance_gap``, class by class, truth only."""
    gaps = np.zeros(len(pools.classes))
    for label, pool in enumerate(pools.classes):
        one = Likeness((item.plain[label],), (item.residual[label],))
        alone = Pools((pool,), pools.centre, ())
        gaps[label] = gap_table([one], alone, permutations=0, fresh=0, seed=0).values[0, STATISTICS.index("nearest"), 0]
    return gaps


def _class_gaps(item: Likeness) -> Doubles:
    return np.array([sims[: len(sims) // 2].mean() - sims[len(sims) // 2 :].mean() for sims in item.plain])


def _records(data: AuditData, rows: npt.NDArray[np.int64], *, member: npt.NDArray[np.bool_] | None = None) -> AuditData:
    inside = np.ones(len(rows), dtype=np.bool_) if member is None else member
    return AuditData(data.x[rows], data.y[rows], inside, Digest.of(rows.tobytes()))
