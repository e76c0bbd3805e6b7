"""What the Adversarial Robustness Toolbox says of the same model: reported beside our attacks, never deciding.

ART's attacks are learned on some records whose membership is known, and applied to the others. Three of them: a random forest on
the model's own outputs (half of the records known, at most 2000 of each side); the same forest on the outputs of three shadow
models (ART's default number); and its rule that takes correctly classified records for members. All average over easy records,
and miss a leak of few.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from audits.membership.auc import area
from audits.membership.roc import Bools, finest_fpr, interval, operating_point, supports
from audits.membership.scores import Doubles, Integers

_HALF = 48
_MAX_KNOWN = 2000  # of each side: a forest on more takes longer than all our attacks


def art_baselines(
    probabilities: Doubles,
    y: Integers,
    member: Bools,
    *,
    shadow_probabilities: tuple[Doubles, ...] = (),
    inside: Bools | None = None,
    fpr: float,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Figures of ART's attacks, JSON values: area, true positives at ``fpr`` where enough held-outs are left.

    Args:
        probabilities: of the audited model on the judged records, (E, C).
        y: their labels, (E,).
        member: who is a member, (E,).
        shadow_probabilities: of up to three shadows on them, (E, C) each.
        inside: which records trained those, (K, E).
        fpr: as in the policy.
        confidence: of intervals.
        seed: of the forests and of the half that is known.
    """
    known = np.zeros(len(member), dtype=np.bool_)
    rng = np.random.default_rng([seed, _HALF])
    for side in (True, False):
        rows = rng.permutation(np.flatnonzero(member == side))
        known[rows[: min(len(rows) // 2, _MAX_KNOWN)]] = True
    members, others = np.flatnonzero(known & member), np.flatnonzero(known & ~member)
    asked, truth = np.flatnonzero(~known), member[~known]
    learned = learned_forest(
        [(probabilities[members], y[members], probabilities[others], y[others])], probabilities[asked], y[asked], seed=seed
    )
    entries = [_entry("art.black_box_rf", learned, truth, fpr=fpr, confidence=confidence)]
    if shadow_probabilities and inside is not None:
        sets = [(p[m], y[m], p[~m], y[~m]) for p, m in zip(shadow_probabilities, inside, strict=True)]
        entries.append(
            _entry(
                "art.shadow_rf",
                learned_forest(sets, probabilities[asked], y[asked], seed=seed),
                truth,
                fpr=fpr,
                confidence=confidence,
            )
        )
    entries.append(_rule(probabilities[asked], y[asked], truth))
    return entries


def learned_forest(
    sets: list[tuple[Doubles, Integers, Doubles, Integers]], asked: Doubles, labels: Integers, *, seed: int
) -> Doubles:
    """Probability of membership by ART's attack with a forest of fixed seed, (E,).

    Args:
        sets: what it learns from: outputs and labels of members, then of others.
        asked: outputs for the records in question, (E, C).
        labels: of those, (E,).
        seed: of the forest.
    """
    from art.attacks.inference.membership_inference import MembershipInferenceBlackBox

    attack = MembershipInferenceBlackBox(_classifier(asked), attack_model_type="rf")
    attack.attack_model.set_params(random_state=seed % 2**32, n_jobs=1)  # its constructor takes no forest before it is fitted
    inside, inside_y, outside, outside_y = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    attack.fit(pred=inside, y=inside_y, test_pred=outside, test_y=outside_y)
    found = np.asarray(attack.infer(None, y=labels, pred=asked, probabilities=True), dtype=np.float64)
    return found.reshape(len(asked), -1)[:, -1]


def _rule(probabilities: Doubles, y: Integers, truth: Bools) -> dict[str, Any]:
    """ART's rule has no threshold: one pair of rates and their mean."""
    from art.attacks.inference.membership_inference import MembershipInferenceBlackBoxRuleBased

    attack = MembershipInferenceBlackBoxRuleBased(_classifier(probabilities))
    labels = np.eye(probabilities.shape[1], dtype=np.float32)[y]  # of plain labels ART counts those present, and indexes by them
    found = np.asarray(attack.infer(np.arange(len(y), dtype=np.float32)[:, None], labels)).reshape(-1) == 1
    tpr, fpr = float(found[truth].mean()), float(found[~truth].mean())
    return {"attack": "art.rule", "balanced_accuracy": (1 + tpr - fpr) / 2, "at": {"fpr": fpr, "tpr": tpr}}


def _classifier(probabilities: Doubles) -> Any:
    """ART's black box over outputs that were computed before: a record is its row number."""
    from art.estimators.classification import BlackBoxClassifier

    def look_up(rows: Any) -> Any:
        return probabilities[np.asarray(rows).reshape(-1).astype(np.int64)]

    return BlackBoxClassifier(
        look_up, input_shape=(1,), nb_classes=probabilities.shape[1], clip_values=(0, max(1, len(probabilities)))
    )


def _entry(name: str, scores: Doubles, member: Bools, *, fpr: float, confidence: float) -> dict[str, Any]:
    heldouts = int((~member).sum())
    rate = fpr if supports(heldouts, fpr=fpr) else finest_fpr(heldouts)
    point, found = operating_point(scores, member, fpr=rate), area(scores, member)
    return {
        "attack": name,
        "auc": found.value,
        "auc_interval": list(found.interval(confidence=confidence)),
        "tpr_at": [
            {"fpr": rate, "tpr": point.tpr, "interval": list(interval(point, confidence=confidence)), "supported": rate == fpr}
        ],
    }
