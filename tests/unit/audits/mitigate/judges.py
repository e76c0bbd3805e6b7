"""A small membership judge for the mitigation tests: offline LiRA with shadows that got the same fix as the target.

It stands in for the membership suite: one statistic (AUC), one bound, no controls of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from audits.data import AuditData
from audits.mitigate.accuracy import class_scores
from audits.mitigate.judge import Effort, Judged
from audits.trainer import Trainer
from audits.verdict import Verdict
from tests.unit.audits import models

BOUND = 0.56  # on the AUC: its null standard deviation with 300 and 300 records is 0.024


class ShadowJudge:
    """FAILED where the area under the ROC is above ``BOUND``."""

    identity = "shadows"

    def __init__(self, *, shadows: int = 4) -> None:
        self.shadows = shadows
        self.trained: list[int] = []

    def __call__(self, model: bytes, *, data: AuditData, seed: int, trainer: Trainer | None, effort: Effort) -> Judged:
        assert trainer is not None
        rng = np.random.default_rng([seed, 99])
        outside = np.full((self.shadows, len(data.y)), np.nan)
        for row in range(self.shadows):
            inside = rng.permutation(len(data.y))[: len(data.y) // 2]
            shadow_seed = 10_000 + 100 * seed + row
            self.trained.append(shadow_seed)
            scores = confidence(trainer.train(data.x[inside], data.y[inside], seed=shadow_seed), data)
            out = np.ones(len(data.y), dtype=bool)
            out[inside] = False
            outside[row, out] = scores[out]
        seen = ~np.isnan(outside).all(axis=0)
        score = confidence(model, data)[seen] - np.nanmean(outside[:, seen], axis=0)
        auc = area(score, data.member[seen])
        verdict = Verdict.FAILED if auc > BOUND else Verdict.PASSED
        return Judged(verdict, auc, "area under the ROC of LiRA", None, (f"AUC {auc:.3f}",))


def confidence(model: bytes, data: AuditData) -> Any:
    """Logit of the probability of the own label, (N,)."""
    own = class_scores(models.checked(model), data.x)[np.arange(len(data.y)), data.y].astype(np.float64)
    own = np.clip(own, 1e-6, 1 - 1e-6)
    return np.log(own) - np.log1p(-own)


def area(score: Any, member: Any) -> float:
    ranks = score.argsort().argsort() + 1.0
    n, m = int(member.sum()), int((~member).sum())
    return float((ranks[member].sum() - n * (n + 1) / 2) / (n * m))
