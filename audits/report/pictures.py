"""What attacks drew, beside what it should not look like: class mean, hold-out, start, then each model's images by each way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from audits.data import Floats
from audits.report import words
from audits.report.charts import bars, lines
from audits.report.forms import Kind
from audits.report.images import SPREADS, WAYS, WHITE_BOX, ReportImages
from audits.report.overview import INSTANCE
from audits.report.parts import note, say, scroll, section
from audits.report.png import data_uri, pixels
from audits.report.read import numbers, objects
from audits.report.view import PageView

_MAX_CLASSES = 40
_MAX_CHANNELS = 6  # lines in one small plot


@dataclass(frozen=True)
class _Column:
    title: str
    images: Floats
    likeness: tuple[float, ...] = ()


def pictures(view: PageView, images: ReportImages) -> str:
    """One row for each class; absent where no image was stored."""
    shared = [_Column("class mean", images.class_means), _Column("hold-out", images.heldouts)]
    if images.start is not None:
        shared.append(_Column("start", images.start.repeat(len(images.class_means), axis=0)))
    groups = {subject.id: _own(subject.id, images, _likeness(view)) for subject in view.subjects}
    groups = {name: columns for name, columns in groups.items() if columns}
    shown = min(len(images.class_means), _MAX_CLASSES)
    everything = [("", column) for column in shared] + [(name, column) for name, columns in groups.items() for column in columns]
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{"".join(_cell(name, column, label, images, view) for name, column in everything)}</tr>'
        for label in range(shown)
    )
    grid = f'<table class="pictures"><thead>{_head(shared, groups)}</thead><tbody>{rows}</tbody></table>'
    return section(
        "Reconstructions", note(_explained(images, shown=shown, drawn=bool(groups))), scroll("Reconstructions by class", grid)
    )


def picture(values: Floats, images: ReportImages, *, low: float, high: float, label: str) -> str:
    """One entry of the stored arrays as its kind asks."""
    if images.kind is Kind.IMAGE:
        kind = "full" if images.private else "coarse"
        return f'<img class="{kind}" alt="{say(label)}" src="{data_uri(pixels(values, low=low, high=high))}">'
    if images.kind is Kind.SERIES:
        return lines([[float(v) for v in channel] for channel in values[:_MAX_CHANNELS]], low=low, high=high, label=label)
    return bars([float(value) for value in values], high=SPREADS, label=label)


def _own(name: str, images: ReportImages, likeness: Mapping[str, tuple[float, ...]]) -> list[_Column]:
    ways = [way for subject, way in images.reconstructions if subject == name]
    ordered = sorted(ways, key=lambda way: (WAYS.index(way) if way in WAYS else len(WAYS), way))
    return [
        _Column(words.way(way), images.reconstructions[name, way], likeness.get(name, ()) if way == WHITE_BOX else ())
        for way in ordered
    ]


def _likeness(view: PageView) -> dict[str, tuple[float, ...]]:
    """By subject: likeness to the class average of the attack whose images are most like it."""
    found = {}
    for subject, told in view.details(INSTANCE):
        entries = [numbers(entry["class_likeness"]) for entry in objects(told.get("attacks", []))]
        found[subject.id] = max(entries, key=lambda values: sum(values) / max(1, len(values)), default=())
    return found


def _head(shared: list[_Column], groups: Mapping[str, list[_Column]]) -> str:
    tops = "".join(f'<th scope="colgroup" colspan="{len(columns)}">{say(name)}</th>' for name, columns in groups.items())
    below = "".join(
        f'<th scope="col">{say(column.title)}</th>'
        for columns in ([shared], groups.values())
        for part in columns
        for column in part
    )
    return f'<tr><th scope="col" rowspan="2">Class</th><td colspan="{len(shared)}"></td>{tops}</tr><tr>{below}</tr>'


def _cell(name: str, column: _Column, label: int, images: ReportImages, view: PageView) -> str:
    who = ", ".join(part for part in (f"class {label}", name, column.title, "" if images.private else "blurred") if part)
    drawn = picture(column.images[label], images, low=view.data.low, high=view.data.high, label=who)
    like = f'<span class="sub">{column.likeness[label]:.2f}</span>' if label < len(column.likeness) else ""
    return f"<td>{drawn}{like}</td>"


def _explained(images: ReportImages, *, shown: int, drawn: bool) -> str:
    how = {
        Kind.IMAGE: "averages over a coarse grid",
        Kind.SERIES: "averages over a dozen stretches",
        Kind.TABLE: "averages over a dozen groups of columns",
    }[images.kind]
    parts = ["These are private pictures: handle this file like the records." if images.private else f"These are blurred: {how}."]
    if images.kind is Kind.TABLE:
        parts.append("Bars are a record's values in spreads of their column, up or down from the mean of all classes.")
    if images.kind is Kind.SERIES and images.class_means.shape[1] > _MAX_CHANNELS:
        parts.append(f"The first {_MAX_CHANNELS} of {images.class_means.shape[1]} channels.")
    if drawn:
        parts.append(
            "The number under an image is its likeness to the class average, which a classifier is made to know: shown, and "
            "not judged."
        )
    else:
        parts.append("No attack made an image; see the reasons above.")
    if shown < len(images.class_means):
        parts.append(f"The first {shown} of {len(images.class_means)} classes.")
    return " ".join(parts)
