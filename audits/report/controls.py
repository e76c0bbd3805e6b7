"""How the audit tested itself: planted leaks that it had to catch, null controls that had to stay quiet, and what that is worth."""

from __future__ import annotations

from audits.finding import Control, FamilyResult
from audits.report import words
from audits.report.charts import Planted, planted_strip
from audits.report.parts import Column, figure, heading, items, note, say, section, table
from audits.report.view import PageView


def controls(view: PageView) -> str:
    """One panel for each family; families with a failed control first, and in those the failed controls first."""
    ordered = sorted((family for family in view.families if family.controls), key=lambda family: not failed_controls(family))
    told = (
        "All controls are judged by the rule that the models are judged by. If one that is required fails, the tests of its family "
        "say nothing, and no verdict can rest on them."
    )
    return section("Controls of this run", note(told), *(_panel(family) for family in ordered)) if ordered else ""


def power_told(family: FamilyResult) -> str:
    """What the family would have caught, in plain words."""
    planted = [control for control in family.controls if control.planted]
    if not planted:
        return "Power: unknown. No leak was planted, so it is not known what this family would have caught."
    if family.power is None:
        return "Power: none. Not even the strongest planted leak was caught: this family is blind."
    return (
        f"Power: would have caught a leak of {family.power:g} ({family.power_unit}). It caught that planted leak and all larger "
        "ones; a smaller one may go unseen."
    )


def power_in_short(family: FamilyResult) -> str:
    """The same for a line on a terminal."""
    if not any(control.planted for control in family.controls):
        return "no leak was planted"
    if family.power is None:
        return "not even the strongest planted leak was caught"
    return f"planted leaks are caught from {family.power:g} on ({family.power_unit})"


def failed_controls(family: FamilyResult) -> list[Control]:
    """Required controls that did not hold."""
    return [control for control in family.controls if control.required and not control.held]


def _panel(family: FamilyResult) -> str:
    failed = failed_controls(family)
    alarm = ""
    if failed:
        told = "<strong>Failed controls: the tests of this family say nothing.</strong>"
        alarm = f'<div class="alarm" role="note">{told}{items(control.told for control in failed)}</div>'
    return heading(words.family(family.family)) + alarm + note(power_told(family)) + _strip(family) + _table(family)


def _strip(family: FamilyResult) -> str:
    """Those of the first kind only: kinds that are planted otherwise measure their strength in another unit."""
    planted = [(control, control.strength) for control in family.controls if control.planted and control.strength is not None]
    if not planted:
        return ""
    kind = _kind(planted[0][0])
    alike = [(control, strength) for control, strength in planted if _kind(control) == kind]
    drawn = planted_strip(
        [Planted(strength, control.held) for control, strength in alike],
        required=min((strength for control, strength in alike if control.required), default=None),
        unit=family.power_unit,
    )
    return figure(drawn, f'Planted leaks "{kind}" by strength: a dot was caught, a cross was missed.')


def _kind(control: Control) -> str:
    return control.name.partition(":")[0]


def _table(family: FamilyResult) -> str:
    ordered = sorted(family.controls, key=lambda control: (control.held, control.held or not control.required))
    rows = [
        [
            say(control.name),
            "planted leak" if control.planted else "null control",
            "" if control.strength is None else f"{control.strength:g}",
            _outcome(control),
            say(control.told),
        ]
        for control in ordered
    ]
    heads = [
        Column("Control"),
        Column("Kind"),
        Column("Strength", numeric=True),
        Column("Result"),
        Column("What happened", wide=True),
    ]
    return table(f"Controls: {words.family(family.family)}", heads, rows)


def _outcome(control: Control) -> str:
    word = {(True, True): "caught", (True, False): "missed", (False, True): "quiet", (False, False): "alarm"}[
        control.planted, control.held
    ]
    if control.held:
        return f'<span class="held">{word}</span>'
    return f'<strong class="broken">{word}</strong>' if control.required else f'<span class="allowed">{word}, allowed</span>'
