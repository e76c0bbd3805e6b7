"""A search's trials as rows of the page: words and numbers, no models."""

from __future__ import annotations

from packager.auto.choice import is_plausible
from packager.auto.record import SearchRecord
from packager.auto.trial import Trial, describe_chain
from packager.facts import TrialRow


def trials_of(record: SearchRecord | None) -> tuple[TrialRow, ...]:
    """One row for each trial, in order, under ids that differ; none where there was no search."""
    if record is None:
        return ()
    return tuple(
        TrialRow(
            id=f"{index + 1}. {trial.id}",
            steps=tuple(describe_chain((step,)) for step in trial.chain),
            bytes=trial.size_bytes,
            stored_bytes=trial.stored_bytes,
            metric=None,
            drop=None if trial.model is None or trial.drop >= 1.0 else trial.drop,
            verdict=_verdict(trial, allowed_drop=record.allowed_drop),
            note=record.reason(trial),
        )
        for index, trial in enumerate(record.result.trials)
    )


def _verdict(trial: Trial, *, allowed_drop: float) -> str:
    if trial.model is None:
        return "failed"
    if trial.drop + trial.spread <= allowed_drop:
        return "met"
    return "unproven" if is_plausible(trial, allowed_drop=allowed_drop) else "missed"
