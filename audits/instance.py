"""The family ``instance``: records that trained a model against others of their class, in what its own gradients draw.

    result = run_instance(bench)

1. draw equal numbers of members and held-outs; 2. attack original, variants, controls with the same code; 3. evaluate all
reconstructions under the same relabelled memberships; 4. the null distribution gives thresholds and p-values; 5. controls.

A model that cannot be attacked is blind in its finding, with the reason, and hides nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from audits.attacked import Attacked, attack
from audits.compressor import compress_all
from audits.controls import planted_model, planted_records, untrained_twin
from audits.data import Floats
from audits.family import Bench
from audits.finding import FamilyResult, power_of
from audits.findings import describe_controls, describe_subjects
from audits.fit import InputRange, balanced_pools, class_count, input_range
from audits.groups import Groups
from audits.instance_gap import Pools, gap_table, likeness
from audits.parallel import run_all
from audits.statistics import combine_minimum, rank_p_values
from audits.targets import Subject
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
    if bench.variants:
        bench.report(f"attacking {', '.join(variant.id for variant in bench.variants)}")
    found = run_all([partial(desk.attack, variant.model, original=first) for variant in bench.variants])
    attacked.update(zip((variant.id for variant in bench.variants), found, strict=True))
    return attacked


def _attack_controls(desk: _Desk, attacked: dict[str, Attacked]) -> dict[str, Attacked]:
    """By name: ``planted:<strength>``, ``planted:<strength>:<variant>``, ``class_mean``, ``untrained:<subject>:<n>``."""
    bench = desk.bench
    plain = _planted(desk)
    jobs = {name: partial(_attack_bytes, desk, model, name) for name, model in plain.items()} | _twin_jobs(desk, attacked)
    controls = dict(zip(jobs, run_all(list(jobs.values())), strict=True))
    packed = _compressed(bench, plain)
    if packed:
        bench.report(f"attacking {len(packed)} compressed controls")
    found = run_all([partial(desk.attack, made, original=controls[name]) for (name, _), made in packed.items()])
    return controls | {f"{name}:{variant}": item for (name, variant), item in zip(packed, found, strict=True)}


def _attack_bytes(desk: _Desk, data: bytes, name: str, features: tuple[str, ...] = ()) -> Attacked:
    desk.bench.report(f"attacking control {name}")
    return desk.attack(check_model(data, features=features, where=name))


def _planted(desk: _Desk) -> dict[str, bytes]:
    """Models that hold records at growing strength, and one that holds class averages alone; none where classes are too thin."""
    bench, pools, seed = desk.bench, desk.pools, desk.bench.policy.seed
    if pools.thin:
        return {}
    records = planted_records(pools, seed=seed)
    names = (bench.original.model.inputs[0].name, bench.original.model.outputs[0].name)
    return {
        f"planted:{strength:g}" if strength else "class_mean": planted_model(
            bench.data, pools, records, strength=strength, names=names
        )
        for strength in (0.0, *bench.policy.controls.planted_strengths)
    }


def _compressed(bench: Bench, plain: Mapping[str, bytes]) -> dict[tuple[str, str], CheckedModel]:
    """By planted model and variant, for those that must be caught."""
    settings = bench.policy.controls
    needed = [f"planted:{strength:g}" for strength in settings.planted_strengths if strength >= settings.planted_required]
    chosen = [name for name in needed if name in plain]
    if bench.compressor is None or not chosen:
        return {}
    bench.report(f"compressing {len(chosen)} planted leaks")
    packed = compress_all(bench.compressor, [plain[name] for name in chosen], x=bench.data.x, y=bench.data.y)
    return {(name, variant): model for name, variants in zip(chosen, packed, strict=True) for variant, model in variants.items()}


def _twin_jobs(desk: _Desk, attacked: Mapping[str, Attacked]) -> dict[str, Callable[[], Attacked]]:
    """Attacks on every subject that could be attacked, with its weights shuffled; a twin is made when its turn comes."""
    policy = desk.bench.policy

    def job(subject: Subject, index: int, name: str) -> Attacked:
        return _attack_bytes(desk, untrained_twin(subject.model.data, seed=policy.seed + index), name, subject.features)

    return {
        (name := f"untrained:{subject.id}:{index}"): partial(job, subject, index, name)
        for subject in desk.bench.subjects
        if not attacked[subject.id].blocked
        for index in range(policy.controls.untrained_twins)
    }


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
