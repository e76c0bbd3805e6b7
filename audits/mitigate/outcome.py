"""The result of a search as JSON and as text: every fix with accuracy and leak, the frontier, and what passed.

No record is in it. The trained models of the trials lie in their own folder; only the one that passed is written beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audits.mitigate.search import Ending, SearchResult, SearchSettings, Standing
from audits.mitigate.trials import Trial
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.text import printable

SCHEMA = "sealift.mitigation/1"
_TOLD = {
    Ending.PASSED: "this fix passes with fresh training and audit seeds",
    Ending.NONE_PASSES: "none of the fixes that were tried passes within the accuracy budget",
    Ending.NOT_NEEDED: "the original passes this audit: there is nothing to mitigate",
    Ending.UNFINISHED: "the time ran out before a fix was confirmed; the same command goes on where it stopped",
}


@dataclass(frozen=True)
class Outcome:
    """A search with what it was about.

    Attributes:
        about: digests and counts of the inputs, JSON values.
        unavailable: kinds that were not tried, with reasons.
    """

    result: SearchResult
    settings: SearchSettings
    about: Mapping[str, Any]
    unavailable: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The document; the same inputs and a search that was not cut short give the same one."""
        chosen = self.result.chosen
        edge = {item.fix.label for item in frontier(self.result.standings)}
        return {
            "schema": SCHEMA,
            "ending": self.result.ending.value,
            "told": _TOLD[self.result.ending],
            "settings": asdict(self.settings),
            "about": dict(self.about),
            "chosen": None if chosen is None else _chosen(chosen),
            "best": None if self.result.best is None else self.result.best.fix.label,
            "fixes": [_standing(item, on_frontier=item.fix.label in edge) for item in self.result.standings],
            "unavailable": dict(self.unavailable),
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.to_json())

    def to_text(self) -> str:
        """For people, on a terminal."""
        lines = [f"{'fix':<24}{'loss':>8}  {'interval':<18}{'leak':>8}  passed  state"]
        edge = {item.fix.label for item in frontier(self.result.standings)}
        for item in self.result.standings:
            mark = "*" if item.fix.label in edge else " "
            loss = "" if item.loss is None else f"{item.loss.estimate:+.3f}"
            interval = "" if item.loss is None else f"[{item.loss.interval[0]:+.3f}, {item.loss.interval[1]:+.3f}]"
            leak = "" if item.leak is None else f"{item.leak:.4f}"
            state = item.state.value + (f": {item.why}" if item.why else "")
            passed = f"{item.passed}/{len(item.trials)}"
            lines.append(f"{mark}{item.fix.label:<23}{loss:>8}  {interval:<18}{leak:>8}  {passed:<7} {printable(state)}")
        lines += [f" {kind:<23}not tried: {reason}" for kind, reason in self.unavailable.items()]
        lines.append("* on the frontier: no other fix has both less loss and less leak")
        return "\n".join([*lines, self.headline()])

    def headline(self) -> str:
        """One sentence."""
        chosen, best = self.result.chosen, self.result.best
        told = _TOLD[self.result.ending]
        if chosen is not None:
            sealed = "" if chosen.fix.holds_for_file else "; it holds for sealed deployments only"
            return f"PASSED {chosen.fix.label}: {told} ({chosen.fix.told}){sealed}"
        shown = f"; the best was {best.fix.label}" if best is not None else ""
        return f"{told}{shown}"


def frontier(standings: Sequence[Standing]) -> tuple[Standing, ...]:
    """Those that no other beats in loss and leak at once, by loss."""
    found = [(item.loss.estimate, item.leak, item) for item in standings if item.loss is not None and item.leak is not None]

    def beaten(loss: float, leak: float) -> bool:
        return any(a <= loss and b <= leak and (a, b) != (loss, leak) for a, b, _ in found)

    kept = [entry for entry in found if not beaten(entry[0], entry[1])]
    return tuple(item for _, _, item in sorted(kept, key=lambda entry: (entry[0], entry[1])))


def _chosen(item: Standing) -> dict[str, Any]:
    model = item.confirm[0].model
    return {
        "fix": item.fix.label,
        "told": item.fix.told,
        "holds_for_file": item.fix.holds_for_file,
        "model": str(Digest.of(model)),
        "size_bytes": len(model),
    }


def _standing(item: Standing, *, on_frontier: bool) -> dict[str, Any]:
    return {
        **item.fix.to_json(),
        "label": item.fix.label,
        "told": item.fix.told,
        "holds_for_file": item.fix.holds_for_file,
        "state": item.state.name.lower(),
        "why": item.why,
        "loss": None if item.loss is None else item.loss.estimate,
        "loss_interval": None if item.loss is None else list(item.loss.interval),
        "leak": item.leak,
        "frontier": on_frontier,
        "search": [_trial(trial) for trial in item.search],
        "confirm": [_trial(trial) for trial in item.confirm],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    judged = trial.judged
    return {
        "model": str(Digest.of(trial.model)),
        "size_bytes": len(trial.model),
        "accuracy_members": trial.accuracy_members,
        "accuracy_heldouts": trial.accuracy,
        "verdict": judged.verdict.value,
        "leak": judged.leak,
        "unit": judged.unit,
        "p_value": judged.p_value,
        "reasons": list(judged.reasons),
    }
