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
    """How many classes a model's images led to, by the attack that found most."""

    subject: SubjectView
    retrieved: int
    classes: int
    interval: Interval | None
    chance: float | None


@dataclass(frozen=True)
class ByQueries:
    """Images from answers alone: what they cost, how far they came, how much they leak of single records.

    Attributes:
        queries: per class, mean.
        confidence: that the model gives each class's image.
        gap, interval: likeness to training records minus to held-outs.
        delta, delta_interval: the same minus the original's.
    """

    subject: SubjectView
    queries: float
    confidence: tuple[float, ...]
    retrieved: int | None
    classes: int
    gap: float | None
    interval: Interval | None
    delta: float | None
    delta_interval: Interval | None


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
    parts = [
        _identity(_retrieved(view)),
        _queries("By queries for scores", by_queries(view, BLACK_BOX)),
        _queries("By queries for the predicted class alone", by_queries(view, LABEL_ONLY)),
        _split(swap_splits(view)),
        _masking(view),
    ]
    return section("Identity and queries", *parts)


def by_queries(view: PageView, test: str) -> list[ByQueries]:
    """Of every model that was attacked so."""
    return [
        ByQueries(
            subject,
            queries=number(told["queries_per_class"]),
            confidence=numbers(told.get("confidence") or ()),
            retrieved=optional(count, told.get("retrieved")),
            classes=count(told["classes"]),
            gap=optional(number, told.get("gap")),
            interval=optional(interval, told.get("interval")),
            delta=optional(number, told.get("delta")),
            delta_interval=optional(interval, told.get("delta_interval")),
        )
        for subject, told in _told(view, test)
    ]


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


def _queries(title: str, found: list[ByQueries]) -> str:
    if not found:
        return ""
    rows = [
        [
            say(item.subject.id),
            f"{item.queries:,.0f}",
            "" if not item.confidence else f"{min(item.confidence):.2f} / {sum(item.confidence) / len(item.confidence):.2f}",
            "" if item.retrieved is None else f"{item.retrieved} of {item.classes}",
            "" if item.gap is None else f"{item.gap:.4f}<br>{span(item.interval)}",
        ]
        for item in found
    ]
    heads = [
        Column("Model"),
        Column("Queries per class", numeric=True),
        Column("Confidence reached, least / mean", numeric=True),
        Column("Classes retrieved", numeric=True),
        Column("Gap to held-outs, interval", numeric=True),
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


def _masking(view: PageView) -> str:
    """What the output itself, the tapped scores and the original's images reach: far apart, the gradient is masked."""
    entries = [(subject, mapping(told["masking"])) for subject, told in view.details(*TESTS) if told.get("masking")]
    if not entries:
        return ""
    text = (
        "Mean confidence that each way reaches on the model. Where the output alone, or the model's own images, stay far below the "
        "original's images, the model hides its gradient and not its records; the strongest of the three counts."
    )
    rows = [
        [say(subject.id), *(_share(optional(number, told.get(key))) for key in ("naive", "own", "transfer"))]
        for subject, told in entries
    ]
    heads = [
        Column("Model"),
        Column("By its output", numeric=True),
        Column("By its tapped scores", numeric=True),
        Column("By the original's images", numeric=True),
    ]
    return heading("Is the gradient masked?") + note(text) + table("Gradient masking", heads, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _retrieved(view: PageView) -> list[Retrieved]:
    return [
        Retrieved(
            subject,
            count(told["retrieved"]),
            count(told["classes"]),
            optional(interval, told.get("interval")),
            optional(number, told.get("chance")),
        )
        for subject, told in _told(view, IDENTITY)
    ]


def _told(view: PageView, test: str) -> list[tuple[SubjectView, Mapping[str, Any]]]:
    """The part of each model's detail that is about one test, under its full or its short name."""
    short = test.partition(".")[2]
    parts = [(subject, told.get(test, told.get(short))) for subject, told in view.details(test)]
    return [(subject, mapping(part)) for subject, part in parts if part]
