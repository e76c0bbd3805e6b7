"""Attribute inference: how much better a sensitive column is guessed with the model than without it, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audits.report.forest import ForestRow, forest
from audits.report.parts import Column, figure, note, say, section, span, table
from audits.report.read import Interval, interval, number, objects, text
from audits.report.view import PageView, SubjectView

TEST = "attribute.inference"


@dataclass(frozen=True)
class _Guessed:
    """The attack with the largest advantage on one column of one model; accuracies are on members."""

    subject: SubjectView
    column: str
    attack: str
    accuracy: float
    baseline: float
    baseline_name: str
    advantage: float
    interval: Interval
    p_adjusted: float


def attribute(view: PageView) -> str:
    """Advantages with intervals, and the accuracies that they are differences of; absent where no column was guessed."""
    found = [
        guessed
        for subject, told in view.details(TEST)
        for entry in objects(told.get("columns") or ())
        if (guessed := _guessed(subject, entry)) is not None
    ]
    if not found:
        return ""
    told = (
        "An attacker who knows a person's other values and the label guesses a sensitive one: with the model's help, and without "
        "it by the best of some plain methods fitted on people who did not train the model. The advantage is the difference in "
        "accuracy."
    )
    drawn = forest(
        "advantage over the baseline, accuracy",
        [
            ForestRow(f"{item.subject.id}, {item.column}", item.advantage, item.interval, comparison=item.subject.is_original)
            for item in found
        ],
    )
    return section("Attribute inference", note(told), figure(drawn), _table(found))


def _table(found: list[_Guessed]) -> str:
    rows = [
        [
            say(item.subject.id),
            say(item.column),
            say(item.attack),
            f"{item.accuracy:.1%}",
            f"{item.baseline:.1%} ({say(item.baseline_name)})",
            f"{item.advantage:+.4f}<br>{span(item.interval, '+.4f')}",
            f"{item.p_adjusted:.2g}",
        ]
        for item in found
    ]
    heads = [
        Column("Model"),
        Column("Column"),
        Column("Attack"),
        Column("Guessed with the model", numeric=True),
        Column("Without it", numeric=True),
        Column("Advantage and interval", numeric=True),
        Column("p, adjusted", numeric=True),
    ]
    return table("Attribute inference by column", heads, rows)


def _guessed(subject: SubjectView, entry: Mapping[str, Any]) -> _Guessed | None:
    attacks = objects(entry.get("attacks") or ())
    if not attacks:
        return None
    best = max(attacks, key=lambda attack: number(attack["advantage"]))
    return _Guessed(
        subject=subject,
        column=text(entry["name"]),
        attack=text(best["attack"]),
        accuracy=number(best["accuracy_members"]),
        baseline=number(entry["baseline_members"]),
        baseline_name=text(entry["baseline"]),
        advantage=number(best["advantage"]),
        interval=interval(best["interval"]),
        p_adjusted=number(best["p_adjusted"]),
    )
