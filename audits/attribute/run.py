"""The family ``attribute``: one test, ``attribute.inference``, for models of tables.

    result = run_attribute(bench, settings)

1. draw records; 2. for each sensitive column the best baseline without the model; 3. for each model and column three
attackers with it; 4. exact p-values on members, Holm over models, columns and attacks; 5. controls by the same rule: shuffled
columns and an empty table stay quiet, a table of members is caught.

What the test does not show: whether an advantage is over training records or over anybody who has such columns. The
difference between members and held-outs beside it says that, and does not decide: a release gives the model to the
attacker in both cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audits.attribute.attack import Baseline, Known, attack_guesses, best_baseline, known_to_all
from audits.attribute.columns import Column, discretise, find_columns
from audits.attribute.judge import Advantage, advantage, compare_sides
from audits.attribute.planted import planted_twin
from audits.attribute.queries import Doubles, label_likelihoods
from audits.attribute.reference import art_black_box
from audits.attribute.settings import AttributeSettings
from audits.data import AuditData, Integers
from audits.family import Bench
from audits.finding import Control, FamilyResult, Finding
from audits.statistics import holm
from audits.targets import Subject
from device_client.errors import FormatError, UsageError
from device_client.inference.walker import CheckedModel, check_model

FAMILY = "attribute"
TEST = "attribute.inference"
_STATISTIC = "advantage_over_baseline"
_UNIT = "share of members whose value a planted table gives away"


def run_attribute(bench: Bench, settings: AttributeSettings) -> FamilyResult:
    """Attacks every sensitive column of every model.

    Raises:
        UsageError: the policy names a column that is not there (``attribute_column``).
    """
    reason = _obstacle(bench.data, settings)
    if reason is not None:
        return _not_run(bench, reason)
    names = find_columns(settings, width=bench.data.x.shape[1])
    data = _draw(bench.data, settings, seed=bench.policy.seed)
    if min(int(data.member.sum()), int((~data.member).sum())) < settings.min_records:
        return _not_run(bench, f"fewer than {settings.min_records} members or held-outs")
    made = [discretise(data.x, index, name, settings=settings) for index, name in names]
    skipped = tuple(item for item in made if isinstance(item, str))
    columns = [item for item in made if isinstance(item, Column)]
    if not columns:
        return _not_run(bench, "; ".join(skipped))
    table = _Table(data, settings, bench)
    tasks = [table.task(column) for column in columns]
    attacked = {subject.id: _attack_subject(subject, tasks, table) for subject in bench.subjects}
    adjusted = _adjust(attacked)
    controls, power = _run_controls(bench, tasks, attacked, table)
    findings = {name: (_finding(item, adjusted[name], settings, skipped),) for name, item in attacked.items()}
    detail = {name: _detail(item, adjusted[name], tasks, table) for name, item in attacked.items()}
    if settings.reference:
        for subject in bench.subjects:
            if not attacked[subject.id].blind:
                bench.report(f"ART's attribute inference on {subject.id}")
                for task, entry in zip(tasks, detail[subject.id]["columns"], strict=True):
                    entry["reference"] = art_black_box(subject.model, data, task.column, seed=bench.policy.seed)
    shared = {
        "members": int(data.member.sum()),
        "heldouts": int((~data.member).sum()),
        "columns": [_describe(task) for task in tasks],
        "skipped": list(skipped),
        "knows": "all other columns and the label; the model's answers to every value; not its output on the real record",
    }
    return FamilyResult(FAMILY, findings, controls, power, _UNIT, detail, shared)


@dataclass(frozen=True)
class _Task:
    """One column with its baseline."""

    column: Column
    known: Known
    baseline: Baseline


@dataclass(frozen=True)
class _Result:
    """One attack on one column of one model."""

    column: Column
    attack: str
    right_members: float
    right_heldouts: float
    members: Advantage
    heldouts: Advantage


@dataclass(frozen=True)
class _Attacked:
    """One model: its results, and its answers per column for the controls; or why it could not be asked."""

    results: tuple[_Result, ...] = ()
    answers: tuple[Doubles, ...] = ()
    blind: str | None = None

    @property
    def p_value(self) -> float:
        """Of the model: the smallest of its tests, times their number."""
        return min(1.0, min((item.members.p_value for item in self.results), default=1.0) * max(1, len(self.results)))


class _Table:
    """What all attacks of a run share."""

    def __init__(self, data: AuditData, settings: AttributeSettings, bench: Bench) -> None:
        self.data, self.settings = data, settings
        self.seed, self.decision = bench.policy.seed, bench.policy.decision
        self.report = bench.report

    def task(self, column: Column) -> _Task:
        """The column with the best guess that needs no model."""
        self.report(f"guessing column {column.name} without the model")
        data = self.data
        known = known_to_all(
            data.x, data.y, data.member, column=column.index, values=len(column.values), folds=self.settings.folds, seed=self.seed
        )
        return _Task(column, known, best_baseline(known, column.codes, seed=self.seed))

    def judge(self, task: _Task, answers: Doubles) -> list[_Result]:
        """All attacks with one model's answers."""
        codes, member = task.column.codes, self.data.member
        guesses = attack_guesses(task.known, codes, answers, task.baseline, seed=self.seed)
        without = task.baseline.guesses == codes
        results = []
        for name, guess in guesses.items():
            right = guess == codes
            sides = [
                advantage(
                    right[side],
                    without[side],
                    tolerated=self.settings.tolerated,
                    confidence=self.decision.confidence,
                    bootstraps=self.decision.bootstraps,
                    seed=self.seed,
                )
                for side in (member, ~member)
            ]
            results.append(_Result(task.column, name, float(right[member].mean()), float(right[~member].mean()), *sides))
        return results


