"""One audit run: attack every subject and every control with the same code, judge all by one null distribution.

    audit, images = run_audit(targets, original, data, policy=policy, now=now)

1. draw equal numbers of members and held-outs; 2. attack original, variants, controls; 3. evaluate all reconstructions
under the same relabellings; 4. the null distribution gives the threshold; 5. controls; 6. ``verdict.rule``.

Pure but for the time that it takes: no file is written here. One torch thread while it runs, so that sums have one order.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version

import numpy as np
import torch

from audits.attacked import Attacked, attack
from audits.compressor import Compressor
from audits.controls import planted_model, planted_records, untrained_twin
from audits.data import AuditData, Floats
from audits.evidence import Audit
from audits.findings import Groups, describe_controls, describe_subjects
from audits.instance_gap import Pools, draw_pools, gap_table, likeness
from audits.inversion import InputRange
from audits.policy import Policy
from audits.statistics import combine_minimum, rank_p_values
from audits.targets import BundleTargets, Subject
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model

Report = Callable[[str], None]


@dataclass(frozen=True)
class PrivateImages:
    """Images of a run, private until blurred; all in the model's input space.

    Attributes:
        class_means, heldouts: (C, ...), mean of the drawn records, and one held-out record of each class.
        reconstructions: subject id to (C, ...), of the attack with the largest leak.
    """

    class_means: Floats
    heldouts: Floats
    reconstructions: dict[str, Floats]


@dataclass(frozen=True)
class RunResult:
    """What a run gives: the evidence, without the digest of the image file yet, and the images."""

    audit: Audit
    images: PrivateImages


def run_audit(
    targets: BundleTargets,
    original: Subject,
    data: AuditData,
    *,
    policy: Policy,
    now: datetime,
    compressor: Compressor | None = None,
    report: Report = lambda _: None,
) -> RunResult:
    """Audits the original and every variant.

    Args:
        targets: the variants of a verified bundle.
        original: the uncompressed model.
        data: records with membership.
        policy: everything that decides.
        now: time of the audit; the verdicts expire ``expiry_days`` later.
        compressor: if given, planted controls are compressed like the variants and must still be caught.
        report: called with one line for each step.

    Raises:
        UsageError: the records do not fit the original's input.
    """
    began = time.monotonic()
    _check_fit(original, data)
    with _one_thread():
        bounds = _input_range(original, data)
        classes = _classes(original, data)
        pools = _pools(data, classes, policy)
        start = np.clip(pools.centre.reshape(data.x.shape[1:]), bounds.low, bounds.high).astype(np.float32)
        bench = _Bench(data, pools, start, bounds, policy)
        attacked = _attack_subjects(targets, original, bench, report)
        controls = _attack_controls(targets, original, attacked, bench, compressor, report)
        report("relabelling memberships")
        groups = _judge({**attacked, **controls}, tuple(attacked), bench)
    findings = describe_controls(groups, controls, pools=pools, policy=policy, compressed=compressor is not None)
    subjects = describe_subjects(groups, [original, *targets.variants], attacked, findings, data=data, pools=pools, policy=policy)
    audit = Audit(
        policy=policy,
        tools={"python": platform.python_version(), **{name: version(name) for name in ("torch", "onnxruntime", "onnx", "numpy")}},
        data=_describe_data(data, pools, bounds),
        bundle={"manifest": str(targets.manifest), "path": targets.path},
        original=original.model.digest,
        subjects=subjects,
        controls=findings.run,
        control_detail=findings.detail,
        images={},
        audited_at=now,
        expires=now + timedelta(days=policy.expiry_days),
        duration_s=round(time.monotonic() - began, 3),
    )
    return RunResult(audit, _images(data, pools, attacked, groups))


@dataclass(frozen=True)
class _Bench:
    """What every attack of a run shares."""

    data: AuditData
    pools: Pools
    start: Floats
    bounds: InputRange
    policy: Policy

    def attack(self, model: CheckedModel, *, original: Attacked | None = None) -> Attacked:
        return attack(model, self.data, start=self.start, bounds=self.bounds, policy=self.policy, original=original)


def _attack_subjects(targets: BundleTargets, original: Subject, bench: _Bench, report: Report) -> dict[str, Attacked]:
    report("attacking original")
    first = bench.attack(original.model)
    attacked = {original.id: first}
    for variant in targets.variants:
        report(f"attacking {variant.id}")
        attacked[variant.id] = bench.attack(variant.model, original=first)
    return attacked


def _attack_controls(
    targets: BundleTargets,
    original: Subject,
    attacked: dict[str, Attacked],
    bench: _Bench,
    compressor: Compressor | None,
    report: Report,
) -> dict[str, Attacked]:
    """By name: ``planted:<strength>``, ``planted:<strength>:<variant>``, ``class_mean``, ``untrained:<subject>:<n>``."""
    report("attacking controls")
    seed, settings = bench.policy.seed, bench.policy.controls
    controls: dict[str, Attacked] = {}
    if not bench.pools.thin:
        records = planted_records(bench.pools, seed=seed)
        names = (original.model.inputs[0].name, original.model.outputs[0].name)
        for strength in (0.0, *settings.planted_strengths):
            model = planted_model(bench.data, bench.pools, records, strength=strength, names=names)
            name = f"planted:{strength:g}" if strength else "class_mean"
            plain = bench.attack(check_model(model, where=name))
            controls[name] = plain
            if compressor is not None and strength >= settings.planted_required:
                for variant, made in compressor.compress(model, x=bench.data.x, y=bench.data.y).items():
                    controls[f"{name}:{variant}"] = bench.attack(made, original=plain)
    for subject in (original, *targets.variants):
        if attacked[subject.id].blocked:
            continue
        for index in range(settings.untrained_twins):
            twin = untrained_twin(subject.model.data, seed=seed + index)
            name = f"untrained:{subject.id}:{index}"
            controls[name] = bench.attack(check_model(twin, features=subject.features, where=name))
    return controls


def _judge(everything: dict[str, Attacked], subjects: tuple[str, ...], bench: _Bench) -> Groups:
    """One table for all reconstructions; then one p-value for each group, and one null distribution over the subjects."""
    decision = bench.policy.decision
    keys = [(name, index) for name, item in everything.items() for index in range(len(item.reconstructions))]
    if bench.pools.thin or not keys:
        return Groups.empty(subjects)
    items = [likeness(everything[name].reconstructions[index].images, bench.pools) for name, index in keys]
    table = gap_table(
        items, bench.pools, permutations=decision.permutations, fresh=bench.policy.controls.relabellings, seed=bench.policy.seed
    )
    p_values = rank_p_values(table.values, reference=table.reference)
    rows = {name: [row for row, key in enumerate(keys) if key[0] == name] for name in everything}
    combined = {
        name: combine_minimum(p_values[picked].reshape(-1, p_values.shape[-1]), reference=table.reference)
        for name, picked in rows.items()
        if picked
    }
    return Groups.build(subjects, items=items, table=table, p_values=p_values, rows=rows, combined=combined, alpha=decision.alpha)


def _images(data: AuditData, pools: Pools, attacked: dict[str, Attacked], groups: Groups) -> PrivateImages:
    shape = data.x.shape[1:]
    means = [
        data.x[np.concatenate([pool.members, pool.heldouts])].mean(axis=0) if pool.size else np.zeros(shape)
        for pool in pools.classes
    ]
    held = [data.x[pool.heldouts[0]] if pool.size else np.zeros(shape) for pool in pools.classes]
    best = {
        name: item.reconstructions[groups.strongest(name)].best_images() for name, item in attacked.items() if item.reconstructions
    }
    return PrivateImages(np.asarray(means, dtype=np.float32), np.asarray(held, dtype=np.float32), best)


def _classes(original: Subject, data: AuditData) -> int:
    """The model's class count where its file declares it, else what the labels span."""
    shape = original.model.outputs[0].shape if original.model.outputs else None
    declared = shape[-1] if shape else None
    return declared if isinstance(declared, int) and declared >= data.classes else data.classes


