"""One self-contained HTML page from ``audit.json`` and the image file: no script, nothing loaded from outside.

Every text that came from a model, a bundle or data is escaped. The page shows and decides nothing: numbers and verdicts
are those of the evidence, whose digest it prints.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from audits.data import Floats
from audits.evidence import Audit, SubjectEvidence, readable_details
from audits.images import ReportImages, png
from audits.plots import GapRow, forest, null_histogram, series
from audits.targets import ORIGINAL
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.trust.times import format_time

_STYLE = Path(__file__).with_name("report.css")
_MAX_ROWS = 40
_SEVERITY = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.WARNED, Verdict.PASSED)
_LIMITS = (
    "The audit looks for one kind of leak: images made from the model's own gradients that are closer to records it was "
    "trained on than to other records of the same class. Membership inference by shadow models and attribute inference are "
    "not in this tier.",
    "PASSED means that no such leak was found at the power which the planted controls show above. It is no proof that none exists.",
    "What a whole class looks like is what the model was made to know. It can be recovered from any classifier; it is shown "
    "and not judged. Where one person is one class, that is a leak which this verdict does not cover.",
    "The comparison holds if the held-out records are a random sample like the training records. Records from another time "
    "or place would look like a leak, or hide one.",
    "Attackers get better, so the verdict expires.",
)


def render_report(audit: Audit, images: ReportImages) -> str:
    """The page.

    Args:
        audit: evidence, from ``read_audit``.
        images: what may be shown; full images only if the run was asked for them.

    Raises:
        FormatError: a detail is not of its form (``audit_syntax``).
    """
    with readable_details("audit.json"):
        return _page(audit, images)


def _page(audit: Audit, images: ReportImages) -> str:
    worst = min((subject.verdict for subject in audit.variants), key=_SEVERITY.index, default=Verdict.INCONCLUSIVE)
    body = "".join(
        [
            _header(audit),
            _banner(audit, worst),
            _subjects(audit),
            _gaps(audit),
            _pictures(audit, images),
            _controls(audit),
            _deltas(audit),
            _section(
                "What this verdict does not say",
                f'<ul class="limits">{"".join(f"<li>{escape(text)}</li>" for text in _LIMITS)}</ul>',
            ),
            _provenance(audit),
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Privacy audit {escape(audit.bundle['path'])}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _header(audit: Audit) -> str:
    return (
        f'<div class="top"><div><h1>Privacy audit</h1><div class="sub">{escape(audit.bundle["path"])}</div></div>'
        f'<div class="sub">audited {format_time(audit.audited_at)}, expires {format_time(audit.expires)}</div></div>'
    )


def _banner(audit: Audit, worst: Verdict) -> str:
    lines = "".join(
        f"<li><strong>{escape(subject.id)}</strong>: {subject.verdict.value}. {escape('; '.join(subject.reasons))}</li>"
        for subject in audit.variants
    )
    return f'<div class="banner {worst.value}"><b>{worst.value}</b><ul>{lines}</ul></div>'


def _detail(audit: Audit, subject: SubjectEvidence) -> dict[str, Any]:
    """What is shown about one model of the attacks with gradients."""
    family = audit.family("instance")
    empty: dict[str, Any] = {"access": {"accuracy_members": 0.0, "accuracy_heldouts": 0.0}, "attacks": [], "tests": [], "delta": []}
    return empty if family is None else family.detail[subject.id]


def _subjects(audit: Audit) -> str:
    rows = []
    for subject in audit.subjects:
        access = _detail(audit, subject)["access"]
        parity = access.get("parity")
        difference = (
            "none"
            if not parity or parity["max_difference"] is None
            else f"{parity['max_difference']:.1e} (bound {parity['bound']:.1e})"
        )
        rows.append(
            [
                f"<strong>{escape(subject.id)}</strong><br><code>{escape(str(subject.digest))}</code>",
                _tag(subject.verdict),
                f"{subject.size_bytes / 1024:.1f} KiB",
                f"{access['accuracy_members']:.1%} / {access['accuracy_heldouts']:.1%}",
                escape(difference) + _masking(access),
                f"{min((test.p_value for test in subject.ruling.tests), default=1.0):.2g}",
            ]
        )
    head = [
        "Model and digest of the attacked bytes",
        "Verdict",
        "Size",
        "Accuracy, members / held-outs",
        "Bridge against runtime",
        "Adjusted p",
    ]
    note = "Verdicts belong to exactly these bytes. The original is audited for comparison and is not attested."
    return _section("Models", _note(note) + _table(head, rows, numeric={2, 3, 4, 5}))


def _masking(access: dict[str, Any]) -> str:
    """Attacks whose gradient the model masks: the original's images did better than its own, and are judged instead."""
    names = ", ".join(access.get("masked_gradient", []))
    return f'<br><span class="sub">gradient masked: {escape(names)}</span>' if names else ""


