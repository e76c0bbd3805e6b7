"""Shadow models: trained like the audited one on random shares of the same records, compressed like the variants, and scored.

They show how a record looks to models that saw it and to models that did not. The twins of the canary control are trained in the
same go, because starting a child and importing its framework costs more than a small training.

Cost: one training for each shadow and twin; one compression for each shadow where they are matched; one pass of the runtime over
all records for each model made. Nothing but per-record statistics is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audits.compressor import Compressor, compress_all
from audits.data import AuditData, Integers
from audits.membership.draws import Bools, shadow_masks
from audits.membership.scorer import score_model
from audits.membership.scores import Doubles, record_scores
from audits.membership.settings import MembershipSettings
from audits.trainer import Trainer, Training, isolation_of, train_all
from device_client.inference.walker import CheckedModel, check_model

Report = Callable[[str], None]
FLOAT = "float"
_TWIN, _WRONG, _CANARY = 42, 43, 44
_KEPT = 3
_SHARES = (0.25, 0.75)  # of the records that train a shadow; outside these bounds one side would have too few shadows


@dataclass(frozen=True)
class Twin:
    """A model trained on some records with wrong labels, and how sure it is of those labels.

    Attributes:
        copies: how often each of them was repeated.
        inside: canaries in its training, (N,).
        outside: records that were not in it, with a wrong label too, (N,).
        confidence: of the wrong label, (N,).
        fitted: share of its canaries that it gives the wrong label to.
    """

    copies: int
    inside: Bools
    outside: Bools
    confidence: Doubles
    fitted: float


@dataclass(frozen=True)
class Shadows:
    """What all shadows say about all records.

    Attributes:
        inside: which records trained which shadow, (K, N).
        repeat: the set that each shadow belongs to, (K,).
        confidence, log_probability: (K, N) by ``float`` and by the variants whose compression they went through.
        wrong: of the float shadows about the canaries' wrong labels, (K, N); None without twins.
        twins: of the canary control.
        accuracy_inside, accuracy_outside: of the float shadows on records that trained them and on the others.
        share: of the records in each training.
        isolation: how the training code was kept apart.
        first_probabilities: of the first few float shadows, (N, C) each, for baselines that learn from outputs.
    """

    inside: Bools
    repeat: Integers
    confidence: Mapping[str, Doubles]
    log_probability: Mapping[str, Doubles]
    wrong: Doubles | None
    twins: tuple[Twin, ...]
    accuracy_inside: float
    accuracy_outside: float
    share: float
    isolation: str
    first_probabilities: tuple[Doubles, ...] = ()

    def kind(self, subject: str) -> str:
        """Which shadows serve a model: those compressed like it where there are any."""
        return subject if subject in self.confidence else FLOAT

    def only(self, repeat: int) -> Shadows:
        """The shadows of one repeat."""
        chosen = self.repeat == repeat
        return Shadows(
            self.inside[chosen],
            self.repeat[chosen],
            {name: values[chosen] for name, values in self.confidence.items()},
            {name: values[chosen] for name, values in self.log_probability.items()},
            None,
            (),
            self.accuracy_inside,
            self.accuracy_outside,
            self.share,
            self.isolation,
        )


def make_shadows(
    data: AuditData,
    settings: MembershipSettings,
    *,
    trainer: Trainer,
    compressor: Compressor | None,
    variants: tuple[str, ...],
    seed: int,
    report: Report,
) -> Shadows:
    """Trains, compresses and scores all shadows and twins.

    Args:
        data: the population: members and held-outs of the audited model together.
        settings: how many.
        trainer: trains like the audited model was trained.
        compressor: compresses like the variants were; None leaves the float shadows to serve all.
        variants: ids of the audited variants.
        seed: of the policy; every mask and every training derives from it.
        report: called with a line for each step.

    Raises:
        SealiftError: training, compression or a trained model failed.
    """
    count = settings.shadows * settings.repeats
    share = float(np.clip(data.member.mean(), *_SHARES))
    inside = shadow_masks(data.y, count=count, share=share, seed=seed)
    wrong = _wrong_labels(data, seed=seed)
    plans = _twin_plans(data, settings, share=share, seed=seed)
    trainings = [Training(np.flatnonzero(mask), _seed(seed, index)) for index, mask in enumerate(inside)]
    trainings += [plan.training(len(data.y), seed=_seed(seed, count + index)) for index, plan in enumerate(plans)]
    canaries = plans[0].canaries if plans else np.zeros(0, dtype=np.int64)
    x, y = np.concatenate([data.x, data.x[canaries]]), np.concatenate([data.y, wrong[canaries]])
    report(f"training {count} shadow models" + (f" and {len(plans)} twins" if plans else ""))
    made = train_all(trainer, x, y, trainings, report=report)
    scored = _Columns()
    about_wrong: list[Doubles] = []
    kept: list[Doubles] = []
    right = np.zeros_like(inside)
    for index, model in enumerate(made[:count]):
        found = score_model(check_model(model, where=f"shadow {index}"), data.x).log_probabilities
        scores = record_scores(found, data.y)
        scored.add(FLOAT, scores.confidence, scores.log_probability)
        right[index] = scores.correct
        if index < _KEPT:
            kept.append(np.exp(found))
        if plans:
            about_wrong.append(record_scores(found, wrong).confidence)
    if compressor is not None and settings.matched_shadows and variants:
        report(f"compressing {count} shadow models")
        for packed in compress_all(compressor, made[:count], x=data.x, y=data.y):
            _compressed(packed, variants, data, scored)
    twins = tuple(plan.judge(model, data, wrong) for plan, model in zip(plans, made[count:], strict=True))
    confidence, log_probability = scored.stacked(count)
    return Shadows(
        inside,
        np.repeat(np.arange(settings.repeats), settings.shadows),
        confidence,
        log_probability,
        np.stack(about_wrong) if about_wrong else None,
        twins,
        float(right[inside].mean()),
        float(right[~inside].mean()),
        share,
        isolation_of(trainer),
        tuple(kept),
    )


class _Columns:
    """Statistics of models as they are made, by kind."""

    def __init__(self) -> None:
        self._confidence: dict[str, list[Doubles]] = {}
        self._log_probability: dict[str, list[Doubles]] = {}

    def add(self, kind: str, confidence: Doubles, log_probability: Doubles) -> None:
        self._confidence.setdefault(kind, []).append(confidence)
        self._log_probability.setdefault(kind, []).append(log_probability)

    def stacked(self, count: int) -> tuple[dict[str, Doubles], dict[str, Doubles]]:
        """Kinds that every shadow has, (count, N) each."""
        kinds = [kind for kind, found in self._confidence.items() if len(found) == count]
        return {k: np.stack(self._confidence[k]) for k in kinds}, {k: np.stack(self._log_probability[k]) for k in kinds}


def _compressed(made: Mapping[str, CheckedModel], variants: tuple[str, ...], data: AuditData, scored: _Columns) -> None:
    for name in variants:
        if name in made:
            scores = record_scores(score_model(made[name], data.x).log_probabilities, data.y)
            scored.add(name, scores.confidence, scores.log_probability)


@dataclass(frozen=True)
class _TwinPlan:
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

    def judge(self, model: bytes, data: AuditData, wrong: Integers) -> Twin:
        found = score_model(check_model(model, where=f"canary twin {self.copies}"), data.x).log_probabilities
        scores = record_scores(found, wrong)
        inside = np.zeros(len(data.y), dtype=np.bool_)
        inside[self.canaries] = True
        return Twin(self.copies, inside, ~self.mask, scores.confidence, float(scores.correct[inside].mean()))


def _twin_plans(data: AuditData, settings: MembershipSettings, *, share: float, seed: int) -> list[_TwinPlan]:
    """One training set and one set of canaries for all strengths, so that only the copies differ."""
    if not settings.canary_copies or settings.shadows == 0:
        return []
    mask = shadow_masks(data.y, count=1, share=share, seed=_seed(seed, _TWIN))[0]
    candidates = np.random.default_rng([seed, _CANARY]).permutation(np.flatnonzero(mask))
    canaries = np.sort(candidates[: min(settings.canaries, len(candidates) // 4)])
    return [_TwinPlan(copies, mask, canaries) for copies in settings.canary_copies] if len(canaries) else []


def _wrong_labels(data: AuditData, *, seed: int) -> Integers:
    """A label that is not the record's, for every record."""
    rng = np.random.default_rng([seed, _WRONG])
    labels: Integers = (data.y + rng.integers(1, max(2, data.classes), size=len(data.y))) % data.classes
    return labels


def _seed(seed: int, index: int) -> int:
    """Seeds of trainings: distinct within a run, and within what every generator takes."""
    return (seed * 7919 + index) % 2**31
