"""The end of the page: what the verdict does not say, and where everything came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audits.report import retrieval, words
from audits.report.membership import ATTACK_TESTS
from audits.report.overview import INSTANCE
from audits.report.parts import code, items, pairs, say, section
from audits.report.view import PageView
from device_client.trust.times import format_time

_MAX_FACTS = 40
_MAX_FACT = 200
_MAX_VALUES = 32


def limits(view: PageView) -> str:
    """In plain words, and only about what this run did and left out."""
    return section("What this verdict does not say", items(_limits(view), kind="limits"))


def provenance(view: PageView) -> str:
    """Digests, versions, seeds and counts."""
    data, policy = view.data, view.policy
    records = (
        f"{data.records} ({data.members} members) in {data.classes} classes; compared per class and side: "
        f"{data.drawn_least} to {data.drawn_most}"
    )
    entries = [
        ("Bundle", f"{say(view.bundle)}<br>{code(view.manifest)}"),
        ("Original", code(next((subject.digest for subject in view.subjects if subject.is_original), "unknown"))),
        ("Policy", f"{say(policy.id)} version {policy.version}<br>{code(policy.digest)}"),
        ("Records", f"{say(records)}<br>{code(data.digest)}"),
        ("Seed", str(policy.seed)),
        ("Audited", f"{say(format_time(view.audited_at))}, expires {say(format_time(view.expires))}"),
        ("Tools", say(", ".join(f"{name} {value}" for name, value in sorted(view.tools.items())))),
        ("Evidence (audit.json)", code(view.evidence)),
    ]
    entries += [(words.family(family.family), say(_facts(family.shared))) for family in view.families if _facts(family.shared)]
    return section("Provenance", pairs(entries))


def _limits(view: PageView) -> list[str]:
    ran, texts = view.tests_run, []
    if INSTANCE in ran:
        texts.append(
            "The gradient attacks look for images that are closer to training records than to other records of the same class. A "
            "leak of another form, or deep in a network that is hard to invert, may not show in them."
        )
    if INSTANCE in ran and retrieval.IDENTITY not in ran:
        texts.append(
            "What a whole class looks like is what the model was made to know. It can be recovered from any classifier; it is "
            "shown and not judged. Where one person is one class, that is a leak which this verdict does not cover."
        )
    if retrieval.IDENTITY in ran:
        texts.append(
            "Identity retrieval says that a class can be found from its reconstruction. Whether that matters depends on what a "
            "class is; the policy decides it, not the attack."
        )
    if ran & {retrieval.BLACK_BOX, retrieval.LABEL_ONLY}:
        texts.append("Attacks by queries stop at a fixed number of queries. An attacker with more patience gets sharper images.")
    if not ran.intersection(ATTACK_TESTS):
        texts.append("Membership inference was not tested: whether single records can be recognised by the model's scores is open.")
    elif not ran & {"membership.lira", "membership.rmia"}:
        texts.append(
            "Membership was tested by confidence alone. Attacks with reference models find records that this one misses, by far."
        )
    else:
        texts.append(
            "Membership attacks are as strong as their reference models are many and alike. Rates left of the grey edge are "
            "not known."
        )
    if "attribute.inference" not in ran:
        texts.append("Whether the model gives away a sensitive value of a person whose other values are known was not tested.")
    if view.policy.threat_model != "white_box":
        texts.append(
            f"The policy assumes an attacker of the kind {view.policy.threat_model}. Whoever gets hold of the file is stronger, "
            "and was not considered."
        )
    return [
        *texts,
        "PASSED means that no leak was found at the power which the planted controls show above. It is no proof that none exists.",
        "The comparison holds if the held-out records are a random sample like the training records. Records from another time or "
        "place would look like a leak, or hide one.",
        "Only what was run is judged: other inputs, other versions of the model in the field and what they tell together are not.",
        f"Attackers get better, so the verdict expires on {format_time(view.expires)}.",
    ]


def _facts(shared: Mapping[str, Any]) -> str:
    """What a family says about itself, as far as it is plain: texts, numbers, short lists of them, by name."""
    found = []
    for name, value in sorted(shared.items())[:_MAX_FACTS]:
        values = value if isinstance(value, list | tuple) else [value]
        if 0 < len(values) <= _MAX_VALUES and all(isinstance(item, str | int | float) for item in values):
            found.append(f"{name.replace('_', ' ')}: {', '.join(str(item) for item in values)[:_MAX_FACT]}")
    return "; ".join(found)