def _check_fit(original: Subject, data: AuditData) -> None:
    """What can be known before anything is attacked: the records are this model's, and both sides have some.

    Raises:
        UsageError: ``audit_data``.
    """
    shapes = [model.shape for model in (original.model.inputs[0], original.model.outputs[0])] if original.model.outputs else []
    wanted = shapes[0][1:] if shapes and shapes[0] else ()
    given = data.x.shape[1:]
    if wanted and (
        len(wanted) != len(given) or any(isinstance(w, int) and w not in {g, 0} for w, g in zip(wanted, given, strict=True))
    ):
        raise UsageError(
            "the records do not fit the model",
            code="audit_data",
            where="x",
            expected=f"(records, {_joined(wanted)})",
            actual=data.x.shape,
        )
    classes = shapes[1][-1] if len(shapes) > 1 and shapes[1] else None
    if isinstance(classes, int) and classes > 1 and data.classes > classes:
        raise UsageError(
            "a label is beyond the model's classes",
            code="audit_data",
            where="y",
            expected=f"below {classes}",
            actual=data.classes - 1,
        )
    members = int(data.member.sum())
    if members in {0, len(data.member)}:
        raise UsageError(
            "there is nothing to compare",
            code="audit_data",
            where="member",
            expected="records that trained the model and records that did not",
            actual=f"{members} of {len(data.member)} are members",
        )


def _joined(shape: Sequence[object]) -> str:
    return ", ".join(str(size) for size in shape)


def _pools(data: AuditData, classes: int, policy: Policy) -> Pools:
    decision = policy.decision
    return draw_pools(
        data, classes=classes, minimum=decision.min_records_per_class, maximum=decision.max_records_per_class, seed=policy.seed
    )


def _input_range(original: Subject, data: AuditData) -> InputRange:
    """From the contract; where that says nothing, what the records span (members and held-outs alike)."""
    if original.input_range is not None:
        low, high = original.input_range
        found = InputRange(float(low), float(high), "contract")
    else:
        found = InputRange(float(data.x.min()), float(data.x.max()), "data")
    if not found.width > 0:
        raise UsageError(
            "the input range is empty", code="audit_data", expected="low below high", actual=f"{found.low}..{found.high}"
        )
    return found


def _describe_data(data: AuditData, pools: Pools, bounds: InputRange) -> dict[str, object]:
    return {
        "digest": str(data.digest),
        "records": len(data.x),
        "members": int(data.member.sum()),
        "shape": [int(size) for size in data.x.shape[1:]],
        "classes": len(pools.classes),
        "drawn_per_side": [pool.size for pool in pools.classes],
        "thin": [list(item) for item in pools.thin],
        "input_range": {"low": bounds.low, "high": bounds.high, "source": bounds.source},
        "outside_range": int(((data.x < bounds.low) | (data.x > bounds.high)).sum()),
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
