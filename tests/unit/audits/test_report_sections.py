"""Each part of the page says what its family found, is absent where that did not run, and takes nothing that is not a number."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from audits.evidence import readable_details
from audits.finding import Control, FamilyResult
from audits.report.attribute import attribute
from audits.report.closing import limits, provenance
from audits.report.controls import controls, power_told
from audits.report.deltas import deltas
from audits.report.instance import instance
from audits.report.membership import membership
from audits.report.overview import banner, findings, models, not_tested, worst_verdict
from audits.report.page import render_page
from audits.report.retrieval import retrieval
from audits.report.summary import summary
from audits.report.tradeoff import tradeoff
from audits.report.view import PageView
from audits.report.worst import worst_records
from device_client.errors import FormatError
from tests.unit.audits import page_example

PICTURES = page_example.pictures((12,), classes=3)
SECTIONS: dict[str, Callable[[PageView], str]] = {
    "instance": instance,
    "membership": membership,
    "retrieval": retrieval,
    "deltas": deltas,
    "controls": controls,
    "tradeoff": tradeoff,
    "worst": lambda view: worst_records(view, PICTURES),
    "findings": findings,
}


def plain(html: str) -> str:
    """The text of a part without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def edited(page: PageView, family: str, change: Callable[[dict[str, Any]], object], *, subject: str = "original") -> PageView:
    """The run with one model's detail of one family replaced; the change works on a copy of lists and objects."""
    import json

    found = []
    for item in page.families:
        detail = json.loads(json.dumps(item.detail)) if item.family == family else item.detail
        if item.family == family:
            change(detail[subject])
        found.append(replace(item, detail=detail))
    return replace(page, families=tuple(found))


@pytest.fixture(scope="module")
def view() -> PageView:
    return page_example.view()


def test_the_banner_is_the_worst_verdict_and_names_every_variant_worst_first(view: PageView) -> None:
    text = plain(banner(view))
    assert worst_verdict(view) == "FAILED"
    assert text.index("int8-static") < text.index("int8-dynamic") < text.index("pruned-90")
    assert "original" not in text
    for said in (
        "too few non-members to say",
        "clinic version 3, standard tier",
        view.policy.digest,
        "the attacker holds the file",
        "2026-05-30",
    ):
        assert said in text
    better = replace(view, subjects=tuple(replace(subject, verdict="PASSED") for subject in view.subjects))
    assert worst_verdict(better) == "PASSED"
    assert worst_verdict(replace(view, subjects=view.subjects[:1])) == "INCONCLUSIVE"


def test_a_verdict_that_is_no_word_of_ours_never_becomes_a_class(view: PageView) -> None:
    subjects = tuple(replace(subject, verdict='PASSED"><script>') for subject in view.subjects)
    page = render_page(replace(view, subjects=subjects), PICTURES)
    assert "<script" not in page
    assert 'class="tag PASSED' not in page
    assert 'section class="banner INCONCLUSIVE"' in page


def test_what_did_not_run_is_said_with_its_reason_and_on_which_models(view: PageView) -> None:
    text = plain(not_tested(view))
    assert "attribute.inference did not run: the input is no table" in text
    ruled = replace(view.subjects[1], not_tested=(("membership.lira", "no trainer was given"),))
    text = plain(not_tested(replace(view, subjects=(view.subjects[0], ruled, *view.subjects[2:]))))
    assert "membership.lira on int8-static did not run: no trainer was given" in text
    text = plain(not_tested(page_example.view(page_example.instance_family())))
    assert "Not part of this run" in text
    assert "membership.lira" in text
    assert "inversion.instance" not in text


def test_every_finding_stands_in_the_row_of_its_test_and_the_column_of_its_model(view: PageView) -> None:
    html = findings(view)
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', html)
    assert heads[1:] == [subject.id for subject in view.subjects]
    rows = re.findall(r"<tr>(.*?)</tr>", html)[1:]
    lira = next(row for row in rows if "membership.lira" in row)
    assert "allowed at most 0.05" in plain(lira)
    cells = [plain(cell) for cell in re.findall(r"<td>(.*?)</td>", lira)]
    assert "0.0316" in cells[1]
    assert "p = 4e-05" in cells[1]
    assert "two shadows did not converge" in cells[1]
    assert "p = 0.6" in cells[3]
    assert "inversion.label_only" not in html
    ruled = replace(view.subjects[3], results={"membership.lira": "WARNED"})
    assert '<span class="tag WARNED">' in findings(replace(view, subjects=(*view.subjects[:3], ruled)))


