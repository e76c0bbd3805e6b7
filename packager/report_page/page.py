"""Puts the sections into one self-contained page and writes it beside the bundle, as ``<bundle>.report.html``.

No script, no resource from outside, and a content security policy that forbids both. Every text that came from a model,
a recipe or data is escaped. The page holds readings of a clock, so it is never part of the bundle.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from device_client.bundle.digest import Digest
from device_client.trust.files import write_new
from packager.budget import worst_verdict
from packager.facts import PackFacts
from packager.report_page.choices import front, sensitivity, tried
from packager.report_page.parts import css_class, size, times_smaller
from packager.report_page.readings import Readings
from packager.report_page.sections import before_after, devices, operators, provenance

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page_path(bundle: Path) -> Path:
    """Where the page of a bundle folder lies."""
    return bundle.with_name(f"{bundle.name}.report.html")


def write_page(bundle: Path, facts: PackFacts, readings: Readings, *, manifest: Digest) -> Path:
    """Writes the page beside the bundle.

    Raises:
        UsageError: the file exists.
    """
    path = page_path(bundle)
    write_new(path, render_page(facts, readings, manifest=manifest).encode())
    return path


def render_page(facts: PackFacts, readings: Readings, *, manifest: Digest) -> str:
    """The page.

    Args:
        facts: what the bundle's documents are made from.
        readings: of clock and meter, by variant.
        manifest: digest of the bundle's manifest.
    """
    title = f"{facts.path.line}/{facts.path.model}"
    body = "".join(
        [
            f'<div class="top"><div><h1>Compression report</h1><div class="sub">{escape(title)}, version '
            f'{escape(facts.path.version)}</div></div><div class="sub">manifest {escape(str(manifest))}</div></div>',
            _banner(facts),
            before_after(facts, readings),
            front(facts, readings),
            tried(facts),
            sensitivity(facts),
            devices(facts),
            operators(facts),
            provenance(facts, manifest=str(manifest)),
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Compression report {escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _banner(facts: PackFacts) -> str:
    verdict = worst_verdict([item.evaluation.budget for item in facts.shipped]).value
    lines = []
    for item in facts.shipped:
        judged = item.evaluation
        needed = judged.budget.samples_needed
        more = f" About {needed} test rows would settle it." if needed is not None else ""
        lines.append(
            f"<li><strong>{escape(item.id)}</strong> ships: {size(facts.stored_bytes(item))} stored "
            f"({times_smaller(facts.original_bytes, facts.stored_bytes(item))}), {escape(judged.metric)} "
            f"{judged.estimate.value:.4f}, drop {judged.drop.value:+.4f} within {judged.drop.low:+.4f} to {judged.drop.high:+.4f}, "
            f"allowed {judged.budget.allowed_drop:g}.{escape(more)}</li>"
        )
    lines += [
        f"<li><strong>{escape(item.id)}</strong> does not ship: {escape(item.refused)}</li>"
        for item in facts.candidates
        if item.refused is not None
    ]
    return f'<div class="banner {css_class(verdict)}"><b>Accuracy budget {escape(verdict)}</b><ul>{"".join(lines)}</ul></div>'
