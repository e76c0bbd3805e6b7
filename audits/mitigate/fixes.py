"""The fixes that a search may try, and which of them this auditor can have.

A fix is a kind and a strength. Three sorts hold against whoever has the file: those that the auditor's own training entry
point applies (``fix=``), those that need any training at all, and those made from the original's bytes alone. The fourth
sort changes nothing but the last nodes of the graph. An attacker with the file cuts these off, so they are offered only
where the policy says that the model is sealed, and they say so wherever they are shown.

Pure: what is available is decided from values; the training itself is in ``workshop``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from device_client.bundle.strict_json import canonical_json

OUTPUT_ONLY = "an attacker with the file cuts these off"
SEALED = ("sealed_api", "label_only")
_DP_CLIP = 1.0


class Needs(Enum):
    """What a fix cannot do without."""

    FIX = "a training entry point that takes `fix`"
    TRAINER = "a training entry point"
    NOTHING = "the original's bytes"
    SEAL = "a sealed deployment"


@dataclass(frozen=True)
class Kind:
    """One sort of fix.

    Attributes:
        name: stable, in results and caches.
        strengths: tried values, the mildest first; their unit is in ``told``.
        needs: what it cannot do without.
        told: what it does, in plain words; ``{}`` is the strength.
        training: what the entry point gets as ``fix``; empty where it gets none.
        unlabelled: it learns from records that are no members.
        weak: known not to hold; it is in the list as a baseline.
    """

    name: str
    strengths: tuple[float, ...]
    needs: Needs
    told: str
    training: Callable[[float], Mapping[str, Any]] = lambda _: {}
    unlabelled: bool = False
    weak: bool = False


KINDS = (
    Kind("none", (0.0,), Needs.NOTHING, "the original as it is"),
    Kind("retrain", (0.0,), Needs.TRAINER, "trained again, nothing changed", weak=True),
    Kind("early_stop", (0.5, 0.2, 0.08, 0.03), Needs.FIX, "{:g} of the epochs", lambda s: {"epochs_factor": s}),
    Kind("narrow", (0.5, 0.2), Needs.FIX, "{:g} of the width", lambda s: {"width_factor": s}),
    Kind("narrow_early", (0.2, 0.1), Needs.FIX, "{:g} of width and epochs", lambda s: {"width_factor": s, "epochs_factor": s}),
    Kind("negative_smoothing", (0.05, 0.2), Needs.FIX, "label smoothing of -{:g}", lambda s: {"label_smoothing": -s}),
    Kind("dp_sgd", (0.5, 1.0, 2.0), Needs.FIX, "DP-SGD, noise {:g}", lambda s: {"dp": {"noise": s, "clip": _DP_CLIP}}),
    Kind("weight_decay", (1e-3, 1e-2), Needs.FIX, "weight decay {:g}", lambda s: {"weight_decay": s}, weak=True),
    Kind("dropout", (0.5,), Needs.FIX, "dropout {:g}", lambda s: {"dropout": s}, weak=True),
    Kind(
        "distil_own",
        (0.0,),
        Needs.TRAINER,
        "own training on records that are no members, labelled by the original",
        unlabelled=True,
    ),
    Kind(
        "distil_early",
        (0.2, 0.05),
        Needs.FIX,
        "as distil_own, with {:g} of the epochs",
        lambda s: {"epochs_factor": s},
        unlabelled=True,
    ),
    Kind("distil", (64.0, 16.0), Needs.NOTHING, "built-in student of width {:g} that sees no member", unlabelled=True),
    Kind("prune", (0.5, 0.7, 0.85), Needs.NOTHING, "{:.0%} of the weights removed, no training afterwards"),
    Kind("temperature", (5.0,), Needs.SEAL, "scores at temperature {:g}"),
    Kind("rounding", (1.0,), Needs.SEAL, "scores rounded to {:g} decimals"),
    Kind("top_1", (0.0,), Needs.SEAL, "all scores but the highest set to zero"),
    Kind("label_only", (0.0,), Needs.SEAL, "the class alone, as 0 and 1"),
)
_BY_NAME = {kind.name: kind for kind in KINDS}
NONE, RETRAIN = "none", "retrain"


@dataclass(frozen=True)
class Fix:
    """A kind at one strength."""

    kind: str
    strength: float

    @property
    def about(self) -> Kind:
        """The kind's entry in the list."""
        return _BY_NAME[self.kind]

    @property
    def label(self) -> str:
        """Short and unique: the kind, and the strength where there is one."""
        return self.kind if not self.strength else f"{self.kind}:{self.strength:g}"

    @property
    def told(self) -> str:
        """What it does, in plain words; says so where it is a baseline or holds for sealed models alone."""
        text = self.about.told.format(self.strength)
        if self.about.needs is Needs.SEAL:
            return f"{text} ({OUTPUT_ONLY})"
        return f"{text} (baseline)" if self.about.weak else text

    @property
    def holds_for_file(self) -> bool:
        """False where whoever has the file undoes it."""
        return self.about.needs is not Needs.SEAL

    @property
    def training(self) -> Mapping[str, Any]:
        """What the entry point gets as ``fix``."""
        return self.about.training(self.strength)

    def to_json(self) -> dict[str, Any]:
        """As results and caches name it."""
        return {"kind": self.kind, "strength": self.strength, "training": dict(self.training)}

    def key(self) -> bytes:
        """Canonical bytes for a digest."""
        return canonical_json(self.to_json())


