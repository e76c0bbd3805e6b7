"""The top of the page: verdicts with their reasons, who the attacker is, what was not tested, the models, every test's finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audits.finding import Finding
from audits.report import words
from audits.report.membership import ATTACK_TESTS
from audits.report.parts import Column, code, items, note, pairs, say, section, span, table, tag
from audits.report.read import flag, mapping, number, optional, sequence, text
from audits.report.view import PageView, SubjectView
from device_client.trust.times import format_time

INSTANCE = "inversion.instance"
_IDENTITY = "inversion.identity"
SEVERITY = ("FAILED", "INCONCLUSIVE", "WARNED", "WAIVED", "PASSED")
# Tests of this suite by family, for a run that was not asked for some of them.
SUITE_TESTS = (
    INSTANCE, _IDENTITY, "inversion.black_box", "inversion.label_only", "inversion.swap_split",
    *ATTACK_TESTS, "attribute.inference",
)  # fmt: skip


def worst_verdict(view: PageView) -> str:
    """The banner's word: the worst of the variants; INCONCLUSIVE where there are none."""
    return min((subject.verdict for subject in view.variants), key=_severity, default="INCONCLUSIVE")


def banner(view: PageView) -> str:
    """The verdict on each variant with its reasons, worst first, and what the verdicts rest on."""
    worst = worst_verdict(view)
    ordered = sorted(view.variants, key=lambda subject: _severity(subject.verdict))
    lines = "".join(
        f"<li>{tag(subject.verdict)} <strong>{say(subject.id)}</strong> {code(subject.digest)}{items(subject.reasons)}</li>"
        for subject in ordered
    )
    policy = view.policy
    facts = pairs(
        [
            ("Policy", f"{say(policy.id)} version {policy.version}, {say(policy.tier)} tier<br>{code(policy.digest)}"),
            ("Attacker", f"{say(policy.threat_model)}: {say(words.threat(policy.threat_model))}"),
            ("Valid", f"audited {say(format_time(view.audited_at))}, expires {say(format_time(view.expires))}"),
        ]
    )
    head = f'<h2 id="verdict"><span class="sub">Verdict</span> <b>{say(worst)}</b></h2>'
    kind = worst if worst in SEVERITY else "INCONCLUSIVE"
    return f'<section class="banner {kind}" aria-labelledby="verdict">{head}<ul>{lines}</ul>{facts}</section>'


def not_tested(view: PageView) -> str:
    """What no verdict on this page rests on, with the reason; one line for each test and reason."""
    skipped = view.not_run()
    lines = [
        f"<li>{code(test)} {'' if len(names) == len(view.subjects) else say('on ' + ', '.join(names) + ' ')}"
        f"did not run: {say(reason)}</li>"
        for (test, reason), names in skipped.items()
    ]
    named = {*view.tests, *(test for test, _ in skipped)}
    absent = [test for test in SUITE_TESTS if test not in named]
    if absent:
        lines.append(f"<li>Not part of this run, by its policy and tier: {', '.join(code(test) for test in absent)}</li>")
    return section("Not tested", f'<ul class="limits">{"".join(lines)}</ul>' if lines else "")


def models(view: PageView) -> str:
    """The models: digests of the attacked bytes, verdicts, size, accuracy, how the gradient was had."""
    access = {subject.id: mapping(told["access"]) for subject, told in view.details(INSTANCE) if "access" in told}
    measured = accuracies(view)
    rows = [_model_row(subject, access.get(subject.id, {}), measured.get(subject.id)) for subject in view.subjects]
    columns = [
        Column("Model and digest of the attacked bytes"),
        Column("Verdict"),
        Column("Size", numeric=True),
        Column("Accuracy, members / held-outs", numeric=True),
        Column("Bridge against runtime", wide=True),
    ]
    told = "Verdicts belong to exactly these bytes. The original is audited for comparison and is not attested."
    return section("Models", note(told), table("Models", columns, rows))


