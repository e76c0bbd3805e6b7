"""One self-contained HTML page from ``audit.json`` and the image file: no script, nothing loaded from outside.

Every text that came from a model, a bundle or data is escaped. The page shows and decides nothing: numbers and verdicts
are those of the evidence, whose digest it prints. Sections of what did not run are absent.
"""

from __future__ import annotations

import re
from pathlib import Path

from audits.evidence import Audit, readable_details
from audits.report.attribute import attribute
from audits.report.closing import limits, provenance
from audits.report.controls import controls
from audits.report.deltas import deltas
from audits.report.evidence_view import view_of
from audits.report.images import ReportImages
from audits.report.instance import instance
from audits.report.membership import membership
from audits.report.overview import banner, findings, models, not_tested
from audits.report.parts import say
from audits.report.pictures import pictures
from audits.report.retrieval import retrieval
from audits.report.tradeoff import tradeoff
from audits.report.view import PageView
from audits.report.worst import worst_records
from device_client.trust.times import format_time

_STYLE = Path(__file__).with_name("page.css")
_CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HEADING = re.compile(r'<h2 id="([a-z0-9-]+)">([^<]*)</h2>')


def render_report(audit: Audit, images: ReportImages) -> str:
    """The page.

    Args:
        audit: evidence, from ``read_audit``.
        images: what may be shown; full images only if the run was asked for them.

    Raises:
        FormatError: a detail is not of its form (``audit_syntax``).
    """
    with readable_details("audit.json"):
        return render_page(view_of(audit), images)


def render_page(view: PageView, images: ReportImages) -> str:
    """The page of a view; a detail that is not of its form raises TypeError, ValueError or KeyError."""
    sections = [
        not_tested(view),
        models(view),
        findings(view),
        pictures(view, images),
        instance(view),
        retrieval(view),
        membership(view),
        attribute(view),
        deltas(view),
        controls(view),
        worst_records(view, images),
        tradeoff(view),
        limits(view),
        provenance(view),
    ]
    body = "".join(sections)
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _HEADING.findall(body))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CONTENT_POLICY}">'
        f"<title>Privacy audit {say(view.bundle)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f'<body><a class="skip" href="#verdict">To the verdict</a>{_header(view)}<main>{banner(view)}'
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>{body}</main></body></html>\n'
    )


def _header(view: PageView) -> str:
    return (
        f'<header class="top"><div><h1>Privacy audit</h1><div class="sub">{say(view.bundle)}</div></div>'
        f'<div class="sub">audited {say(format_time(view.audited_at))}, expires {say(format_time(view.expires))}</div></header>'
    )