def _attack_subject(subject: Subject, tasks: Sequence[_Task], table: _Table) -> _Attacked:
    table.report(f"guessing with {subject.id}")
    try:
        answers = tuple(label_likelihoods(subject.model, table.data.x, table.data.y, task.column) for task in tasks)
    except FormatError as e:
        return _Attacked(blind=f"{e.what} ({e.actual})" if e.actual else e.what)
    except UsageError as e:
        if e.code != "input_mismatch":
            raise
        return _Attacked(blind=f"the records do not fit the model: {e.what}")
    results = [item for task, answer in zip(tasks, answers, strict=True) for item in table.judge(task, answer)]
    return _Attacked(tuple(results), answers)


def _adjust(attacked: Mapping[str, _Attacked]) -> dict[str, list[float]]:
    """Holm over every test of the run, by subject in the order of its results."""
    every = holm([result.members.p_value for item in attacked.values() for result in item.results])
    adjusted, start = {}, 0
    for name, item in attacked.items():
        adjusted[name] = every[start : start + len(item.results)]
        start += len(item.results)
    return adjusted


def _finding(item: _Attacked, adjusted: Sequence[float], settings: AttributeSettings, skipped: tuple[str, ...]) -> Finding:
    tolerated = settings.tolerated or None
    if item.blind is not None:
        return Finding(TEST, 1.0, 1.0, _STATISTIC, tolerated=tolerated, blind=(item.blind,))
    strongest = min(item.results, key=lambda result: (result.members.p_value, -result.members.estimate))
    return Finding(
        TEST,
        p_value=item.p_value,
        p_adjusted=min(adjusted),
        statistic=_STATISTIC,
        estimate=strongest.members.estimate,
        interval=strongest.members.interval,
        tolerated=tolerated,
        undone=skipped,
    )


def _run_controls(
    bench: Bench, tasks: Sequence[_Task], attacked: Mapping[str, _Attacked], table: _Table
) -> tuple[tuple[Control, ...], float | None]:
    """Planted tables by strength on the first column, then everything that must stay quiet."""
    alpha = table.decision.alpha
    planted = [_planted(bench.original.model, tasks[0], table, share=share) for share in (0.0, *table.settings.planted_shares)]
    nulls = {"empty table": planted[0].p_value, **_shuffled(tasks, attacked, table)}
    controls: list[Control] = []
    power: float | None = None
    for share, item in reversed(list(zip(table.settings.planted_shares, planted[1:], strict=True))):
        if item.p_value > alpha:
            break
        power = share
    for share, item in zip(table.settings.planted_shares, planted[1:], strict=True):
        caught = item.p_value <= alpha
        told = f"a table of {share:.0%} of the members was {'caught' if caught else 'not caught'} (p = {item.p_value:.2g})"
        controls.append(Control(f"planted:{share:g}", True, caught, share >= table.settings.planted_required, share, told))
    for name, p_value in nulls.items():
        quiet = p_value > alpha / len(nulls)  # together they may raise a false alarm in a share alpha of the runs
        told = f"the null control {name} {'was quiet' if quiet else 'raised an alarm'} (p = {p_value:.2g})"
        controls.append(Control(f"null:{name}", False, quiet, True, None, told))
    return tuple(controls), power


