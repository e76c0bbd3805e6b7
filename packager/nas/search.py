"""The search: asks for architectures, trains them, keeps the Pareto front of error, bytes and multiply-accumulates.

    while fewer than ``trials`` were trained:  ask -> over a limit? -> known? -> train -> tell

A trial that cannot win is given up early: when one that finished is smaller, needs fewer multiplications and was clearly
better after as many epochs. Architectures over a limit cost no training and do not count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from device_client.errors import UsageError
from packager.nas.config import FAMILIES, Nas
from packager.nas.cost import Cost, module_cost
from packager.nas.journal import ask, finished, reseed
from packager.nas.space import START, Choice, architecture, choices
from packager.nas.trainer import Lessons, build, train
from packager.training_plan import TrainingPlan

logger = logging.getLogger(__name__)

HOPELESS = 0.05
"""Given up if a cheaper trial was better by this much, after half of the epochs or more."""

MAX_LISTED = 200
_ASKS_PER_TRIAL = 20


@dataclass(frozen=True)
class Limits:
    """What a network may cost at most."""

    int8_bytes: int
    fp32_bytes: int
    macs: int

    def broken_by(self, cost: Cost) -> str | None:
        """The first limit that is exceeded."""
        for name in ("int8_bytes", "fp32_bytes", "macs"):
            if getattr(cost, name) > getattr(self, name):
                return name
        return None


@dataclass(frozen=True)
class Found:
    """One trained network. ``metric``: after the short training of a trial; ``chosen``: its choices, family included."""

    chosen: tuple[tuple[str, Choice], ...]
    metric: float
    int8_bytes: int
    macs: int

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            **dict(self.chosen),
            "validation": round(self.metric, 6),
            "int8_bytes_modelled": self.int8_bytes,
            "macs": self.macs,
        }


def search(
    study: Any,
    config: Nas,
    lessons: Lessons,
    plan: TrainingPlan,
    limits: Limits,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Found]:
    """Runs the study until it has ``config.trials`` trained networks; returns the Pareto front, cheapest first.

    Args:
        study: from ``open_study``; what it holds already counts.
        config: how to search.
        lessons: what networks learn.
        plan: of one trial.
        limits: what they may cost.
        progress: called with the number of trained networks.

    Raises:
        UsageError: ``nas_nothing``: no network within the limits was trained to the end.
    """
    families = FAMILIES if config.family == "all" else (config.family,)
    starts = [{"family": name, **{f"{name}.{key}": value for key, value in START[name].items()}} for name in families]
    for _ in range(_ASKS_PER_TRIAL * config.trials):
        done = finished(study)
        trained = sum("curve" in trial.user_attrs for trial in done)
        if progress is not None:
            progress(trained)
        if trained >= config.trials:
            break
        reseed(study, seed=lessons.seed)
        trial = ask(study, starts[len(done)] if len(done) < len(starts) else None)
        _run(study, trial, families, lessons, plan, limits)
    front = _front(study)
    if not front:
        raise UsageError(
            "the search found no network within the limits",
            code="nas_nothing",
            where="technique nas",
            expected=f"at most {limits.int8_bytes} bytes in INT8 form, {limits.fp32_bytes} in FP32, {limits.macs} multiplications",
            actual=f"{len(finished(study))} tried",
            hint="raise max_bytes or trials, or leave the technique out: the model is small already",
        )
    return front


def tried(study: Any) -> list[dict[str, object]]:
    """Every trial in order, at most ``MAX_LISTED``: what it was, what it reached, or why it was not trained to the end."""
    from optuna.trial import TrialState

    found: list[dict[str, object]] = []
    for trial in finished(study)[:MAX_LISTED]:
        size, macs = trial.user_attrs.get("cost", (None, None))
        curve = trial.user_attrs.get("curve", [])
        outcome = f"refused: {trial.user_attrs['refused']}" if "refused" in trial.user_attrs else "known already"
        reached = curve[-1] if curve else None
        if trial.state == TrialState.COMPLETE:
            reached = 1.0 - trial.values[0]  # of the best epoch
        if curve:
            outcome = "trained" if trial.state == TrialState.COMPLETE else "given up"
        last = None if reached is None else round(reached, 6)
        family = trial.params["family"]
        found.append({"family": family, "outcome": outcome, "validation": last, "int8_bytes_modelled": size, "macs": macs})
    return found


def choose(front: list[Found], *, least: float) -> Found:
    """The cheapest network (bytes times multiplications) with at least this metric; else the best one."""
    good = [found for found in front if found.metric >= least]
    if good:
        return min(good, key=lambda found: (found.int8_bytes * found.macs, found.chosen))
    return max(front, key=lambda found: (found.metric, -found.int8_bytes, found.chosen))


def _run(study: Any, trial: Any, families: tuple[str, ...], lessons: Lessons, plan: TrainingPlan, limits: Limits) -> None:
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    family, chosen = _choose(trial, families)
    twin = next((other for other in finished(study) if other.params == trial.params), None)
    if twin is not None:  # what it would give is known
        study.tell(trial, twin.values, state=twin.state)
        return
    plan_of_network = architecture(family, chosen)
    # More halvings than the longest axis has: later layers would see one position, and mostly padding.
    refused: str | None = "input_size" if plan_of_network.reduction > max(lessons.signature.spatial) else None
    if refused is None:
        network = build(plan_of_network, lessons)
        cost = module_cost(network, lessons.signature.input_shape)
        trial.set_user_attr("cost", [cost.int8_bytes, cost.macs])
        refused = limits.broken_by(cost)
    if refused is not None:
        trial.set_user_attr("refused", refused)
        study.tell(trial, state=TrialState.PRUNED)
        return
    curve: list[float] = []

    def after_epoch(epoch: int, metric: float) -> None:
        curve.append(metric)
        if 2 * epoch >= plan.epochs and _is_hopeless(study, cost, epoch, metric):
            raise TrialPruned

    try:
        metric = train(network, lessons, plan, after_epoch=after_epoch)
    except TrialPruned:
        trial.set_user_attr("curve", curve)
        study.tell(trial, state=TrialState.PRUNED)
        return
    trial.set_user_attr("curve", curve)
    study.tell(trial, (1.0 - metric, cost.int8_bytes, cost.macs))
    logger.info("trial %d: %s, %.4f, %d bytes, %d macs", trial.number, family, metric, cost.int8_bytes, cost.macs)


def _choose(trial: Any, families: tuple[str, ...]) -> tuple[str, dict[str, Choice]]:
    family = str(trial.suggest_categorical("family", list(families)))
    return family, {name: trial.suggest_categorical(f"{family}.{name}", list(values)) for name, values in choices(family).items()}


def _is_hopeless(study: Any, cost: Cost, epoch: int, metric: float) -> bool:
    from optuna.trial import TrialState

    for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        curve, (size, macs) = other.user_attrs.get("curve", []), other.user_attrs.get("cost", (0, 0))
        cheaper = size <= cost.int8_bytes and macs <= cost.macs
        if cheaper and len(curve) >= epoch and curve[epoch - 1] > metric + HOPELESS:
            return True
    return False


def _front(study: Any) -> list[Found]:
    """Networks that no other one beats in all of error, bytes and multiplications."""
    from optuna.trial import TrialState

    found = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        error, size, macs = trial.values
        family = trial.params["family"]
        chosen = tuple(sorted((name.removeprefix(f"{family}."), value) for name, value in trial.params.items()))
        found[chosen] = Found(chosen, 1.0 - error, int(size), int(macs))
    everyone = list(found.values())
    front = [item for item in everyone if not any(_beats(other, item) for other in everyone)]
    return sorted(front, key=lambda item: (item.int8_bytes, item.macs, item.chosen))


def _beats(one: Found, other: Found) -> bool:
    at_least = one.metric >= other.metric and one.int8_bytes <= other.int8_bytes and one.macs <= other.macs
    return at_least and (one.metric, one.int8_bytes, one.macs) != (other.metric, other.int8_bytes, other.macs)