def test_the_models_table_says_what_is_known_against_a_gradient(view: PageView) -> None:
    text = plain(models(view))
    assert "gradient masked: probability" in text
    assert "4.0e-07 (bound 1.0e-05" in text
    subject = replace(view.subjects[1], gradient="none", random_operators=("RandomNormal",))
    text = plain(models(replace(view, subjects=(view.subjects[0], subject, *view.subjects[2:]))))
    assert "gradient: none" in text
    assert "draws random numbers: RandomNormal" in text
    elsewhere = plain(models(page_example.without(view, "instance")))
    assert "no comparison" in elsewhere
    assert "100.0% / 90.0%" in elsewhere  # accuracy as another family measured it


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_part_is_absent_where_nothing_ran_that_it_tells_of(view: PageView, name: str) -> None:
    assert SECTIONS[name](view)
    assert SECTIONS[name](replace(view, families=(page_example.attribute_family(),))) == ""


@pytest.mark.parametrize("family", ["instance", "retrieval", "membership", "attribute"])
def test_the_page_stands_without_any_one_family(view: PageView, family: str) -> None:
    page = render_page(page_example.without(view, family), PICTURES)
    assert "What this verdict does not say" in page
    titles = {"instance": "Leak of training records", "retrieval": "Identity and queries", "membership": "Worst records"}
    assert (f">{titles[family]}</h2>" not in page) if family in titles else "attribute.inference" in page