def _planted(original: CheckedModel, task: _Task, table: _Table, *, share: float) -> _Attacked:
    table.report(f"planted table of {share:.0%} of the members")
    data = table.data
    names = (original.inputs[0].name, original.outputs[0].name)
    classes = max(2, data.classes)
    twin = planted_twin(data.x, data.y, data.member, task.column, share=share, classes=classes, seed=table.seed, names=names)
    answers = label_likelihoods(check_model(twin, where=f"planted:{share:g}"), data.x, data.y, task.column)
    return _Attacked(tuple(table.judge(task, answers)))


def _shuffled(tasks: Sequence[_Task], attacked: Mapping[str, _Attacked], table: _Table) -> dict[str, float]:
    """P-values with each column's truth in random order over members and held-outs: no answer of the model can know it."""
    found = {}
    for number, task in enumerate(tasks):
        for turn in range(table.settings.shuffles):
            order = np.random.default_rng([table.seed, 25, number, turn]).permutation(len(task.column.codes))
            other = _with_codes(task, task.column.codes[order], table)
            for name, item in attacked.items():
                if item.blind is None:
                    table.report(f"shuffled column {task.column.name} on {name}")
                    p_value = _Attacked(tuple(table.judge(other, item.answers[number]))).p_value
                    found[f"shuffled {task.column.name}, {name}, {turn}"] = p_value
    return found


def _with_codes(task: _Task, codes: Integers, table: _Table) -> _Task:
    column = Column(task.column.index, task.column.name, task.column.values, codes, task.column.binned)
    return _Task(column, task.known, best_baseline(task.known, codes, seed=table.seed))


def _detail(item: _Attacked, adjusted: Sequence[float], tasks: Sequence[_Task], table: _Table) -> dict[str, Any]:
    if item.blind is not None:
        return {"columns": [], "blind": item.blind}
    member = table.data.member
    sizes = (int(member.sum()), int((~member).sum()))
    entries = []
    for task in tasks:
        attacks = []
        for result, value in zip(item.results, adjusted, strict=True):
            if result.column.index != task.column.index:
                continue
            sides = compare_sides(
                result.members,
                result.heldouts,
                sizes=sizes,
                resamples=table.decision.bootstraps,
                confidence=table.decision.confidence,
                seed=table.seed,
            )
            attacks.append(
                {
                    "attack": result.attack,
                    "accuracy_members": result.right_members,
                    "accuracy_heldouts": result.right_heldouts,
                    "advantage": result.members.estimate,
                    "interval": list(result.members.interval),
                    "gained": result.members.gained,
                    "lost": result.members.lost,
                    "p_value": result.members.p_value,
                    "p_adjusted": value,
                    "advantage_heldouts": result.heldouts.estimate,
                    "difference": sides.estimate,
                    "difference_interval": list(sides.interval),
                    "difference_p_value": sides.p_value,
                }
            )
        entries.append({**_describe(task), "attacks": attacks, **_baseline_accuracy(task, table)})
    return {"columns": entries}


def _baseline_accuracy(task: _Task, table: _Table) -> dict[str, float]:
    right, member = task.baseline.guesses == task.column.codes, table.data.member
    return {"baseline_members": float(right[member].mean()), "baseline_heldouts": float(right[~member].mean())}


def _describe(task: _Task) -> dict[str, Any]:
    column = task.column
    return {
        "name": column.name,
        "index": column.index,
        "values": len(column.values),
        "binned": column.binned,
        "baseline": task.baseline.name,
    }


def _obstacle(data: AuditData, settings: AttributeSettings) -> str | None:
    if not settings.sensitive:
        return "the policy names no sensitive column"
    if data.x.ndim != 2:
        return f"not a table: records have the shape {tuple(int(size) for size in data.x.shape[1:])}"
    if data.x.shape[1] < 2:
        return "the table has one column"
    if data.member.all() or not data.member.any():
        return "there are no members or no held-outs"
    return None


def _draw(data: AuditData, settings: AttributeSettings, *, seed: int) -> AuditData:
    """At most ``max_records`` of each side, in their order."""
    rng = np.random.default_rng([seed, 20])
    picked = [rng.permutation(np.flatnonzero(side))[: settings.max_records] for side in (data.member, ~data.member)]
    rows = np.sort(np.concatenate(picked))
    return AuditData(data.x[rows], data.y[rows], data.member[rows], data.digest)


def _not_run(bench: Bench, reason: str) -> FamilyResult:
    finding = Finding(TEST, 1.0, 1.0, _STATISTIC, not_run=reason)
    ids = [subject.id for subject in bench.subjects]
    return FamilyResult(FAMILY, dict.fromkeys(ids, (finding,)), (), None, _UNIT, {name: {} for name in ids}, {"not_run": reason})
