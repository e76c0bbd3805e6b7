"""The instance gap: what the models' gradients draw, against the null distribution of relabelled memberships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audits.report.charts import null_histogram
from audits.report.forest import ForestRow, forest
from audits.report.overview import INSTANCE
from audits.report.parts import Column, figure, note, say, section, table
from audits.report.read import Interval, count, interval, mapping, number, objects, optional, sequence, text
from audits.report.view import PageView, SubjectView

_STRONGEST = 3
_MAX_BINS = 1000


@dataclass(frozen=True)
class _Null:
    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Test:
    """One attack and statistic on one model."""

    attack: str
    statistic: str
    estimate: float
    threshold: float | None
    p_value: float
    interval: Interval | None
    null: _Null


def instance(view: PageView) -> str:
    """Gaps of all models, the strongest test against its null distribution, the three strongest tests of each model."""
    found = [(subject, _tests(told)) for subject, told in view.details(INSTANCE)]
    if not found:
        return ""
    judged = [(subject, tests) for subject, tests in found if tests]
    if not judged:
        return section("Leak of training records", note("No statistic could be computed; see the reasons above."))
    told = (
        "How much closer images drawn by a model's gradients are to its training records than to held-out records of the same "
        f"class, in correlation. Lines are {view.policy.confidence:.0%} intervals; the upright tick is the threshold that "
        f"relabelled memberships give at a false alarm rate of {view.policy.alpha:g} for the whole run. Hollow: the original."
    )
    gaps = forest("mean gap, correlation", _rows(judged))
    return section(
        "Leak of training records",
        note(told),
        figure(gaps, "The mean gap of each model's strongest attack."),
        _strongest(judged),
        _table(judged),
    )


def _rows(judged: list[tuple[SubjectView, tuple[_Test, ...]]]) -> list[ForestRow]:
    rows = []
    for subject, tests in judged:
        means = [test for test in tests if test.statistic == "mean"] or list(tests)
        test = min(means, key=lambda item: item.p_value)
        rows.append(ForestRow(subject.id, test.estimate, test.interval, test.threshold, comparison=subject.is_original))
    return rows


def _strongest(judged: list[tuple[SubjectView, tuple[_Test, ...]]]) -> str:
    """The variants' smallest p-value; the original's where no variant has one."""
    candidates = [pair for pair in judged if not pair[0].is_original] or judged
    subject, test = min(((subject, test) for subject, tests in candidates for test in tests), key=lambda pair: pair[1].p_value)
    picture = null_histogram(
        test.null.counts, low=test.null.low, high=test.null.high, observed=test.estimate, threshold=test.threshold
    )
    caption = f'{subject.id}: statistic "{test.statistic}" of the attack "{test.attack}" among relabelled memberships.'
    return figure(picture, caption)


def _table(judged: list[tuple[SubjectView, tuple[_Test, ...]]]) -> str:
    rows = [
        [
            say(subject.id),
            say(test.attack),
            say(test.statistic),
            f"{test.estimate:.4f}",
            "none" if test.threshold is None else f"{test.threshold:.4f}",
            f"{test.p_value:.2g}",
        ]
        for subject, tests in judged
        for test in sorted(tests, key=lambda item: item.p_value)[:_STRONGEST]
    ]
    heads = [
        Column("Model"),
        Column("Attack"),
        Column(f"Statistic, the {_STRONGEST} strongest"),
        Column("Observed", numeric=True),
        Column("Threshold", numeric=True),
        Column("p", numeric=True),
    ]
    return table("Strongest tests of each model", heads, rows)


def _tests(told: Mapping[str, Any]) -> tuple[_Test, ...]:
    return tuple(_test(entry) for entry in objects(told.get("tests", [])))


def _test(entry: Mapping[str, Any]) -> _Test:
    null = mapping(entry["null"])
    return _Test(
        attack=text(entry["attack"]),
        statistic=text(entry["statistic"]),
        estimate=number(entry["estimate"]),
        threshold=optional(number, entry["threshold"]),
        p_value=number(entry["p_value"]),
        interval=optional(interval, entry.get("interval")),
        null=_Null(
            number(null["low"]), number(null["high"]), tuple(count(item) for item in sequence(null["counts"], most=_MAX_BINS))
        ),
    )
