"""Attackers with the model and attackers without it, who know the same of a record: all but one column, and the label.

Both learn on held-outs only, in folds: a held-out is guessed by those who did not see it, a member by the mean of all folds. So
members and held-outs are guessed with the same effort.

- Without: the most frequent value, logistic regression, gradient boosting. The best on held-outs is *the* baseline.
- With: ``confidence`` takes the value under which the model is surest of the record's label (the baseline breaks ties),
  ``likelihood`` multiplies that by the baseline's belief (Fredrikson 2014), ``fitted`` learns from the model's answers to all
  values beside all else.

None of them has seen the model's output on the real record: who has the file but not the record cannot compute it. Where
outputs are logged, it is known, and any model that uses the column gives it away, member or not.
Deterministic in the seed, one thread.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audits.data import Bools, Floats, Integers

Doubles = npt.NDArray[np.float64]
ATTACKS = ("confidence", "likelihood", "fitted")
_FLOOR = 1e-6
_MAX_CLASSES = 64  # of labels; more are given as one number


@dataclass(frozen=True)
class Known:
    """What every attacker knows.

    Attributes:
        features: all columns but the sensitive one, and the label, (N, F').
        member: (N,).
        folds: which fold a held-out is in, -1 for members, (N,).
        values: how many values the column has.
    """

    features: Doubles
    member: Bools
    folds: Integers
    values: int


@dataclass(frozen=True)
class Baseline:
    """The best guess without the model.

    Attributes:
        name: which of the three.
        beliefs: probability of each value, (N, K).
    """

    name: str
    beliefs: Doubles

    @property
    def guesses(self) -> Integers:
        """Codes, (N,)."""
        guessed: Integers = self.beliefs.argmax(axis=1).astype(np.int64)
        return guessed


def known_to_all(x: Floats, y: Integers, member: Bools, *, column: int, values: int, folds: int, seed: int) -> Known:
    """Everything but the column.

    Args:
        x: records, (N, F).
        y: labels, (N,).
        member: (N,).
        column: index of the sensitive one.
        values: how many it has.
        folds: parts of the held-outs.
        seed: of the parts.
    """
    others = np.delete(x, column, axis=1).astype(np.float64)
    classes = int(y.max()) + 1
    label = np.eye(classes)[y] if classes <= _MAX_CLASSES else y[:, None].astype(np.float64)
    part = np.full(len(y), -1, dtype=np.int64)
    heldouts = np.flatnonzero(~member)
    part[np.random.default_rng([seed, 21]).permutation(heldouts)] = np.arange(len(heldouts)) % folds
    return Known(np.concatenate([others, label], axis=1), member, part, values)


def best_baseline(known: Known, codes: Integers, *, seed: int) -> Baseline:
    """The best of three on held-outs that it did not see; ties go to the simpler one."""
    made = [Baseline(name, _cross_fitted(make, known, known.features, codes)) for name, make in _models(seed)]
    outside = ~known.member
    right = [float((item.guesses == codes)[outside].mean()) for item in made]
    return made[int(np.argmax(right))]


def attack_guesses(known: Known, codes: Integers, answers: Doubles, baseline: Baseline, *, seed: int) -> dict[str, Integers]:
    """Guessed codes of all records, (N,), by attack.

    Args:
        known: see ``Known``.
        codes: the truth; only those of held-outs are learned from.
        answers: of the model, ``queries.label_likelihoods``, (N, K).
        baseline: beliefs without the model.
        seed: of the boosting.
    """
    prior = np.log(np.maximum(baseline.beliefs, _FLOOR))
    beside = np.concatenate([known.features, answers, answers - answers.max(axis=1, keepdims=True)], axis=1)
    fitted = _cross_fitted(dict(_models(seed))["boosting"], known, beside, codes)
    # answers that differ by rounding alone are ties
    tied = np.where(answers >= answers.max(axis=1, keepdims=True) - 1e-5, prior, -np.inf)
    scores = {"confidence": tied, "likelihood": prior + answers, "fitted": fitted}
    return {name: scores[name].argmax(axis=1).astype(np.int64) for name in ATTACKS}


def _models(seed: int) -> tuple[tuple[str, Callable[[], Any]], ...]:
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return (
        ("majority", lambda: DummyClassifier(strategy="prior")),
        ("logistic", lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))),
        (
            "boosting",
            lambda: HistGradientBoostingClassifier(
                max_iter=40, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=10, early_stopping=False, random_state=seed
            ),
        ),
    )


def _cross_fitted(make: Callable[[], Any], known: Known, features: Doubles, codes: Integers) -> Doubles:
    """Beliefs, (N, K): of held-outs by the model that did not see their fold, of members by the mean over folds."""
    from threadpoolctl import threadpool_limits

    beliefs = np.zeros((len(codes), known.values))
    parts = range(int(known.folds.max()) + 1)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a regression that has not quite converged is still a baseline
        for part in parts:
            learned = (known.folds >= 0) & (known.folds != part)
            if len(np.unique(codes[learned])) < 2:
                found = np.zeros((len(codes), known.values))
                found[:, codes[learned][0]] = 1.0
            else:
                model = make().fit(features[learned], codes[learned])
                found = np.zeros((len(codes), known.values))
                found[:, model.classes_] = model.predict_proba(features)
            beliefs[known.folds == part] = found[known.folds == part]
            beliefs[known.member] += found[known.member] / len(parts)
    return beliefs
