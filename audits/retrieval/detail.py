"""Numbers of the retrieval tests for the page, as JSON values; they decide nothing."""

from __future__ import annotations

from typing import Any

from audits.retrieval.found import Identities, Outside
from audits.retrieval.relabelled import Judged
from audits.retrieval.twins import SwapSplit
from audits.targets import Subject


def describe(subject: Subject, identities: Identities, outside: Outside, twins: SwapSplit) -> dict[str, Any]:
    """What the page shows of one subject, by test; tests that did not run are absent."""
    detail: dict[str, Any] = {}
    if identities.retrieved.get(subject.id):
        detail["identity"] = _identity_detail(subject.id, identities)
    if masking := identities.masking.get(subject.id):
        detail["masking"] = {"own": masking.own, "naive": masking.naive, "transfer": masking.transfer}
    for name, sight in outside.seen[subject.id].sights.items():
        found = identities.retrieved.get(subject.id, {}).get(name)
        classes = len(sight.queries)
        detail[name] = {
            "queries_per_class": sight.asked / classes,
            "most_queries": int(sight.queries.max()),
            "confidence": [float(value) for value in sight.images.best_confidence()],
            "converged_share": sight.converged_share,
            "retrieved": None if found is None else found.retrieved,
            "classes": classes,
            "batched": outside.seen[subject.id].batched,
        } | _judged_detail(outside.table.judged.get((name, subject.id)))
    if gap := twins.gaps.get(subject.id):
        detail["swap_split"] = {
            "attack": gap.attack,
            "gap": gap.gap,
            "interval": list(gap.interval),
            "delta": gap.delta,
            "delta_interval": None if gap.delta_interval is None else list(gap.delta_interval),
            "by_class": list(gap.by_class),
        }
    return detail


def _identity_detail(subject: str, identities: Identities) -> dict[str, Any]:
    attack, best = identities.strongest(subject)
    classes = len(best.nearest)
    return {
        "attack": attack,
        "retrieved": best.retrieved,
        "classes": classes,
        "interval": list(best.interval),
        "chance": 1.0 / classes,
        "p_value": best.p_value,
        "by_attack": {name: found.retrieved for name, found in identities.retrieved[subject].items()},
        "no_gradient": identities.no_gradient.get(subject),
    }


def _judged_detail(judged: Judged | None) -> dict[str, Any]:
    if judged is None:
        return {}
    return {
        "gap": judged.gap,
        "interval": list(judged.interval),
        "delta": judged.delta,
        "delta_interval": None if judged.delta_interval is None else list(judged.delta_interval),
        "p_value": judged.p_value,
        "by_class": list(judged.by_class),
    }
