"""What a membership run knows before it says anything: models read, shadows, attacks and outcomes. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from audits.family import Bench
from audits.membership.draws import Judged
from audits.membership.judgement import Bound, Outcome
from audits.membership.scorer import Scored
from audits.membership.scores import Doubles, RecordScores
from audits.membership.settings import MembershipSettings
from audits.membership.shadows import Shadows


@dataclass(frozen=True)
class Read:
    """One model as its scores, or why it has none; and why the labels look unlike its classes."""

    scored: Scored | None
    scores: RecordScores | None
    blind: str | None = None
    strange_labels: str | None = None


@dataclass(frozen=True)
class State:
    """Everything that findings and page are made of."""

    bench: Bench
    settings: MembershipSettings
    judged: Judged
    read: Mapping[str, Read]
    shadows: Shadows | None
    attacks: Mapping[str, Mapping[str, Doubles]]
    outcomes: Mapping[tuple[str, str], Outcome]
    bound: Bound
    unjudged: str | None

    def accuracy(self, name: str) -> tuple[float, float] | None:
        """Of one model on judged members and held-outs; None where it has no scores."""
        scores = self.read[name].scores
        if scores is None or not len(self.judged.rows):
            return None
        right = scores.correct
        return float(right[self.judged.member].mean()), float(right[~self.judged.member].mean())