def _gaps(audit: Audit) -> str:
    rows, strongest = [], None
    for subject in audit.subjects:
        tests = _detail(audit, subject)["tests"]
        means = [test for test in tests if test["statistic"] == "mean"]
        if not means:
            continue
        test = min(means, key=lambda item: item["p_value"])
        rows.append(GapRow(subject.id, test["estimate"], (test["interval"][0], test["interval"][1]), test["threshold"]))
        if subject.id != ORIGINAL or strongest is None:
            strongest = (subject, min(tests, key=lambda item: item["p_value"]))
    if strongest is None:
        return _section("Leak of training records", _note("No statistic could be computed; see the reasons above."))
    confidence = f"{audit.policy.decision.confidence:.0%}"
    note = (
        "How much closer reconstructions are to training records than to held-out records of the same class, in correlation. "
        f"Bars are {confidence} intervals; the red tick is the threshold, from {audit.policy.decision.permutations} relabelled "
        f"memberships at a false alarm rate of {audit.policy.decision.alpha:g} for the whole run."
    )
    subject, test = strongest
    null = test["null"]
    picture = null_histogram(
        null["counts"], low=null["low"], high=null["high"], observed=test["estimate"], threshold=test["threshold"]
    )
    caption = f'{subject.id}: statistic "{test["statistic"]}" of the attack "{test["attack"]}" against its null distribution'
    charts = f'<div class="cols"><div>{forest(rows)}</div><div>{picture}<div class="note">{escape(caption)}</div></div></div>'
    return _section("Leak of training records", _note(note) + charts + _tests(audit))


def _tests(audit: Audit) -> str:
    rows = []
    for subject in audit.subjects:
        for test in sorted(_detail(audit, subject)["tests"], key=lambda item: item["p_value"])[:3]:
            threshold = "none" if test["threshold"] is None else f"{test['threshold']:.4f}"
            rows.append(
                [
                    escape(subject.id),
                    escape(test["attack"]),
                    escape(test["statistic"]),
                    f"{test['estimate']:.4f}",
                    threshold,
                    f"{test['p_value']:.2g}",
                ]
            )
    return _table(["Model", "Attack", "Statistic (three strongest)", "Observed", "Threshold", "p"], rows, numeric={3, 4, 5})


def _pictures(audit: Audit, images: ReportImages) -> str:
    low, high = audit.data["input_range"]["low"], audit.data["input_range"]["high"]
    names = [subject.id for subject in audit.subjects if subject.id in images.reconstructions]
    columns = [("class mean", images.class_means), ("held-out", images.heldouts)]
    columns += [(f"from {name}", images.reconstructions[name]) for name in names]
    likeness = {subject.id: _likeness(audit, subject) for subject in audit.subjects}
    rows = []
    for label in range(min(len(images.class_means), _MAX_ROWS)):
        cells = [f"<strong>{label}</strong>"]
        cells += [_picture(values[label], low, high, private=images.private) for _, values in columns]
        cells += [f"{likeness[name][label]:.2f}" if label < len(likeness[name]) else "" for name in names]
        rows.append(cells)
    head = ["Class", *(title for title, _ in columns), *(f"likeness to class, {name}" for name in names)]
    blurred = (
        "These are blurred: averages over a coarse grid. "
        if not images.private
        else "These are private images: handle this file like the records. "
    )
    note = blurred + "Likeness to the class average is what a classifier is made to know; it is shown and not judged."
    more = f" The first {_MAX_ROWS} of {len(images.class_means)} classes." if len(images.class_means) > _MAX_ROWS else ""
    return _section("Reconstructions", _note(note + more) + f'<div class="grid">{_table(head, rows, numeric=set())}</div>')


