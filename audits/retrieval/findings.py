"""From what was found to findings of the retrieval tests: p-values over all tests, and reasons in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audits.family import Bench
from audits.finding import Control, FamilyResult, Finding, power_of
from audits.retrieval.asked import Asked, full_name
from audits.retrieval.detail import describe
from audits.retrieval.found import Identities, Outside
from audits.retrieval.multiple import over_blocks
from audits.retrieval.scene import Scene
from audits.retrieval.settings import RetrievalSettings
from audits.retrieval.sights import OUTSIDE
from audits.retrieval.twins import SwapSplit
from audits.statistics import holm
from audits.targets import Subject

FAMILY = "retrieval"
POWER_UNIT = "share of a record in a template that is otherwise the class average"
Key = tuple[str, str]  # test, subject


def collect(
    bench: Bench,
    scene: Scene,
    settings: RetrievalSettings,
    *,
    asked: Asked,
    identities: Identities,
    outside: Outside,
    twins: SwapSplit,
    controls: tuple[Control, ...],
    powers: Mapping[str, float | None],
    reference: Mapping[str, dict[str, Any]],
) -> FamilyResult:
    """All findings with adjusted p-values, and the page's numbers."""
    raw, identity_block = _identity_p_values(identities, public=settings.identity_is_public)
    relabelled = {(full_name(attack), name): found.p_adjusted for (attack, name), found in outside.table.judged.items()}
    subjects = {subject.id for subject in bench.subjects}
    blocks = [
        identity_block,
        {key: p for key, p in relabelled.items() if key[1] in subjects},
        {(full_name("swap_split"), name): gap.p_adjusted for name, gap in twins.gaps.items()},
    ]
    adjusted = over_blocks(blocks)
    found, detail = {}, {}
    for subject in bench.subjects:
        blocked = identities.no_gradient.get(subject.id) is not None
        made = [
            _identity(subject, scene, settings, asked, identities, outside, raw=raw, adjusted=adjusted),
            *(
                _outside(subject, scene, asked, outside, name, powers, settings, adjusted=adjusted, blocked=blocked)
                for name in OUTSIDE
            ),
            _swap_split(subject, scene, settings, twins, adjusted=adjusted),
        ]
        found[subject.id] = tuple(made)
        detail[subject.id] = describe(subject, identities, outside, twins)
        if subject.id in reference:
            detail[subject.id]["reference"] = reference[subject.id]
    return FamilyResult(
        family=FAMILY,
        findings=found,
        controls=controls,
        power=power_of(controls),
        power_unit=POWER_UNIT,
        detail=detail,
        shared={
            "threat_model": asked.threat_model,
            "tests": [full_name(name) for name in asked.tests],
            "identity_is_public": settings.identity_is_public,
            "power": dict(powers),
            "relabelling_alarms": outside.table.alarms,
            "relabelling_limit": outside.table.alarm_limit,
            "records_per_half": twins.per_half,
        },
    )


def _identity_p_values(identities: Identities, *, public: bool) -> tuple[dict[str, float], dict[Key, float]]:
    """By subject: Bonferroni over its attacks; and Holm over all subjects and attacks, which is a block where it is judged."""
    keys = [(name, attack) for name, found in identities.retrieved.items() for attack in found]
    values = [identities.retrieved[name][attack].p_value for name, attack in keys]
    raw: dict[str, float] = {}
    block: dict[Key, float] = {}
    for name, found in identities.retrieved.items():
        if found:
            raw[name] = min(1.0, len(found) * min(item.p_value for item in found.values()))
    for (name, _), p in zip(keys, holm(values), strict=True):
        key = (full_name("identity"), name)
        block[key] = min(p, block.get(key, 1.0))
    return raw, {} if public else block


def _identity(
    subject: Subject,
    scene: Scene,
    settings: RetrievalSettings,
    asked: Asked,
    identities: Identities,
    outside: Outside,
    *,
    raw: Mapping[str, float],
    adjusted: Mapping[Key, float],
) -> Finding:
    test, statistic = full_name("identity"), "retrieval_rate"
    if "identity" not in asked.tests:
        return Finding(test, 1.0, 1.0, statistic, not_run=asked.why_not("identity"))
    if identities.gallery is None:
        return Finding(test, 1.0, 1.0, statistic, not_run="a class has no held-outs to recognise it by")
    if not identities.retrieved.get(subject.id):
        reason = identities.no_gradient.get(subject.id) or outside.seen[subject.id].blocked or "no attack ran"
        return Finding(test, 1.0, 1.0, statistic, blind=(reason,))
    _, best = identities.strongest(subject.id)
    masking = identities.masking.get(subject.id)
    public = settings.identity_is_public
    return Finding(
        test,
        1.0 if public else raw[subject.id],
        1.0 if public else adjusted[test, subject.id],
        statistic,
        estimate=best.retrieved / scene.classes,
        interval=best.interval,
        tolerated=None if public else settings.max_retrieval,
        doubts=(masking.doubt,) if masking is not None and masking.doubt else (),
    )


def _outside(
    subject: Subject,
    scene: Scene,
    asked: Asked,
    outside: Outside,
    name: str,
    powers: Mapping[str, float | None],
    settings: RetrievalSettings,
    *,
    adjusted: Mapping[Key, float],
    blocked: bool,
) -> Finding:
    test, statistic = full_name(name), "mean_gap"
    if name not in asked.outside:
        return Finding(test, 1.0, 1.0, statistic, not_run=asked.why_not(name))
    if outside.thin is not None:
        return Finding(test, 1.0, 1.0, statistic, not_run=outside.thin)
    seen = outside.seen[subject.id]
    if seen.blocked is not None:
        return Finding(test, 1.0, 1.0, statistic, blind=(seen.blocked,))
    judged = outside.table.judged[name, subject.id]
    undone = []
    if asked.decides(name, blocked=blocked):
        share, power = seen.sights[name].converged_share, powers.get(name)
        if share < scene.policy.inversion.min_converged_share:
            undone.append(f"{name} converged on {share:.0%} of the classes only")
        if power is None or power > settings.planted_required:
            undone.append(f"{name} does not see a planted leak of strength {settings.planted_required:g}")
    return Finding(
        test,
        judged.p_value,
        adjusted[test, subject.id],
        statistic,
        estimate=judged.gap,
        interval=judged.interval,
        undone=tuple(undone),
    )


def _swap_split(
    subject: Subject, scene: Scene, settings: RetrievalSettings, twins: SwapSplit, *, adjusted: Mapping[Key, float]
) -> Finding:
    test, statistic = full_name("swap_split"), "swap_split_gap"
    if subject.id in twins.not_run:
        return Finding(test, 1.0, 1.0, statistic, not_run=twins.not_run[subject.id])
    gap, pair = twins.gaps[subject.id], twins.twins[subject.id]
    needed = scene.policy.inversion
    share = min(side.converged_share(min_confidence=needed.min_confidence) for side in (pair.first, pair.second))
    masked = sorted({*pair.first.masked, *pair.second.masked})
    # a masked attack is no loss where another one on the same twin reaches as far, or the original's images stand in
    undone = (f"attacks on a twin converged on {share:.0%} of the classes only",) if share < needed.min_converged_share else ()
    doubts = (f"gradients of the twins are masked for {', '.join(masked)}",) if gap.attack in masked else ()
    return Finding(
        test,
        gap.p_value,
        adjusted[test, subject.id],
        statistic,
        estimate=gap.gap,
        interval=gap.interval,
        tolerated=settings.max_gap,
        undone=undone,
        doubts=doubts,
    )