@dataclass(frozen=True)
class Offer:
    """What this search can try, and why it cannot try the rest.

    Attributes:
        fixes: in the order of the list; ``none`` first.
        unavailable: kind to reason.
    """

    fixes: tuple[Fix, ...]
    unavailable: Mapping[str, str]


def offer_fixes(
    *, trains: bool, takes_fix: bool, has_dp: bool, unlabelled: str | None, threat_model: str, only: tuple[str, ...] = ()
) -> Offer:
    """Sorts the list into what can be tried and what cannot.

    Args:
        trains: there is a training entry point.
        takes_fix: it has the keyword ``fix``.
        has_dp: the extra ``dp`` is installed.
        unlabelled: why there are no records for a student, or None where there are.
        threat_model: of the policy.
        only: kinds to try; all where empty.

    Raises:
        ValueError: ``only`` names an unknown kind.
    """
    if unknown := set(only) - set(_BY_NAME):
        raise ValueError(f"unknown fixes: {', '.join(sorted(unknown))}")
    fixes: list[Fix] = []
    unavailable: dict[str, str] = {}
    for kind in KINDS:
        reason = _obstacle(
            kind, trains=trains, takes_fix=takes_fix, has_dp=has_dp, unlabelled=unlabelled, threat_model=threat_model
        )
        if only and kind.name not in {NONE, *only}:
            reason = "not asked for"
        if reason is None:
            fixes += [Fix(kind.name, strength) for strength in kind.strengths]
        else:
            unavailable[kind.name] = reason
    return Offer(tuple(fixes), unavailable)


def _obstacle(kind: Kind, *, trains: bool, takes_fix: bool, has_dp: bool, unlabelled: str | None, threat_model: str) -> str | None:
    if kind.needs is Needs.SEAL and threat_model not in SEALED:
        return f"the policy's threat model is {threat_model}: {OUTPUT_ONLY}"
    if kind.needs in {Needs.TRAINER, Needs.FIX} and not trains:
        return "no training entry point was given"
    if kind.needs is Needs.FIX and not takes_fix:
        return "the training entry point does not take `fix`"
    if kind.name == "dp_sgd" and not has_dp:
        return "NOT AVAILABLE: Opacus is not installed; pip install 'sealift[dp]'"
    return unlabelled if kind.unlabelled else None
