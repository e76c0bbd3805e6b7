"""Inversion by queries, identity retrieval and swap-split: counts of classes against chance, queries spent, gaps by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audits.report.forest import ForestRow, forest
from audits.report.parts import Column, figure, heading, note, say, section, span, table
from audits.report.read import Interval, count, interval, mapping, number, numbers, optional
from audits.report.view import PageView, SubjectView

IDENTITY, BLACK_BOX, LABEL_ONLY, SWAP_SPLIT = (
    "inversion.identity",
    "inversion.black_box",
    "inversion.label_only",
    "inversion.swap_split",
)
TESTS = (IDENTITY, BLACK_BOX, LABEL_ONLY, SWAP_SPLIT)


@dataclass(frozen=True)
class Retrieved:
    """How many classes images led to."""

    subject: SubjectView
    retrieved: int
    classes: int
    interval: Interval | None
    chance: float | None
    queries: float | None
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class SwapSplit:
    """Likeness of images to the half that trained a model minus to the other half, and the difference from the original's."""

    subject: SubjectView
    gap: float
    interval: Interval | None
    delta: float | None
    delta_interval: Interval | None


def retrieval(view: PageView) -> str:
    """Each test of the family that told something; absent where none did."""
    split = swap_splits(view)
    parts = [
        _identity(_retrieved(view, IDENTITY)),
        _by_queries("By queries for scores", _retrieved(view, BLACK_BOX)),
        _by_queries("By queries for the predicted class alone", _retrieved(view, LABEL_ONLY)),
        _split(split),
    ]
    return section("Identity and queries", *parts)


def swap_splits(view: PageView) -> list[SwapSplit]:
    """Of every model that has one; the deltas go into the forest of differences too."""
    return [
        SwapSplit(
            subject,
            number(told["gap"]),
            optional(interval, told.get("interval")),
            optional(number, told.get("delta")),
            optional(interval, told.get("delta_interval")),
        )
        for subject, told in _told(view, SWAP_SPLIT)
    ]


def _identity(found: list[Retrieved]) -> str:
    if not found:
        return ""
    text = (
        "How many classes a reconstruction leads to, compared with averages of records that the model has never seen. That a "
        "classifier gives away what its classes look like is its task; it is a leak where one person is one class."
    )
    rows = [
        [
            say(item.subject.id),
            f"{item.retrieved} of {item.classes}",
            span(item.interval, ".1%"),
            "" if item.chance is None else f"{item.chance:.1%}",
        ]
        for item in found
    ]
    heads = [
        Column("Model"),
        Column("Classes retrieved", numeric=True),
        Column("Interval", numeric=True),
        Column("By chance", numeric=True),
    ]
    return heading("Identity") + note(text) + table("Identity retrieval", heads, rows)


def _by_queries(title: str, found: list[Retrieved]) -> str:
    if not found:
        return ""
    rows = [
        [
            say(item.subject.id),
            f"{item.retrieved} of {item.classes}",
            "" if item.queries is None else f"{item.queries:,.0f}",
            "" if not item.confidence else f"{min(item.confidence):.2f} / {sum(item.confidence) / len(item.confidence):.2f}",
        ]
        for item in found
    ]
    heads = [
        Column("Model"),
        Column("Classes retrieved", numeric=True),
        Column("Queries per class", numeric=True),
        Column("Confidence reached, least / mean", numeric=True),
    ]
    return heading(title) + table(title, heads, rows)


def _split(found: list[SwapSplit]) -> str:
    if not found:
        return ""
    rows = [ForestRow(item.subject.id, item.gap, item.interval, comparison=item.subject.is_original) for item in found]
    caption = (
        "Two models, each trained on one half of every class: likeness of an image to its model's own half minus to the other "
        "half. Zero: the model shows its classes and not its records."
    )
    return heading("Swap-split") + figure(forest("swap-split gap, correlation", rows), caption)


def _retrieved(view: PageView, test: str) -> list[Retrieved]:
    return [
        Retrieved(
            subject,
            count(told["retrieved"]),
            count(told["classes"]),
            optional(interval, told.get("interval")),
            optional(number, told.get("chance")),
            optional(number, told.get("queries_per_class")),
            numbers(told.get("confidence") or ()),
        )
        for subject, told in _told(view, test)
        if told.get("retrieved") is not None
    ]


def _told(view: PageView, test: str) -> list[tuple[SubjectView, Mapping[str, Any]]]:
    """The part of each model's detail that is about one test, under its full or its short name."""
    short = test.partition(".")[2]
    parts = [(subject, told.get(test, told.get(short))) for subject, told in view.details(test)]
    return [(subject, mapping(part)) for subject, part in parts if part]
