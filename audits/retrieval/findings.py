"""From numbers to findings of the retrieval tests: p-values over all tests, reasons in plain words, numbers for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audits.family import Bench
from audits.finding import Control, FamilyResult, Finding
from audits.retrieval.identity import Gallery, Retrieval
from audits.retrieval.masking import Masking
from audits.retrieval.multiple import holm, over_blocks
from audits.retrieval.relabelled import Judged, Table
from audits.retrieval.scene import Scene
from audits.retrieval.settings import TESTS, RetrievalSettings
from audits.retrieval.sights import BLACK_BOX, LABEL_ONLY, OUTSIDE, Seen
from audits.retrieval.twins import SwapSplit
from audits.targets import Subject

FAMILY = "retrieval"
POWER_UNIT = "share of a record in a template that is otherwise the class average"
Key = tuple[str, str]  # test, subject


def full_name(name: str) -> str:
    """A test's id in findings and policies."""
    return f"inversion.{name}"


@dataclass(frozen=True)
class Asked:
    """Which tests run in a run, given what the attacker holds.

    Attributes:
        tests: those that run.
        inside: whether the attacker holds the file.
        outside: attacks from outside that run.
        threat_model: of the policy.
        blocks: tests with null distributions of their own that are judged; they share alpha.
    """

    tests: tuple[str, ...]
    inside: bool
    outside: tuple[str, ...]
    threat_model: str
    blocks: int

    def decides(self, attack: str, *, blocked: bool) -> bool:
        """Whether finding nothing by this attack needs to mean something: no stronger one can be run."""
        if attack == LABEL_ONLY:
            return self.threat_model == "label_only"
        return self.threat_model == "sealed_api" or (self.threat_model == "white_box" and blocked)

    def why_not(self, test: str) -> str:
        """Why a test is not among those that run."""
        if test == "swap_split" and not self.inside:
            return f"needs the file, which the threat model {self.threat_model} does not give"
        if test == BLACK_BOX and self.threat_model == "label_only":
            return "needs scores, which the threat model label_only does not give"
        return "the policy does not ask for it"


def access(settings: RetrievalSettings, *, threat_model: str) -> Asked:
    """What may run: nothing that needs more than the attacker has."""
    inside = threat_model == "white_box"
    denied = set() if inside else {"swap_split"}
    if threat_model == "label_only":
        denied.add(BLACK_BOX)
    tests = tuple(name for name in TESTS if name in settings.tests and name not in denied)
    outside = tuple(name for name in OUTSIDE if name in tests)
    judged = [bool(outside), "identity" in tests and not settings.identity_is_public, "swap_split" in tests]
    return Asked(tests, inside, outside, threat_model, max(1, sum(judged)))


@dataclass(frozen=True)
class Identities:
    """What images retrieved.

    Attributes:
        gallery: of the held-outs; None where a class has none, or the test does not run.
        retrieved: by subject and attack.
        masking: by subject.
        no_gradient: by subject, why the white-box attacks could not be made; None where they were.
    """

    gallery: Gallery | None
    retrieved: Mapping[str, Mapping[str, Retrieval]]
    masking: Mapping[str, Masking]
    no_gradient: Mapping[str, str | None]

    def strongest(self, subject: str) -> tuple[str, Retrieval]:
        """The attack that retrieved most; the first of equals."""
        return max(self.retrieved[subject].items(), key=lambda item: item[1].retrieved)


@dataclass(frozen=True)
class Outside:
    """Attacks from outside: the images, and how relabelled memberships judge them; ``thin`` says why they cannot."""

    seen: Mapping[str, Seen]
    table: Table
    thin: str | None