def accuracies(view: PageView) -> dict[str, tuple[float, float]]:
    """Accuracy on members and on held-outs by subject id, where a family measured it."""
    found: dict[str, tuple[float, float]] = {}
    for family in view.families:
        for name, told in family.detail.items():
            access = told.get("access")
            source = access if isinstance(access, Mapping) else told
            if source.get("accuracy_heldouts") is not None:
                found.setdefault(name, (number(source["accuracy_members"]), number(source["accuracy_heldouts"])))
    return found


def findings(view: PageView) -> str:
    """Tests down, models across: what every verdict rests on, with what limits it."""
    found: dict[str, dict[str, Finding]] = {}
    for subject, finding in view.findings():
        if finding.not_run is None:
            found.setdefault(finding.test, {})[subject.id] = finding
    if not found:
        return ""
    told = (
        f"Estimate, {view.policy.confidence:.0%} interval and p-value, adjusted for all models and attacks of its family. The "
        f"policy's false alarm rate for the whole run is {view.policy.alpha:g}; families share it."
    )
    rows = [
        [_asked(test, cells), *(_found(subject, cells.get(subject.id)) for subject in view.subjects)]
        for test, cells in found.items()
    ]
    heads = [Column("Test, and what it measures"), *(Column(subject.id) for subject in view.subjects)]
    return section("Findings", note(told), table("Findings, tests down and models across", heads, rows))


def _asked(test: str, cells: Mapping[str, Finding]) -> str:
    """The heading of a test's row: its id, its question, its statistic and bound."""
    first = next(iter(cells.values()))
    allowed = "judged by its null distribution alone" if first.tolerated is None else f"allowed at most {first.tolerated:g}"
    if test == _IDENTITY and first.tolerated is None:
        allowed = "reported, not judged: the policy calls it public what a class looks like"
    question = f"{say(words.question(test))}<br>" if words.question(test) else ""
    return f'{code(test)}<div class="sub asked">{question}{say(words.statistic(first.statistic))}; {say(allowed)}</div>'


def _found(subject: SubjectView, finding: Finding | None) -> str:
    if finding is None:
        return '<span class="sub">did not run</span>'
    result = f"{tag(subject.results[finding.test])}<br>" if finding.test in subject.results else ""
    estimate = "" if finding.estimate is None else f"{finding.estimate:.4f}<br>"
    ends = "" if finding.interval is None else f'<span class="sub ends">{span(finding.interval)}</span><br>'
    limits = [
        f"<li>{kind}: {say(reason)}</li>"
        for kind, reasons in (("blind", finding.blind), ("not finished", finding.undone), ("doubt", finding.doubts))
        for reason in reasons
    ]
    return f'{result}{estimate}{ends}<span class="p">p = {finding.p_adjusted:.2g}</span>' + (
        f'<ul class="sub">{"".join(limits)}</ul>' if limits else ""
    )


def _model_row(subject: SubjectView, access: Mapping[str, Any], measured: tuple[float, float] | None) -> list[str]:
    return [
        f"<strong>{say(subject.id)}</strong><br>{code(subject.digest)}",
        tag(subject.verdict),
        f"{subject.size_bytes / 1024:.1f} KiB",
        "" if measured is None else f"{measured[0]:.1%} / {measured[1]:.1%}",
        _bridge(subject, access),
    ]


def _bridge(subject: SubjectView, access: Mapping[str, Any]) -> str:
    """How far the differentiable program is from the runtime, and what is known against its gradient."""
    parity = optional(mapping, access.get("parity"))
    told = "no comparison"
    if parity is not None:
        difference = optional(number, parity["max_difference"])
        kind = ", quantised graph" if flag(parity["quantised"]) else ""
        told = "not finite" if difference is None else f"{difference:.1e} (bound {number(parity['bound']):.1e}{kind})"
    masked = [text(name) for name in sequence(access.get("masked_gradient", []), most=64)]
    more = [f"gradient: {words.gradient(subject.gradient)}"] if subject.gradient is not None else []
    more += [f"gradient masked: {', '.join(masked)}"] if masked else []
    more += [f"draws random numbers: {', '.join(subject.random_operators)}"] if subject.random_operators else []
    return say(told) + "".join(f'<br><span class="sub">{say(line)}</span>' for line in more)


def _severity(verdict: str) -> int:
    return SEVERITY.index(verdict) if verdict in SEVERITY else 1
