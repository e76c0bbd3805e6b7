"""Shadow models: trained like the audited one on random shares of the same records, compressed like the variants, and scored.

They show how a record looks to models that saw it and to models that did not. The twins of the canary control are trained in the
same go, because starting a child and importing its framework costs more than a small training.

Cost: one training for each shadow and twin; one compression for each shadow where they are matched; one pass of the runtime over
the judged records for each model made. Nothing but per-record statistics is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from audits.compressor import Compressor, compress_all
from audits.data import AuditData, Integers
from audits.membership.draws import Bools, Judged, shadow_masks, training_seed
from audits.membership.scores import Doubles, record_scores
from audits.membership.settings import MembershipSettings
from audits.membership.twins import Asked, Twin, plan_twins, trained_scores, wrong_labels
from audits.trainer import Trainer, Training, isolation_of, train_all
from device_client.inference.walker import CheckedModel, check_model

Report = Callable[[str], None]
FLOAT = "float"
_KEPT = 3
_LEAST_SHADOWS = 3.0  # that a record has on either side on average; with fewer that side's mean is a matter of chance


@dataclass(frozen=True)
class Shadows:
    """What all shadows say about the judged records.

    Attributes:
        inside: which records trained which shadow, (K, E).
        repeat: the set that each shadow belongs to, (K,).
        confidence, log_probability: (K, E) by ``float`` and by the variants whose compression they went through.
        wrong: of the float shadows about the canaries' wrong labels, (K, E); None without twins.
        twins: of the canary control.
        accuracy_inside, accuracy_outside: of the float shadows on records that trained them and on the others.
        share: of the records in each training.
    wanted_share: of members among the records: shadows trained on it see as many records as the audited model did.
        isolation: how the training code was kept apart.
        first_probabilities: of the first few float shadows, (E, C) each, for baselines that learn from outputs.
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
    wanted_share: float
    isolation: str
    first_probabilities: tuple[Doubles, ...] = ()

    def kind(self, subject: str) -> str:
        """Which shadows serve a model: those compressed like it where there are any."""
        return subject if subject in self.confidence else FLOAT

    def only(self, repeat: int) -> Shadows:
        """The shadows of one repeat, without twins."""
        chosen = self.repeat == repeat
        return replace(
            self,
            inside=self.inside[chosen],
            repeat=self.repeat[chosen],
            confidence={name: values[chosen] for name, values in self.confidence.items()},
            log_probability={name: values[chosen] for name, values in self.log_probability.items()},
            wrong=None,
            twins=(),
        )


def training_share(member: Bools, *, count: int) -> float:
    """The share of records that trains each of ``count`` shadows: that of the members, within what so many shadows can cover."""
    least = min(0.5, _LEAST_SHADOWS / max(1, count))
    return float(np.clip(member.mean(), least, 1.0 - least))


def make_shadows(
    data: AuditData,
    judged: Judged,
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
        judged: whom the shadows are asked about.
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
    share = training_share(data.member, count=count)
    masks = shadow_masks(data.y, count=count, share=share, seed=seed)
    wrong = wrong_labels(data, seed=seed)
    plans = plan_twins(data, judged, settings, share=share, seed=seed)
    trainings = [Training(np.flatnonzero(mask), training_seed(seed, index)) for index, mask in enumerate(masks)]
    trainings += [plan.training(len(data.y), seed=training_seed(seed, count + index)) for index, plan in enumerate(plans)]
    canaries = plans[0].canaries if plans else np.zeros(0, dtype=np.int64)
    x, y = np.concatenate([data.x, data.x[canaries]]), np.concatenate([data.y, wrong[canaries]])
    report(f"training {count} shadow models" + (f" and {len(plans)} twins" if plans else ""))
    made = train_all(trainer, x, y, trainings, report=report)
    asked = Asked(judged.rows, data.x[judged.rows], data.y[judged.rows], wrong[judged.rows])
    packed: tuple[Mapping[str, CheckedModel], ...] = ()
    if compressor is not None and settings.matched_shadows and variants:
        report(f"compressing {count} shadow models")
        packed = compress_all(compressor, made[:count], x=data.x, y=data.y)
    report("scoring shadow models")
    floats = [
        trained_scores(check_model(model, where=f"shadow {i}"), asked, where=f"shadow {i}") for i, model in enumerate(made[:count])
    ]
    by_kind = {FLOAT: [record_scores(found, asked.y) for found in floats]}
    for name in variants:
        if packed and all(name in models for models in packed):
            by_kind[name] = [
                record_scores(trained_scores(models[name], asked, where=f"shadow {i}, {name}"), asked.y)
                for i, models in enumerate(packed)
            ]
    inside = masks[:, judged.rows]
    right = np.stack([scores.correct for scores in by_kind[FLOAT]])
    return Shadows(
        inside=inside,
        repeat=np.repeat(np.arange(settings.repeats), settings.shadows),
        confidence={kind: np.stack([scores.confidence for scores in found]) for kind, found in by_kind.items()},
        log_probability={kind: np.stack([scores.log_probability for scores in found]) for kind, found in by_kind.items()},
        wrong=np.stack([record_scores(found, asked.wrong).confidence for found in floats]) if plans else None,
        twins=tuple(plan.judge(model, asked) for plan, model in zip(plans, made[count:], strict=True)),
        accuracy_inside=float(right[inside].mean()),
        accuracy_outside=float(right[~inside].mean()),
        share=share,
        wanted_share=float(data.member.mean()),
        isolation=isolation_of(trainer),
        first_probabilities=tuple(np.exp(found) for found in floats[:_KEPT]),
    )
