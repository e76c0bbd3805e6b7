"""Pieces of HTML that every section uses: tables, notes, tags, numbers for people. Everything not marked as HTML is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_KNOWN = frozenset({"met", "missed", "failed", "refused", "unproven"})


def section(title: str, content: str) -> str:
    """A box with a heading; ``content`` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def note(text: str) -> str:
    """A grey line."""
    return f'<div class="note">{escape(text)}</div>'


def tag(verdict: str) -> str:
    """A coloured word."""
    return f'<span class="tag {css_class(verdict)}">{escape(verdict)}</span>'


def css_class(verdict: str) -> str:
    """The class of a verdict; ``other`` for any word that is not one, so that no text from outside becomes an attribute."""
    return verdict if verdict in _KNOWN else "other"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: frozenset[int] = frozenset()) -> str:
    """A table that scrolls sideways on a small screen. Cells are HTML, headings are not."""

    def cells(kind: str, values: Iterable[str]) -> str:
        return "".join(
            f'<{kind} class="n">{value}</{kind}>' if index in numeric else f"<{kind}>{value}</{kind}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", map(escape, head))}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(entries: Mapping[str, str]) -> str:
    """A list of terms; values are HTML."""
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in entries.items()) + "</dl>"


def size(count: float) -> str:
    """Bytes for people; KB = 1000 bytes."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}" if count / limit < 100 else f"{count / limit:.0f} {unit}"
    return f"{count:.0f} bytes"


def amount(count: float) -> str:
    """A large number for people."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}" if count / limit < 100 else f"{count / limit:.0f} {unit}"
    return f"{count:.0f}"


def energy_text(microjoules: float | None) -> str:
    """Energy for people."""
    if microjoules is None:
        return "unavailable"
    return f"{microjoules / 1000:.3g} mJ" if microjoules >= 1000 else f"{microjoules:.3g} µJ"


def change(before: float, after: float) -> str:
    """A change in per cent, with its sign; empty where there is nothing to compare with."""
    return f"{(after / before - 1) * 100:+.0f} %" if before > 0 else ""


def times_smaller(before: float, after: float) -> str:
    """How much smaller, in words."""
    ratio = before / after if after > 0 else 1.0
    if abs(ratio - 1) < 0.005:
        return "the same size"
    return f"{ratio:.2f} times smaller" if ratio > 1 else f"{1 / ratio:.2f} times larger"