def collect(
    bench: Bench,
    scene: Scene,
    settings: RetrievalSettings,
    *,
    asked: Asked,
    identities: Identities,
    outside: Outside,
    twins: SwapSplit,
    controls: tuple[Control, ...],
    powers: Mapping[str, float | None],
) -> FamilyResult:
    """All findings with adjusted p-values, and the page's numbers."""
    raw, identity_block = _identity_p_values(identities, public=settings.identity_is_public)
    relabelled = {(full_name(attack), name): found.p_adjusted for (attack, name), found in outside.table.judged.items()}
    subjects = {subject.id for subject in bench.subjects}
    blocks = [
        identity_block,
        {key: p for key, p in relabelled.items() if key[1] in subjects},
        {(full_name("swap_split"), name): gap.p_adjusted for name, gap in twins.gaps.items()},
    ]
    adjusted = over_blocks(blocks)
    found, detail = {}, {}
    for subject in bench.subjects:
        blocked = identities.no_gradient.get(subject.id) is not None
        made = [
            _identity(subject, scene, settings, asked, identities, outside, raw=raw, adjusted=adjusted),
            *(
                _outside(subject, scene, asked, outside, name, powers, settings, adjusted=adjusted, blocked=blocked)
                for name in OUTSIDE
            ),
            _swap_split(subject, scene, settings, twins, adjusted=adjusted),
        ]
        found[subject.id] = tuple(made)
        detail[subject.id] = _detail(subject, identities, outside, twins)
    deciding = [power for name, power in powers.items() if name == "swap_split" or asked.decides(name, blocked=False)]
    return FamilyResult(
        family=FAMILY,
        findings=found,
        controls=controls,
        power=None if not deciding or None in deciding else max(power for power in deciding if power is not None),
        power_unit=POWER_UNIT,
        detail=detail,
        shared={
            "threat_model": asked.threat_model,
            "tests": [full_name(name) for name in asked.tests],
            "identity_is_public": settings.identity_is_public,
            "power": dict(powers),
            "relabelling_alarms": outside.table.alarms,
            "relabelling_limit": outside.table.alarm_limit,
            "records_per_half": twins.per_half,
        },
    )


def _identity_p_values(identities: Identities, *, public: bool) -> tuple[dict[str, float], dict[Key, float]]:
    """By subject: Bonferroni over its attacks; and Holm over all subjects and attacks, which is a block where it is judged."""
    keys = [(name, attack) for name, found in identities.retrieved.items() for attack in found]
    values = [identities.retrieved[name][attack].p_value for name, attack in keys]
    raw: dict[str, float] = {}
    block: dict[Key, float] = {}
    for name, found in identities.retrieved.items():
        if found:
            raw[name] = min(1.0, len(found) * min(item.p_value for item in found.values()))
    for (name, _), p in zip(keys, holm(values), strict=True):
        key = (full_name("identity"), name)
        block[key] = min(p, block.get(key, 1.0))
    return raw, {} if public else block


def _identity(
    subject: Subject,
    scene: Scene,
    settings: RetrievalSettings,
    asked: Asked,
    identities: Identities,
    outside: Outside,
    *,
    raw: Mapping[str, float],
    adjusted: Mapping[Key, float],
) -> Finding:
    test, statistic = full_name("identity"), "retrieval_rate"
    if "identity" not in asked.tests:
        return Finding(test, 1.0, 1.0, statistic, not_run=asked.why_not("identity"))
    if identities.gallery is None:
        return Finding(test, 1.0, 1.0, statistic, not_run="a class has no held-outs to recognise it by")
    if not identities.retrieved.get(subject.id):
        reason = identities.no_gradient.get(subject.id) or outside.seen[subject.id].blocked or "no attack ran"
        return Finding(test, 1.0, 1.0, statistic, blind=(reason,))
    _, best = identities.strongest(subject.id)
    masking = identities.masking.get(subject.id)
    public = settings.identity_is_public
    return Finding(
        test,
        1.0 if public else raw[subject.id],
        1.0 if public else adjusted[test, subject.id],
        statistic,
        estimate=best.retrieved / scene.classes,
        interval=best.interval,
        tolerated=None if public else settings.max_retrieval,
        doubts=(masking.doubt,) if masking is not None and masking.doubt else (),
    )


