"""The page's small parts: escaped text, sections, tables, figures. Everything that goes into a part is HTML or was escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from device_client.text import printable

_VERDICTS = frozenset({"PASSED", "WARNED", "FAILED", "INCONCLUSIVE", "WAIVED"})


@dataclass(frozen=True)
class Column:
    """Heading of a column; ``numeric`` ones are set to the right, ``wide`` ones hold sentences."""

    title: str
    numeric: bool = False
    wide: bool = False


def say(value: object) -> str:
    """Text from anywhere as HTML: markup escaped, invisible and direction-changing characters written out."""
    return escape(printable(str(value)))


def anchor(title: str) -> str:
    """The id of the section with this title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def section(title: str, *content: str) -> str:
    """A section with its heading; empty where there is no content, so that what did not run is not on the page."""
    if not any(content):
        return ""
    name = anchor(title)
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{say(title)}</h2>{"".join(content)}</section>'


def heading(title: str) -> str:
    """A heading inside a section."""
    return f"<h3>{say(title)}</h3>"


def note(text: str) -> str:
    """A paragraph of explanation."""
    return f'<p class="note">{say(text)}</p>'


def items(texts: Iterable[str], *, kind: str = "") -> str:
    """A list of plain texts."""
    name = f' class="{kind}"' if kind else ""
    return f"<ul{name}>{''.join(f'<li>{say(text)}</li>' for text in texts)}</ul>"


def tag(verdict: str) -> str:
    """A verdict in its colour; a word that is none gets the colour of no verdict."""
    return f'<span class="tag {verdict if verdict in _VERDICTS else "INCONCLUSIVE"}">{say(verdict)}</span>'


def code(value: object) -> str:
    """A digest, an id or a name, in fixed width."""
    shown = say(value)
    return f'<code class="long">{shown}</code>' if len(shown) > 40 else f"<code>{shown}</code>"


def table(title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where the page is narrow; the first cell of a row is its heading.

    Args:
        title: what the table holds, for those who do not see it.
        columns: headings, escaped here.
        rows: cells, which are HTML already.
    """
    top = "".join(f'<th scope="col"{_side(column)}>{say(column.title)}</th>' for column in columns)
    body = "".join(f"<tr>{_row(columns, row)}</tr>" for row in rows)
    return scroll(title, f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def scroll(title: str, content: str) -> str:
    """Content that may be wider than the page: it scrolls by itself, also by keyboard."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{say(title)}">{content}</div>'


def figure(drawing: str, caption: str = "") -> str:
    """A drawing, with its caption where it needs one."""
    told = f'<figcaption class="note">{say(caption)}</figcaption>' if caption else ""
    return f"<figure>{drawing}{told}</figure>"


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Names and values; the values are HTML already."""
    return f"<dl>{''.join(f'<dt>{say(name)}</dt><dd>{value}</dd>' for name, value in entries)}</dl>"


def span(low_high: tuple[float, float] | None, form: str = ".4f") -> str:
    """An interval as text, or a dash."""
    return "–" if low_high is None else f"{low_high[0]:{form}} to {low_high[1]:{form}}"  # noqa: RUF001  # a dash, not a minus


def _row(columns: Sequence[Column], cells: Sequence[str]) -> str:
    first = f'<th scope="row"{_side(columns[0])}>{cells[0]}</th>'
    return first + "".join(f"<td{_side(column)}>{cell}</td>" for column, cell in zip(columns[1:], cells[1:], strict=True))


def _side(column: Column) -> str:
    return ' class="n"' if column.numeric else ' class="w"' if column.wide else ""
