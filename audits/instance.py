"""The family ``instance``: records that trained a model against others of their class, in what its own gradients draw.

    result = run_instance(bench)

1. draw equal numbers of members and held-outs; 2. attack original, variants, controls with the same code; 3. evaluate all
reconstructions under the same relabelled memberships; 4. the null distribution gives thresholds and p-values; 5. controls.

A model that cannot be attacked is blind in its finding, with the reason, and hides nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from audits.attacked import Attacked, attack
from audits.controls import planted_model, planted_records, untrained_twin
from audits.data import Floats
from audits.family import Bench
from audits.finding import FamilyResult, power_of
from audits.findings import describe_controls, describe_subjects
from audits.fit import InputRange, balanced_pools, class_count, input_range
from audits.groups import Groups
from audits.instance_gap import Pools, gap_table, likeness
from audits.statistics import combine_minimum, rank_p_values
from device_client.inference.walker import CheckedModel, check_model

POWER_UNIT = "share of a training record in the template of its class, in a model planted with such records"


def run_instance(bench: Bench) -> FamilyResult:
    """Attacks every model and judges all of them by one null distribution.

    Cost: attacks, once for each model and control; then relabellings times records for each image. Determinism: the policy's
    seed; one torch thread, so that sums have one order. What it does not show: ``docs/audit-method.md``, section *Limits*.
    """
    with _one_thread():
        bounds = input_range(bench.original, bench.data)
        pools = balanced_pools(bench.data, class_count(bench.original, bench.data), bench.policy)
        start = np.clip(pools.centre.reshape(bench.data.x.shape[1:]), bounds.low, bounds.high).astype(np.float32)
        desk = _Desk(bench, pools, start, bounds)
        attacked = _attack_subjects(desk)
        controls = _attack_controls(desk, attacked)
        bench.report("relabelling memberships")
        groups = _judge({**attacked, **controls}, tuple(attacked), desk)
    judged = describe_controls(groups, controls, pools=pools, policy=bench.policy, compressed=bench.compressor is not None)
    findings, detail = describe_subjects(groups, bench.subjects, attacked, data=bench.data, pools=pools, policy=bench.policy)
    return FamilyResult(
        family="instance",
        findings=findings,
        controls=judged.controls,
        power=power_of(judged.controls),
        power_unit=POWER_UNIT,
        detail=detail,
        shared=judged.shared,
        images=_images(attacked, groups, start),
    )


@dataclass(frozen=True)
class _Desk:
    """What every attack of the family shares."""

    bench: Bench
    pools: Pools
    start: Floats
    bounds: InputRange

    def attack(self, model: CheckedModel, *, original: Attacked | None = None) -> Attacked:
        return attack(model, self.bench.data, start=self.start, bounds=self.bounds, policy=self.bench.policy, original=original)


def _attack_subjects(desk: _Desk) -> dict[str, Attacked]:
    bench = desk.bench
    bench.report(f"attacking {bench.original.id}")
    first = desk.attack(bench.original.model)
    attacked = bench.attacked
    attacked[bench.original.id] = first
    for variant in bench.variants:
        bench.report(f"attacking {variant.id}")
        attacked[variant.id] = desk.attack(variant.model, original=first)
    return attacked


def _attack_controls(desk: _Desk, attacked: dict[str, Attacked]) -> dict[str, Attacked]:
    """By name: ``planted:<strength>``, ``planted:<strength>:<variant>``, ``class_mean``, ``untrained:<subject>:<n>``."""
    bench, pools = desk.bench, desk.pools
    seed, settings = bench.policy.seed, bench.policy.controls
    controls: dict[str, Attacked] = {}
    if not pools.thin:
        records = planted_records(pools, seed=seed)
        names = (bench.original.model.inputs[0].name, bench.original.model.outputs[0].name)
        for strength in (0.0, *settings.planted_strengths):
            model = planted_model(bench.data, pools, records, strength=strength, names=names)
            name = f"planted:{strength:g}" if strength else "class_mean"
            bench.report(f"attacking control {name}")
            plain = desk.attack(check_model(model, where=name))
            controls[name] = plain
            if bench.compressor is not None and strength >= settings.planted_required:
                for variant, made in bench.compressor.compress(model, x=bench.data.x, y=bench.data.y).items():
                    controls[f"{name}:{variant}"] = desk.attack(made, original=plain)
    for subject in bench.subjects:
        if attacked[subject.id].blocked:
            continue
        for index in range(settings.untrained_twins):
            twin = untrained_twin(subject.model.data, seed=seed + index)
            name = f"untrained:{subject.id}:{index}"
            bench.report(f"attacking control {name}")
            controls[name] = desk.attack(check_model(twin, features=subject.features, where=name))
    return controls


def _judge(everything: dict[str, Attacked], subjects: tuple[str, ...], desk: _Desk) -> Groups:
    """One table for all reconstructions; then one p-value for each group, and one null distribution over the subjects."""
    policy, pools = desk.bench.policy, desk.pools
    keys = [(name, index) for name, item in everything.items() for index in range(len(item.reconstructions))]
    if pools.thin or not keys:
        return Groups.empty(subjects)
    items = [likeness(everything[name].reconstructions[index].images, pools) for name, index in keys]
    table = gap_table(items, pools, permutations=policy.decision.permutations, fresh=policy.controls.relabellings, seed=policy.seed)
    p_values = rank_p_values(table.values, reference=table.reference)
    rows = {name: [row for row, key in enumerate(keys) if key[0] == name] for name in everything}
    combined = {
        name: combine_minimum(p_values[picked].reshape(-1, p_values.shape[-1]), reference=table.reference)
        for name, picked in rows.items()
        if picked
    }
    return Groups.build(subjects, items=items, table=table, p_values=p_values, rows=rows, combined=combined, policy=policy)


def _images(attacked: dict[str, Attacked], groups: Groups, start: Floats) -> dict[tuple[str, str], Floats]:
    """(C, ...) for each model: the strongest reconstruction, the strongest of its own and of the original's, and the start."""
    images: dict[tuple[str, str], Floats] = {}
    for name, item in attacked.items():
        if item.own:
            images[name, "strongest"] = item.reconstructions[groups.strongest(name)].best_images()
            index = groups.strongest(name, until=len(item.own))
            images[name, "white_box"] = item.own[index].best_images()
            images[name, "start"] = np.repeat(start[None], item.own[index].images.shape[1], axis=0)
        if item.transferred:
            index = groups.strongest(name, begin=len(item.own))
            images[name, "transfer"] = item.reconstructions[index].best_images()
    return images


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
