"""The study of a search, in memory or in a file that survives ``kill -9``.

The file is optuna's journal: one line of JSON per event, appended. What a killed process left behind is put right when the
file is opened again: half a line at the end is cut off, and the trial that was running counts for nothing. Everything random
is drawn anew for each trial from the seed and the number of *finished* trials, so that a resumed search goes the way
an undisturbed one would have gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from device_client.errors import MissingExtraError, UsageError

logger = logging.getLogger(__name__)

OBJECTIVES = ("minimize", "minimize", "minimize")
"""Validation error, bytes, multiply-accumulates."""

MAX_JOURNAL_BYTES = 256 * 1024 * 1024
_POPULATION = 8  # small, because a search has tens of trials, not thousands


@contextmanager
def open_study(path: str, *, name: str) -> Iterator[Any]:
    """A study with three objectives; an existing one of this name in the file goes on.

    Args:
        path: the journal; created with its first event. Empty: nothing is kept.
        name: names everything that decides the search's course; studies of other names in the file are left alone.

    Raises:
        UsageError: the file is no journal (``nas_journal``).
        MissingExtraError: optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as e:
        raise MissingExtraError("train", missing=e.name or "optuna") from e
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # libraries do not print
    try:
        yield _study(optuna, path, name=name)
    finally:
        optuna.logging.set_verbosity(level)


def finished(study: Any) -> list[Any]:
    """Trials that were told, in order."""
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def reseed(study: Any, *, seed: int) -> None:
    """Gives the study the sampler of its next trial: NSGA-II (Deb et al. 2002)."""
    from optuna.samplers import NSGAIISampler

    drawn = np.random.SeedSequence([seed, len(finished(study))]).generate_state(1)[0]
    study.sampler = NSGAIISampler(population_size=_POPULATION, seed=int(drawn))


def ask(study: Any, first: Mapping[str, object] | None) -> Any:
    """The next trial; with the choices ``first`` where they are given, of which missing ones are drawn."""
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))  # of a process that was killed at this line
    if first is not None and not waiting:
        study.enqueue_trial(dict(first))
    return study.ask()


def _study(optuna: Any, path: str, *, name: str) -> Any:
    if not path:
        return optuna.create_study(study_name=name, directions=OBJECTIVES)
    _repair(Path(path))
    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
        study = optuna.create_study(storage=storage, study_name=name, directions=OBJECTIVES, load_if_exists=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(
            "the file to resume from cannot be used",
            code="nas_journal",
            where=path,
            expected="a journal of an earlier search, or no file yet",
            actual=" ".join(str(e).split())[:160],
            hint="remove it, or give another name as 'resume'",
        ) from e
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        logger.info("trial %d did not finish", trial.number)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _repair(path: Path) -> None:
    """Cuts off the line that a killed process could not finish."""
    if not path.exists():
        return
    if not path.is_file() or path.stat().st_size > MAX_JOURNAL_BYTES:
        raise UsageError(
            "the file to resume from cannot be used",
            code="nas_journal",
            where=str(path),
            expected=f"a file of at most {MAX_JOURNAL_BYTES} bytes",
            hint="remove it, or give another name as 'resume'",
        )
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