def _outside(
    subject: Subject,
    scene: Scene,
    asked: Asked,
    outside: Outside,
    name: str,
    powers: Mapping[str, float | None],
    settings: RetrievalSettings,
    *,
    adjusted: Mapping[Key, float],
    blocked: bool,
) -> Finding:
    test, statistic = full_name(name), "mean_gap"
    if name not in asked.outside:
        return Finding(test, 1.0, 1.0, statistic, not_run=asked.why_not(name))
    if outside.thin is not None:
        return Finding(test, 1.0, 1.0, statistic, not_run=outside.thin)
    seen = outside.seen[subject.id]
    if seen.blocked is not None:
        return Finding(test, 1.0, 1.0, statistic, blind=(seen.blocked,))
    judged = outside.table.judged[name, subject.id]
    undone = []
    if asked.decides(name, blocked=blocked):
        share, power = seen.sights[name].converged_share, powers.get(name)
        if share < scene.policy.inversion.min_converged_share:
            undone.append(f"{name} converged on {share:.0%} of the classes only")
        if power is None or power > settings.planted_required:
            undone.append(f"{name} does not see a planted leak of strength {settings.planted_required:g}")
    return Finding(
        test,
        judged.p_value,
        adjusted[test, subject.id],
        statistic,
        estimate=judged.gap,
        interval=judged.interval,
        undone=tuple(undone),
    )


def _swap_split(
    subject: Subject, scene: Scene, settings: RetrievalSettings, twins: SwapSplit, *, adjusted: Mapping[Key, float]
) -> Finding:
    test, statistic = full_name("swap_split"), "swap_split_gap"
    if subject.id in twins.not_run:
        return Finding(test, 1.0, 1.0, statistic, not_run=twins.not_run[subject.id])
    gap, pair = twins.gaps[subject.id], twins.twins[subject.id]
    needed = scene.policy.inversion
    share = min(side.converged_share(min_confidence=needed.min_confidence) for side in (pair.first, pair.second))
    masked = sorted({*pair.first.masked, *pair.second.masked})
    # a masked attack is no loss where another one on the same twin reaches as far, or the original's images stand in
    undone = (f"attacks on a twin converged on {share:.0%} of the classes only",) if share < needed.min_converged_share else ()
    doubts = (f"gradients of the twins are masked for {', '.join(masked)}",) if gap.attack in masked else ()
    return Finding(
        test,
        gap.p_value,
        adjusted[test, subject.id],
        statistic,
        estimate=gap.gap,
        interval=gap.interval,
        tolerated=settings.max_gap,
        undone=undone,
        doubts=doubts,
    )


def _detail(subject: Subject, identities: Identities, outside: Outside, twins: SwapSplit) -> dict[str, Any]:
    """What the page shows of one subject, by test; tests that did not run are absent."""
    detail: dict[str, Any] = {}
    if identities.retrieved.get(subject.id):
        detail["identity"] = _identity_detail(subject.id, identities)
    if masking := identities.masking.get(subject.id):
        detail["masking"] = {"own": masking.own, "naive": masking.naive, "transfer": masking.transfer}
    for name, sight in outside.seen[subject.id].sights.items():
        found = identities.retrieved.get(subject.id, {}).get(name)
        classes = len(sight.queries)
        detail[name] = {
            "queries_per_class": sight.asked / classes,
            "most_queries": int(sight.queries.max()),
            "confidence": [float(value) for value in sight.images.best_confidence()],
            "converged_share": sight.converged_share,
            "retrieved": None if found is None else found.retrieved,
            "classes": classes,
            "batched": outside.seen[subject.id].batched,
        } | _judged_detail(outside.table.judged.get((name, subject.id)))
    if gap := twins.gaps.get(subject.id):
        detail["swap_split"] = {
            "attack": gap.attack,
            "gap": gap.gap,
            "interval": list(gap.interval),
            "delta": gap.delta,
            "delta_interval": None if gap.delta_interval is None else list(gap.delta_interval),
            "by_class": list(gap.by_class),
        }
    return detail


def _identity_detail(subject: str, identities: Identities) -> dict[str, Any]:
    attack, best = identities.strongest(subject)
    classes = len(best.nearest)
    return {
        "attack": attack,
        "retrieved": best.retrieved,
        "classes": classes,
        "interval": list(best.interval),
        "chance": 1.0 / classes,
        "p_value": best.p_value,
        "by_attack": {name: found.retrieved for name, found in identities.retrieved[subject].items()},
        "no_gradient": identities.no_gradient.get(subject),
    }


def _judged_detail(judged: Judged | None) -> dict[str, Any]:
    if judged is None:
        return {}
    return {
        "gap": judged.gap,
        "interval": list(judged.interval),
        "delta": judged.delta,
        "delta_interval": None if judged.delta_interval is None else list(judged.delta_interval),
        "p_value": judged.p_value,
        "by_class": list(judged.by_class),
    }
