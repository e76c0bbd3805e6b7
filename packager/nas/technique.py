"""The technique ``nas``: a small network of its own in the place of the original, found by search and taught by it.

    signature -> teacher's outputs -> search (short trainings) -> choose -> train the chosen one in full -> export

Needs rows to train on and rows to choose by; never looks at the test part. The original need not be a torch module: it
teaches through its outputs.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.errors import UsageError
from packager.data import Dataset
from packager.features import check_own
from packager.nas.config import Nas
from packager.nas.cost import original_macs
from packager.nas.journal import open_study
from packager.nas.search import Found, Limits, choose, search, tried
from packager.nas.signature import read_signature
from packager.nas.space import architecture

if TYPE_CHECKING:
    from packager.nas.trainer import Lessons
    from packager.technique import Compressed, TechniqueContext

logger = logging.getLogger(__name__)
MIN_ROWS = 100
_VERSION = 1  # of spaces and training: a journal of another version is another study


def search_architecture(model: Compressed, config: Nas, context: TechniqueContext) -> Compressed:
    """Searches, and gives the chosen network in the original's place.

    The result's module is the network, where the original's tensors have the names that the exporter gives; else ``None``.

    Raises:
        UsageError: no training or validation rows (``nas_data``), a model that these networks cannot stand in for
            (``nas_model``), an unusable journal (``nas_journal``), or no network within the limits (``nas_nothing``).
        MissingExtraError: torch or optuna is not installed.
    """
    from packager.nas.trainer import build, train
    from packager.train.finish import export_normal_form

    lessons = _lessons(model, config, context)
    limits = Limits(
        config.max_bytes or len(model.data), len(model.data), original_macs(model.data, lessons.train.take(np.arange(1)))
    )
    plan = replace(context.training, epochs=config.epochs)
    with open_study(config.resume, name=_study_name(model, config, context)) as study:
        front = search(study, config, lessons, plan, limits, progress=_log_progress(config.trials))
        trials = tried(study)
    chosen = choose(front, least=lessons.original - config.tolerance)
    choices = dict(chosen.chosen)
    network = build(architecture(str(choices["family"]), choices), lessons)
    metric = train(network, lessons, context.training)
    network.finished = True
    source = export_normal_form(network, lessons.train.take(np.arange(4)), technique="nas", seed=context.seed)
    data = _in_place_of(model.data, source)
    evidence: dict[str, object] = {
        "technique": "nas",
        "trials": config.trials,
        "tried": trials,
        "validation": {"original": round(lessons.original, 6), "chosen": round(metric, 6)},
        "chosen": chosen.to_json(),
        "front": [found.to_json() for found in front],
        "bytes": {"before": len(model.data), "after": len(data)},
        "macs": {"before": limits.macs, "after": chosen.macs},
        "chosen_because": _reason(chosen, lessons, config),
    }
    kept = network if source == data else None
    return replace(model, data=data, precision="fp32", evidence=(*model.evidence, evidence), module=kept)


def _lessons(model: Compressed, config: Nas, context: TechniqueContext) -> Lessons:
    from packager.evaluate import run_rows
    from packager.nas.trainer import Lessons

    train, validation = _need_rows(context)
    checked = check_own(model.data)
    first = next(iter(run_rows(checked, train.take(np.arange(1))).values()))
    read_signature(checked, first, task=context.task)  # refuses before minutes of work
    teacher, judged = (next(iter(run_rows(checked, part).values())) for part in (train, validation))
    return Lessons(
        train=train,
        validation=validation,
        teacher=teacher,
        judged=judged,
        task=context.task,
        signature=read_signature(checked, teacher, task=context.task),
        seed=context.seed,
        threads=context.training.threads,
        teacher_weight=config.teacher_weight,
        temperature=config.temperature,
    )


def _need_rows(context: TechniqueContext) -> tuple[Dataset, Dataset]:
    for part, name, least in ((context.train, "train", MIN_ROWS), (context.validation, "validation", 1)):
        if part is None or len(part) < least:
            raise UsageError(
                f"architecture search needs rows of the part {name}",
                code="nas_data",
                where="technique nas",
                expected=f"at least {least} rows whose 'split' says {name}",
                actual=0 if part is None else len(part),
                hint="mark rows in the data's 'split' array: networks learn from train, and are chosen by validation",
            )
    return context.train, context.validation  # type: ignore[return-value]  # neither is None here


def _study_name(model: Compressed, config: Nas, context: TechniqueContext) -> str:
    """Names everything that decides the course of a search, so that a journal is never resumed for another one."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("resume", "trials")}
    parts = [part.digest().hex if part is not None else "" for part in (context.train, context.validation)]
    plan = dict(asdict(context.training), epochs=config.epochs)
    value = {"version": _VERSION, "model": Digest.of(model.data).hex, "parts": parts, "plan": plan, "settings": settings}
    text = canonical_json({**value, "task": context.task, "seed": context.seed})
    return f"nas-{hashlib.sha256(text).hexdigest()[:32]}"


def _log_progress(trials: int) -> Any:
    def progress(trained: int) -> None:
        logger.info("architecture search: %d of %d networks trained", trained, trials)

    return progress


def _reason(chosen: Found, lessons: Lessons, config: Nas) -> str:
    if chosen.metric >= lessons.original - config.tolerance:
        return f"cheapest of the front within {config.tolerance:g} of the original on the validation part"
    return f"best of the front; none is within {config.tolerance:g} of the original on the validation part"


def _in_place_of(original: bytes, source: bytes) -> bytes:
    """``source`` with the original's input and output: names, and the batch as it was declared."""
    from packager.shrink import shrink_model

    model, wanted = onnx.load_from_string(source), onnx.load_from_string(original).graph
    graph = model.graph
    names = {graph.input[0].name: wanted.input[0].name, graph.output[0].name: wanted.output[0].name}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, f"inner:{tensor.name}")
    for node in graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, f"inner:{name}" if name else "")
    graph.input[0].CopyFrom(wanted.input[0])
    graph.output[0].CopyFrom(wanted.output[0])
    return shrink_model(model.SerializeToString(deterministic=True))
