"""From outcomes to findings: one for each test and model, with what weakens it in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audits.finding import Finding
from audits.membership.detail import TEST_OF
from audits.membership.draws import Judged
from audits.membership.settings import TESTS, MembershipSettings
from audits.membership.state import Read, State
from audits.statistics import holm

FAMILY = "membership"
_NO_TRAINER = "no training entry point was given, and this attack needs shadow models"
_NO_SHADOWS = "the policy asks for no shadow models"
_SHARE_RATIO = 1.25  # by which shadows may see more or fewer records than the audited model
_ONE_VERSION = "there is one version of this model alone"


def find(state: State, deltas: Mapping[str, list[dict[str, Any]]]) -> dict[str, tuple[Finding, ...]]:
    """By model, one finding for each test, adjusted for all of them together."""
    adjusted = dict(zip(state.outcomes, holm([outcome.p_value for outcome in state.outcomes.values()]), strict=True))
    return {
        subject.id: tuple(_finding(state, subject.id, test, adjusted, deltas.get(subject.id, [])) for test in TESTS)
        for subject in state.bench.subjects
    }


def _finding(
    state: State, name: str, test: str, adjusted: Mapping[tuple[str, str], float], deltas: list[dict[str, Any]]
) -> Finding:
    outcome = state.outcomes.get((name, test))
    blind = _blind(state.judged, state.read[name], state.settings)
    statistic = f"tpr_at_fpr_{state.bound.fpr:.6g}"
    if outcome is None:
        not_run = None if state.read[name].blind else _why_not_run(state, test)
        return Finding(f"{FAMILY}.{test}", 1.0, 1.0, statistic, tolerated=state.settings.tolerated, blind=blind, not_run=not_run)
    judged = state.unjudged is None
    return Finding(
        test=f"{FAMILY}.{test}",
        p_value=outcome.p_value if judged else 1.0,
        p_adjusted=adjusted[name, test] if judged else 1.0,
        statistic=statistic,
        estimate=outcome.point.tpr,
        interval=outcome.interval,
        tolerated=state.settings.tolerated,
        blind=blind,
        undone=_undone(state, name, test),
        doubts=_doubts(state, test, deltas),
        not_run=state.unjudged,
    )


def _blind(judged: Judged, read: Read, settings: MembershipSettings) -> tuple[str, ...]:
    found = [] if read.blind is None else [read.blind]
    if judged.thin:
        minimum = settings.min_records_per_class
        found.append(f"{len(judged.thin)} classes have fewer than {minimum} members or held-outs")
    return tuple(found)


def _why_not_run(state: State, test: str) -> str:
    if state.unjudged is not None:
        return state.unjudged
    if state.bench.trainer is None:
        return _NO_TRAINER
    return _NO_SHADOWS if state.shadows is None else _ONE_VERSION if test == "joint" else "its attacks could not run"


def _undone(state: State, name: str, test: str) -> tuple[str, ...]:
    """Labels of another kind, and shadows that behave unlike the audited model: a leak that they find counts all the same."""
    strange = state.read[name].strange_labels
    if strange is not None:
        return (strange,)
    if state.shadows is None or test == "threshold":
        return ()
    share, wanted = state.shadows.share, state.shadows.wanted_share
    if max(share / wanted, wanted / share) > _SHARE_RATIO:
        return (
            f"the shadows are trained on {share:.0%} of the records and the audited model was on {wanted:.0%}, which so few "
            "shadows cannot follow: ask for more of them",
        )
    accuracy = state.accuracy(state.bench.original.id)
    if accuracy is None:
        return ("the original could not be scored, so nothing shows that the shadows are trained like it",)
    found = (state.shadows.accuracy_inside, state.shadows.accuracy_outside)
    if max(abs(a - b) for a, b in zip(accuracy, found, strict=True)) <= state.settings.trainer_gap:
        return ()
    return (
        f"the shadows are unlike the audited model: accuracy {found[0]:.2f} and {found[1]:.2f} inside and outside the training, "
        f"against {accuracy[0]:.2f} and {accuracy[1]:.2f}",
    )


def _doubts(state: State, test: str, deltas: list[dict[str, Any]]) -> tuple[str, ...]:
    limit = state.bench.policy.decision.delta_warning
    names = {entry["attack"] for entry in deltas if entry["tpr_interval"][0] > limit}
    outcome = [name for name in names if state.attacks and TEST_OF.get(name) == test]
    return (f"compression raises what {min(outcome)} finds by more than {limit:g}",) if outcome else ()