def test_rates_that_the_records_do_not_support_are_grey_and_have_no_number(view: PageView) -> None:
    html = membership(view)
    assert html.count('class="unsupported"') == len(view.subjects)
    assert "below 0.0015" in plain(html)
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", html) if "LiRA" in row)
    cells = [plain(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    assert [("too few" in cell) for cell in cells[2:]] == [True, True, False, False]
    assert "by repeat 0.869 to 0.872" in cells[1]


def test_without_a_word_on_it_the_grey_ends_at_the_smallest_supported_rate(view: PageView) -> None:
    family = next(family for family in view.families if family.family == "membership")
    assert "below 0.01)" in plain(membership(page_example.view(replace(family, shared={}))))


def test_attacks_that_decide_nothing_are_in_the_table_and_not_in_the_curves(view: PageView) -> None:
    html = membership(view)
    legend = html[html.index('class="legend"') : html.index("<table")]
    assert "LiRA" in legend
    assert "LiRA offline" not in legend
    assert "ART" not in legend
    text = plain(html)
    for name in ("LiRA offline", "ART, black box", "ART, rule"):
        assert f"{name} shown beside, decides nothing" in text
    assert "balanced accuracy 0.704" in text
    assert "Dotted: the original under its strongest attack, joint." in text


def test_the_deltas_of_every_family_have_their_own_axis_and_the_policys_bound(view: PageView) -> None:
    html = deltas(view)
    labels = [label.replace("\N{MINUS SIGN}", "-") for label in re.findall(r'aria-label="([^"]*)"', html)]
    assert [label.split(":")[0] for label in labels] == [
        "change of instance gap, correlation",
        "change of swap-split gap, correlation",
        "change of gap of images by scores, correlation",
        "change of membership, area under the ROC",
        "change of membership, TPR at FPR 0.01",
    ]
    assert "pruned-90 -0.0380 [-0.0440, -0.0320]" in labels[1]
    assert "int8-static, confidence -0.0079 [-0.0119, -0.0039]" in labels[3]
    assert "original" not in "".join(labels)
    assert html.count('class="bound"') == 6  # three variants by two attacks of the family that has a bound


def test_queries_and_masking_are_told_with_what_they_reached(view: PageView) -> None:
    text = plain(retrieval(view))
    assert "int8-static 1,392 0.95 / 0.97 40 of 40 0.0100" in text
    assert "Is the gradient masked?" in text
    assert "int8-static 0.745 0.995 0.997" in text
    assert "original 40 of 40 92.0% to 100.0% 2.5%" in text


def test_a_test_of_identity_that_the_policy_does_not_judge_says_so(view: PageView) -> None:
    assert "reported, not judged" not in plain(findings(view))
    family = page_example.retrieval_family()
    public = {name: tuple(replace(item, tolerated=None) for item in found) for name, found in family.findings.items()}
    assert "reported, not judged" in plain(findings(page_example.view(replace(family, findings=public))))


def test_a_guessed_column_shows_its_strongest_attack_beside_the_baseline() -> None:
    html = attribute(page_example.view(page_example.attribute_family_of_a_table()))
    assert "int8-static income label_likelihood 71.0% 69.8% (boosting) +0.0120" in plain(html)
    assert "weaker" not in html


def test_failed_controls_come_first_and_say_what_they_mean(view: PageView) -> None:
    html = controls(view)
    text = plain(html)
    assert text.index("Membership inference") < text.index("Inversion by gradients")
    assert html.count('class="alarm"') == 1
    assert "the tests of this family say nothing" in text
    assert "would have caught a leak of 0.35 (share of a class" in text
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    assert [plain(row).split()[0] for row in rows[1:4]] == ["permuted", "planted:0.1", "planted:0.5"]
    assert '<strong class="broken">alarm</strong>' in rows[1]
    assert "missed, allowed" in rows[2]
    strip = re.findall(r'aria-label="planted leaks by strength: ([^"]*)"', html)
    assert strip[0] == "0.1 missed, 0.5 caught"  # canaries are counted in copies, on no common axis
    quiet = page_example.without(view, "membership")
    assert 'class="alarm"' not in controls(quiet)


@pytest.mark.parametrize(
    ("planted", "power", "said"),
    [
        (True, None, "this family is blind"),
        (False, None, "it is not known what this family would have caught"),
        (True, 0.2, "a leak of 0.2"),
    ],
    ids=["none was caught", "none was planted", "some were caught"],
)
def test_power_is_told_in_plain_words(planted: bool, power: float | None, said: str) -> None:
    control = Control("x", planted=planted, held=True, required=True, strength=0.2 if planted else None, told="x")
    family = FamilyResult("x", {}, (control,), power, "share of something", {}, {})
    assert said in power_told(family)


def test_one_model_alone_trades_nothing_off(view: PageView) -> None:
    assert tradeoff(replace(view, subjects=view.subjects[:1])) == ""
    assert tradeoff(replace(view, subjects=view.subjects[:2])).count("<figure>") == 6


def test_worst_records_are_named_by_the_start_of_their_salted_id(view: PageView) -> None:
    html = worst_records(view, PICTURES)
    first = view.families[2].detail["original"]["attacks"][3]["worst"][0]
    assert f"<code>{first['id'][:16]}</code>" in html
    assert first["id"] not in html
    assert html.count("<tr>") == 21  # twenty records, the same for every model
    one = edited(view, "membership", lambda told: told["attacks"][3]["worst"].insert(0, {"id": "00" * 32, "score": 99.0}))
    rows = re.findall(r"<tr>(.*?)</tr>", worst_records(one, PICTURES))
    assert "0000000000000000" in rows[1]
    assert [plain(cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", rows[1])] == ["99", "", "", ""]


def test_the_limits_are_about_what_ran(view: PageView) -> None:
    everything = plain(limits(view))
    assert "left of the grey edge" in everything
    assert "by a fixed number of queries" not in everything
    assert "stop at a fixed number of queries" in everything
    only_instance = plain(limits(page_example.view(page_example.instance_family())))
    assert "Membership inference was not tested" in only_instance
    assert "queries" not in only_instance
    sealed = replace(view, policy=replace(view.policy, threat_model="sealed_api"))
    assert "Whoever gets hold of the file is stronger" in plain(limits(sealed))
    assert "Whoever gets hold of the file is stronger" not in everything


def test_provenance_holds_every_digest_and_what_families_say_of_themselves(view: PageView) -> None:
    text = plain(provenance(view))
    for said in (view.manifest, view.evidence, view.policy.digest, view.data.digest, view.subjects[0].digest, "torch 2.13.0"):
        assert said in text
    assert "finest fpr: 0.0015; isolation: child without network; seeds: 1, 2, 3" in text


def test_the_page_is_the_same_whatever_order_the_evidence_keeps_its_names_in(view: PageView) -> None:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: reordered(value[name]) for name in sorted(value, reverse=True)}
        return [reordered(item) for item in value] if isinstance(value, list) else value

    other = tuple(replace(family, detail=reordered(family.detail), shared=reordered(family.shared)) for family in view.families)
    assert render_page(replace(view, families=other), PICTURES) == render_page(view, PICTURES)


def test_the_summary_for_a_terminal_has_no_character_that_acts(view: PageView) -> None:
    text = summary(view)
    assert text.splitlines()[0].split()[:2] == ["FAILED", "original"]
    assert "controls of instance: planted leaks are caught from 0.35 on" in text
    assert "  FAILED permuted: 3 of 50 permuted memberships raised an alarm" in text
    assert "not tested: attribute.inference (the input is no table)" in text
    assert "policy: clinic version 3, standard tier, white_box" in text
    hostile = replace(view.subjects[1], id="a\x1b[2J\nPASSED", reasons=("b\u202e",))
    made = summary(replace(view, subjects=(hostile,)))
    assert "\x1b" not in made
    assert "\u202e" not in made
    assert made.splitlines()[0].startswith("FAILED        a\\x1b[2J\\nPASSED")


def first_attack(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["attacks"][0]
    return found


MALFORMED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "an AUC that is markup": ("membership", lambda told: first_attack(told).update(auc="<b>")),
    "an AUC that is true": ("membership", lambda told: first_attack(told).update(auc=True)),
    "an attack without a ROC": ("membership", lambda told: first_attack(told).pop("roc")),
    "a ROC with lists of two lengths": ("membership", lambda told: first_attack(told)["roc"]["tpr"].pop()),
    "a ROC above one": ("membership", lambda told: first_attack(told)["roc"]["tpr"].__setitem__(0, 1.5)),
    "a ROC of many points": ("membership", lambda told: first_attack(told).update(roc={"fpr": [0] * 3000, "tpr": [0] * 3000})),
    "a delta without its attack": ("membership", lambda told: told["delta"].append({"auc": 0.1})),
    "a baseline that is markup": ("membership", lambda told: told["baselines"][0].update(auc="<b>")),
    "a rate whose support is a text": ("membership", lambda told: first_attack(told)["tpr_at"][0].update(supported="yes")),
    "an interval upside down": ("membership", lambda told: first_attack(told).update(auc_interval=[0.9, 0.1])),
    "an interval of three": ("membership", lambda told: first_attack(told).update(auc_interval=[0.1, 0.2, 0.3])),
    "a score that is no number": ("membership", lambda told: first_attack(told)["worst"][0].update(score=None)),
    "an id that is a list": ("membership", lambda told: first_attack(told)["worst"][0].update(id=["x"])),
    "attacks that are no list": ("membership", lambda told: told.update(attacks={"a": 1})),
    "a number that is none": ("instance", lambda told: told["tests"][0].update(estimate=float("nan"))),
    "a null distribution with negative counts": ("instance", lambda told: told["tests"][0]["null"].update(counts=[-1])),
    "an access that is a text": ("instance", lambda told: told.update(access="all")),
    "a likeness that is markup": ("instance", lambda told: first_attack(told).update(class_likeness=["<b>"])),
    "a count that is a fraction": ("retrieval", lambda told: told["identity"].update(retrieved=0.5)),
    "queries that are a text": ("retrieval", lambda told: told["black_box"].update(queries_per_class="many")),
    "a masking that is a list": ("retrieval", lambda told: told.update(masking=[1])),
    "a gap that is a text": ("retrieval", lambda told: told["swap_split"].update(gap="0.1")),
}  # fmt: skip


@pytest.mark.parametrize("what", list(MALFORMED))
def test_a_detail_of_another_form_is_one_error_and_never_markup(view: PageView, what: str) -> None:
    family, change = MALFORMED[what]
    with pytest.raises(FormatError) as refused, readable_details("audit.json"):
        render_page(edited(view, family, change), PICTURES)
    assert refused.value.code == "audit_syntax"