def _controls(audit: Audit) -> str:
    family = audit.family("instance")
    if family is None:
        return _section("Controls of this run", _note("No attack with the file was made, so it has no controls here."))
    detail = family.shared
    planted = [
        [f"{item['strength']:g}", "caught" if item["caught"] else "not caught", f"{item['p_value']:.2g}"]
        for item in detail["planted"]
    ]
    planted += [
        [escape(item["name"]), "caught" if item["caught"] else "not caught", f"{item['p_value']:.2g}"]
        for item in detail["planted_compressed"]
    ]
    nulls = [[escape(item["name"]), "alarm" if item["alarm"] else "quiet", f"{item['p_value']:.2g}"] for item in detail["null"]]
    again = detail["relabellings"]
    nulls.append(
        [
            "fresh relabelled memberships",
            f"{int(again['alarms'])} of {int(again['trials'])} alarms",
            f"{again['interval95'][0]:.1%} to {again['interval95'][1]:.1%}",
        ]
    )
    power = (
        "Not even the strongest planted leak was caught: this run is blind."
        if family.power is None
        else f"Power of this run: it caught training records that make up {family.power:.0%} or more of a class's template "
        "in a model that was planted with them."
    )
    left = _table(["Planted leak, must be caught", "Result", "p"], planted, numeric={2})
    right = _table(["Null control, must stay quiet", "Result", "p or 95% interval"], nulls, numeric={2})
    return _section("Controls of this run", _note(power) + f'<div class="cols"><div>{left}</div><div>{right}</div></div>')


def _deltas(audit: Audit) -> str:
    rows = [
        [
            escape(subject.id),
            escape(delta["attack"]),
            f"{delta['estimate']:+.4f}",
            f"{delta['interval'][0]:+.4f} to {delta['interval'][1]:+.4f}",
        ]
        for subject in audit.subjects
        for delta in _detail(audit, subject)["delta"]
    ]
    if not rows:
        return ""
    note = (
        "Mean gap of the compressed model minus the original's, paired by class and record. Around zero: compression neither "
        "hides nor adds a leak."
    )
    return _section(
        "Compressed against original", _note(note) + _table(["Model", "Attack", "Difference", "Interval"], rows, numeric={2, 3})
    )


def _provenance(audit: Audit) -> str:
    data = audit.data
    drawn = data["drawn_per_side"]
    policy = f"{audit.policy.id} version {audit.policy.version}, {audit.policy.tier} tier, {audit.policy.threat_model}"
    records = (
        f"{data['records']} ({data['members']} members) in {data['classes']} classes; compared per class and side: "
        f"{min(drawn, default=0)} to {max(drawn, default=0)}"
    )
    entries = {
        "Bundle manifest": f"<code>{escape(audit.bundle['manifest'])}</code>",
        "Policy": f"{escape(policy)}<br><code>{audit.policy.digest}</code>",
        "Records": f"{escape(records)}<br><code>{escape(data['digest'])}</code>",
        "Seed": str(audit.policy.seed),
        "Tools": escape(", ".join(f"{name} {value}" for name, value in sorted(audit.tools.items()))),
        "Evidence (audit.json)": f"<code>{Digest.of(audit.to_bytes())}</code>",
    }
    return _section(
        "Provenance", "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in entries.items()) + "</dl>"
    )


def _likeness(audit: Audit, subject: SubjectEvidence) -> list[float]:
    attacks: list[dict[str, Any]] = _detail(audit, subject)["attacks"]
    return max((entry["class_likeness"] for entry in attacks), key=lambda values: float(np.mean(values or [0.0])), default=[])


def _picture(values: Floats, low: float, high: float, *, private: bool) -> str:
    if values.ndim == 1:
        return series([float(value) for value in values], low=low, high=high)
    pixels = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0) * 255.0
    picked = np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels.mean(axis=0)
    data = base64.b64encode(png(np.ascontiguousarray(picked.round().astype(np.uint8)))).decode("ascii")
    return f'<img class="{"full" if private else "coarse"}" alt="" src="data:image/png;base64,{data}">'


def _tag(verdict: Verdict) -> str:
    return f'<span class="tag {verdict.value}">{verdict.value}</span>'


def _note(text: str) -> str:
    return f'<div class="note">{escape(text)}</div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: set[int]) -> str:
    """A table of cells that are HTML already; headings are escaped here."""

    def cell(kind: str, index: int, content: str) -> str:
        return f'<{kind} class="n">{content}</{kind}>' if index in numeric else f"<{kind}>{content}</{kind}>"

    top = "".join(cell("th", index, escape(text)) for index, text in enumerate(head))
    body = "".join("<tr>" + "".join(cell("td", index, text) for index, text in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
