"""What ``sealift audit run`` prints at its end: a line for each model, then what the verdicts rest on and what they leave out."""

from __future__ import annotations

from audits.evidence import Audit, readable_details
from audits.report.controls import failed_controls, power_in_short
from audits.report.evidence_view import view_of
from audits.report.view import PageView
from device_client.text import printable
from device_client.trust.times import format_time


def audit_summary(audit: Audit) -> str:
    """The summary of a run, as plain text for a terminal.

    Raises:
        FormatError: a detail is not of its form (``audit_syntax``).
    """
    with readable_details("audit.json"):
        return summary(view_of(audit))


def summary(view: PageView) -> str:
    """Verdicts with reasons; failed controls and power of each family; tests that did not run; policy and expiry.

    Ids and reasons may quote names from a model, so no character goes out that a terminal would act on.
    """
    lines = [f"{subject.verdict:<13} {subject.id:<20} {'; '.join(subject.reasons)}" for subject in view.subjects]
    for family in view.families:
        if family.controls:
            lines.append(f"controls of {family.family}: {power_in_short(family)}")
            lines += [f"  FAILED {control.name}: {control.told}" for control in failed_controls(family)]
    lines += [
        f"not tested: {test} ({reason})" + ("" if len(names) == len(view.subjects) else f" on {', '.join(names)}")
        for (test, reason), names in view.not_run().items()
    ]
    policy = view.policy
    lines.append(f"policy: {policy.id} version {policy.version}, {policy.tier} tier, {policy.threat_model}")
    lines.append(f"expires: {format_time(view.expires)}")
    return "\n".join(printable(line) for line in lines)
