"""Images from outside judged as those from inside: by relabelled memberships, with one null distribution for all models.

The statistics and the relabellings are those of ``instance_gap``. The p-value of a model and attack is the smallest over
the three statistics, compared with its own distribution; the adjusted one is single-step min-p over all models and attacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.instance_gap import Likeness, bootstrap_gaps, gap_interval, gap_table, likeness
from audits.inversion import Reconstruction
from audits.retrieval.scene import Scene
from audits.statistics import binomial_limit, combine_minimum, critical_value, rank_p_values

Doubles = npt.NDArray[np.float64]
Key = tuple[str, str]  # attack, model


@dataclass(frozen=True)
class Judged:
    """One attack on one model under relabelled memberships.

    Attributes:
        p_value: of this attack on this model.
        p_adjusted: over all subjects and attacks of the table; a control is measured by the same family.
        gap: mean likeness to members minus held-outs, in correlation.
        interval: bootstrap over classes and records.
        by_class: (C,).
        delta, delta_interval: gap minus the original's, paired; None for the original and for controls.
    """

    p_value: float
    p_adjusted: float
    gap: float
    interval: tuple[float, float]
    by_class: tuple[float, ...]
    delta: float | None
    delta_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Table:
    """All judged images; ``alarms`` of fresh relabellings, and how many chance explains."""

    judged: Mapping[Key, Judged]
    alarms: int
    alarm_limit: int


def judge(images: Mapping[Key, Reconstruction], controls: Mapping[Key, Reconstruction], scene: Scene, *, original: str) -> Table:
    """Judges the subjects' images and the controls' in one table.

    Args:
        images: by attack and subject; these are the tests that are adjusted for each other.
        controls: by attack and control; judged by the same null, part of no family.
        scene: the drawn records.
        original: id of the subject that deltas are taken against.
    """
    everything = {**images, **controls}
    if not images:
        return Table({}, 0, 0)
    decision, seed = scene.policy.decision, scene.policy.seed
    items = [likeness(item.images, scene.pools) for item in everything.values()]
    fresh = scene.policy.controls.relabellings
    table = gap_table(items, scene.pools, permutations=decision.permutations, fresh=fresh, seed=seed)
    p_values = rank_p_values(table.values, reference=table.reference)
    rows = dict(zip(everything, range(len(items)), strict=True))
    combined = {key: combine_minimum(p_values[row], reference=table.reference) for key, row in rows.items()}
    family = np.min([combined[key] for key in images], axis=0)
    samples = bootstrap_gaps(items, resamples=decision.bootstraps, seed=seed)
    judged = {}
    for key, row in rows.items():
        p = float(combined[key][0])
        adjusted = float((family[: table.reference] <= p).mean())
        base = rows.get((key[0], original)) if key in images and key[1] != original else None
        judged[key] = _judged(items, samples, row, base, p=p, adjusted=adjusted, confidence=decision.confidence)
    # the family's own critical value, on relabellings that made no part of it
    critical = critical_value(family[: table.reference], alpha=decision.alpha)
    alarms = int((family[table.reference :] <= critical).sum())
    return Table(judged, alarms, binomial_limit(fresh, rate=decision.alpha))


def _judged(
    items: list[Likeness], samples: Doubles, row: int, base: int | None, *, p: float, adjusted: float, confidence: float
) -> Judged:
    gaps = _class_gaps(items[row])
    return Judged(
        p_value=p,
        p_adjusted=adjusted,
        gap=float(gaps.mean()),
        interval=gap_interval(samples[row], confidence=confidence),
        by_class=tuple(float(gap) for gap in gaps),
        delta=None if base is None else float(gaps.mean() - _class_gaps(items[base]).mean()),
        delta_interval=None if base is None else gap_interval(samples[row] - samples[base], confidence=confidence),
    )


def _class_gaps(item: Likeness) -> Doubles:
    return np.array([sims[: len(sims) // 2].mean() - sims[len(sims) // 2 :].mean() for sims in item.plain])
