"""What the page gets of a membership run: for each model and for the run as a whole. JSON values that decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from audits.data import Floats
from audits.membership.baselines import art_baselines
from audits.membership.detail import describe_attacks
from audits.membership.draws import count_repeats, record_names
from audits.membership.roc import finest_fpr
from audits.membership.scorer import Scored
from audits.membership.scores import Doubles
from audits.membership.shadows import FLOAT
from audits.membership.state import State
from audits.membership.suite import attack_scores


def describe_subject(state: State, name: str, deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """Access, accuracy, attacks, baselines, and what compression changed."""
    read = state.read[name]
    if read.scored is None or name not in state.attacks:
        return {"access": None, "blind": read.blind, "attacks": [], "baselines": [], "delta": []}
    bench, settings = state.bench, state.settings
    names = record_names(bench.data, state.judged.rows, seed=bench.policy.seed)
    repeats = _by_repeat(state, name)
    accuracy = state.accuracy(name)
    return {
        "access": read.scored.access,
        "blind": None,
        "shadows": None if state.shadows is None else state.shadows.kind(name),
        "accuracy_members": None if accuracy is None else accuracy[0],
        "accuracy_heldouts": None if accuracy is None else accuracy[1],
        "attacks": describe_attacks(
            state.attacks[name], state.judged, names, settings, confidence=bench.policy.decision.confidence, by_repeat=repeats
        ),
        "baselines": _baselines(state, read.scored) if settings.art_baseline else [],
        "delta": deltas,
    }


def _by_repeat(state: State, name: str) -> list[dict[str, Doubles]]:
    scores = state.read[name].scores
    if state.shadows is None or state.settings.repeats < 2 or scores is None:
        return []
    return [
        attack_scores(scores, state.shadows.only(index), subject=name, y=state.bench.data.y[state.judged.rows], others={})
        for index in range(state.settings.repeats)
    ]


def _baselines(state: State, scored: Scored) -> list[dict[str, Any]]:
    state.bench.report("membership baselines of ART")
    shadows = state.shadows
    return art_baselines(
        np.exp(scored.log_probabilities),
        state.bench.data.y[state.judged.rows],
        state.judged.member,
        shadow_probabilities=() if shadows is None else shadows.first_probabilities,
        inside=None if shadows is None else shadows.inside[: len(shadows.first_probabilities)],
        fpr=state.bound.fpr,
        confidence=state.bench.policy.decision.confidence,
        seed=state.bench.policy.seed,
    )


def named_records(state: State, details: Mapping[str, dict[str, Any]]) -> dict[str, Floats]:
    """The records whose names stand in the details of any model."""
    bench = state.bench
    names = record_names(bench.data, state.judged.rows, seed=bench.policy.seed)
    named = {record["id"] for detail in details.values() for attack in detail["attacks"] for record in attack["worst"]}
    return {name: bench.data.x[row] for name, row in zip(names, state.judged.rows, strict=True) if name in named}


def describe_run(state: State) -> dict[str, Any]:
    """Counts, rates, and how the shadows were made."""
    shadows, settings = state.shadows, state.settings
    counts = {"records": len(state.bench.data.y), "members": state.judged.members, "heldouts": state.judged.heldouts}
    return {
        "counts": counts | {"repeats": count_repeats(state.bench.data)},
        "thin": [list(item) for item in state.judged.thin],
        "fpr": state.bound.fpr,
        "fpr_asked": settings.fpr,
        "finest_fpr": finest_fpr(state.judged.heldouts),
        "not_judged": state.unjudged,
        "tolerated": settings.tolerated,
        "compared": state.bound.compared,
        "seed": state.bench.policy.seed,
        "shadows": None
        if shadows is None
        else {
            "count": len(shadows.inside),
            "repeats": settings.repeats,
            "share": shadows.share,
            "wanted_share": shadows.wanted_share,
            "compressed_like": [name for name in shadows.confidence if name != FLOAT],
            "accuracy_inside": shadows.accuracy_inside,
            "accuracy_outside": shadows.accuracy_outside,
            "isolation": shadows.isolation,
        },
    }
