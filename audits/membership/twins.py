"""Twins with canaries: models trained on some records with wrong labels, to see whether the attacks notice.

All twins of a run share one training set and one set of canaries, so that only the number of copies differs. A record outside
the training set is asked for a wrong label, too: those are the held-outs of this control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.bridge.graph import BridgeError
from audits.class_scores import told_briefly
from audits.data import AuditData, Floats, Integers
from audits.membership.draws import Bools, Judged, shadow_masks, training_seed
from audits.membership.scorer import score_model
from audits.membership.scores import Doubles, record_scores
from audits.membership.settings import MembershipSettings
from audits.trainer import Training
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model

_TWIN, _WRONG, _CANARY = 42, 43, 44


@dataclass(frozen=True)
class Asked:
    """The judged records as every shadow and twin is asked about them: x, (E, ...); true and wrong labels, (E,)."""

    rows: Integers
    x: Floats
    y: Integers
    wrong: Integers


@dataclass(frozen=True)
class Twin:
    """A model trained on some records with wrong labels, and how sure it is of those labels.

    Attributes:
        copies: how often each of them was repeated.
        inside: judged records that are canaries in its training, (E,).
        outside: judged records that were not in it, with a wrong label too, (E,).
        confidence: of the wrong label, (E,).
        fitted: share of its canaries that it gives the wrong label to.
    """

    copies: int
    inside: Bools
    outside: Bools
    confidence: Doubles
    fitted: float


@dataclass(frozen=True)
class TwinPlan:
    """A twin before its training.

    ``mask``: its training set; ``canaries``: rows of it that get a wrong label, ``copies`` times each.
    """

    copies: int
    mask: Bools
    canaries: npt.NDArray[np.int64]

    def training(self, records: int, *, seed: int) -> Training:
        """Rows of the records, canaries left out, and of the wrongly labelled copies that stand after them."""
        plain = self.mask.copy()
        plain[self.canaries] = False
        added = np.repeat(records + np.arange(len(self.canaries), dtype=np.int64), self.copies)
        return Training(np.concatenate([np.flatnonzero(plain), added]), seed)

    def judge(self, model: bytes, asked: Asked) -> Twin:
        """What the trained twin says of the wrong labels."""
        where = f"canary twin {self.copies}"
        found = trained_scores(check_model(model, where=where), asked, where=where)
        scores = record_scores(found, asked.wrong)
        inside = np.isin(asked.rows, self.canaries)
        return Twin(self.copies, inside, ~self.mask[asked.rows], scores.confidence, float(scores.correct[inside].mean()))


def plan_twins(data: AuditData, judged: Judged, settings: MembershipSettings, *, share: float, seed: int) -> list[TwinPlan]:
    """One plan for each number of copies; canaries are judged records. None without shadows: the attacks need them."""
    if not settings.canary_copies or settings.shadows == 0:
        return []
    mask = shadow_masks(data.y, count=1, share=share, seed=training_seed(seed, _TWIN))[0]
    candidates = np.random.default_rng([seed, _CANARY]).permutation(judged.rows[mask[judged.rows]])
    canaries = np.sort(candidates[: min(settings.canaries, len(candidates) // 4)])
    return [TwinPlan(copies, mask, canaries) for copies in settings.canary_copies] if len(canaries) else []


def wrong_labels(data: AuditData, *, seed: int) -> Integers:
    """A label that is not the record's, for every record."""
    rng = np.random.default_rng([seed, _WRONG])
    labels: Integers = (data.y + rng.integers(1, max(2, data.classes), size=len(data.y))) % data.classes
    return labels


def trained_scores(model: CheckedModel, asked: Asked, *, where: str) -> Doubles:
    """Log-probabilities of a trained model, (N, C).

    Raises:
        UsageError: it gives no class scores (``trainer_model``): the training went wrong, and not the audited model.
    """
    try:
        return score_model(model, asked.x).log_probabilities
    except BridgeError as e:
        raise UsageError(
            "the trained model gives no class scores",
            code="trainer_model",
            where=where,
            actual=told_briefly(e),
            hint="let the training make a model like the audited one; NaN means that it diverged",
        ) from e
