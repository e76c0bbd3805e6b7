"""What the policy fixes for membership tests, before the run: budgets, the bound, the controls. Values and their checks only.

What the tiers change in these defaults stands in ``audits/tiers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from device_client.errors import UsageError

TESTS = ("threshold", "rmia", "lira", "joint")


@dataclass(frozen=True)
class MembershipSettings:
    """Budgets, bounds and controls; the default is the standard tier.

    Attributes:
        fpr: the false positive rate at which the true positive rate is judged.
        tolerated: the true positive rate at ``fpr`` that is accepted.
        report_fprs: further false positive rates that are shown.
        shadows: models trained for each repeat; 0 for none.
        repeats: independent sets of shadows; the verdict uses all together, the page shows each alone.
        matched_shadows: compress every shadow as the variants were, where a recipe is given; else float shadows serve all.
        min_records_per_class: members and held-outs each.
        max_records: judged at most, members and held-outs together; all records train the shadows.
        trainer_gap: by how much accuracy of shadows and audited model may differ, on records inside and outside the training.
        planted_shares: shares of the members whose scores a planted leak lifts, growing.
        planted_required: from this share on a planted leak must be caught.
        canary_copies: how often a mislabelled record is repeated in the training of a twin, growing; empty for no twins.
        canaries: mislabelled records in each twin.
        untrained_twins: of every model; they must stay quiet.
        relabellings: fresh permuted memberships that must stay quiet.
        worst: records named for each attack.
        art_baseline: run the attacks of the Adversarial Robustness Toolbox beside ours.
    """

    fpr: float = 0.01
    tolerated: float = 0.05
    report_fprs: tuple[float, ...] = (0.001, 0.01, 0.1)
    shadows: int = 16
    repeats: int = 1
    matched_shadows: bool = True
    min_records_per_class: int = 2
    max_records: int = 20_000
    trainer_gap: float = 0.1
    planted_shares: tuple[float, ...] = (0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5)
    planted_required: float = 0.3
    canary_copies: tuple[int, ...] = (1, 8)
    canaries: int = 100
    untrained_twins: int = 1
    relabellings: int = 100
    worst: int = 20
    art_baseline: bool = True


DEFAULT = MembershipSettings()


def read(section: Mapping[str, Any], *, where: str) -> MembershipSettings:
    """The settings of a policy's ``[membership]`` table; a missing key takes its default, which is the standard tier's.

    Raises:
        UsageError: an unknown key (``policy_unknown_key``), a wrong type or a value out of range (``policy_value``).
    """
    names = [field.name for field in fields(MembershipSettings)]
    unknown = sorted(set(section) - set(names))
    if unknown:
        raise UsageError(
            "unknown key", code="policy_unknown_key", where=where, actual=unknown[0], expected=", ".join(sorted(names))
        )
    made = replace(DEFAULT, **{name: _READERS[name](section[name], name, where) for name in names if name in section})
    if made.planted_required > made.planted_shares[-1]:
        raise _wrong(
            "planted_required", where, f"at most {made.planted_shares[-1]}, the largest planted share", made.planted_required
        )
    if made.planted_required <= made.tolerated:
        raise _wrong("planted_required", where, f"above tolerated, which is {made.tolerated}", made.planted_required)
    return made


def _number(low: float, high: float) -> Any:
    def check(value: object, name: str, where: str) -> float:
        if type(value) not in {int, float} or not low <= float(value) <= high:  # type: ignore[arg-type]  # narrowed by type()
            raise _wrong(name, where, f"a number in {low}..{high}", value)
        return float(value)  # type: ignore[arg-type]  # as above

    return check


def _integer(low: int, high: int) -> Any:
    def check(value: object, name: str, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(name, where, f"an integer in {low}..{high}", value)
        return value

    return check


def _flag(value: object, name: str, where: str) -> bool:
    if type(value) is not bool:
        raise _wrong(name, where, "true or false", value)
    return value


def _growing(item: Any, *, least: int) -> Any:
    def check(value: object, name: str, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= 32:
            raise _wrong(name, where, f"{least} to 32 numbers", value)
        made = tuple(item(entry, name, where) for entry in value)
        if tuple(sorted(set(made))) != made:
            raise _wrong(name, where, "growing numbers", value)
        return made

    return check


def _wrong(name: str, where: str, expected: str, actual: object) -> UsageError:
    return UsageError(f"wrong value for {name}", code="policy_value", where=where, expected=expected, actual=repr(actual)[:80])


_READERS: Mapping[str, Any] = {
    "fpr": _number(1e-5, 0.5),
    "tolerated": _number(1e-4, 0.9),
    "report_fprs": _growing(_number(1e-5, 0.5), least=0),
    "shadows": _integer(0, 1024),
    "repeats": _integer(1, 16),
    "matched_shadows": _flag,
    "min_records_per_class": _integer(1, 10_000),
    "max_records": _integer(20, 1_000_000),
    "trainer_gap": _number(0.0, 1.0),
    "planted_shares": _growing(_number(1e-3, 1.0), least=1),
    "planted_required": _number(1e-3, 1.0),
    "canary_copies": _growing(_integer(1, 1000), least=0),
    "canaries": _integer(10, 100_000),
    "untrained_twins": _integer(0, 64),
    "relabellings": _integer(20, 10_000),
    "worst": _integer(0, 1000),
    "art_baseline": _flag,
}
