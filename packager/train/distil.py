"""The technique ``distil``: a small network learns from the model, by its answers and by what it computes on the way.

Trains the same student three ways and keeps the one that does best on the validation part: ``plain`` from the labels alone,
``soft`` with the teacher's answers too, ``internal`` with its inner representations as well. All three are reported,
because distillation often gains nothing (measured on turbofan data: +0.03 average precision at 1/54 of the size, -0.015
at 1/21), and a figure without the plain one beside it says little.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_client.errors import UsageError
from packager.data import Dataset
from packager.toml_table import TomlTable
from packager.torch_run import torch_reproducible
from packager.train.channels import MAX_RATIO, ChannelPlan
from packager.train.finish import finish
from packager.train.internals import KINDS, Internals
from packager.train.loop import Extra, TrainingHistory, train_module
from packager.train.need import count_parameters, need_module, need_rows, refuse_few_rows
from packager.train.objective import SoftLabels
from packager.train.rows import Rows, make_rows
from packager.train.student import make_student, modules_from
from packager.train.taps import Tap, choose_taps
from packager.train.teacher import teach

if TYPE_CHECKING:
    from packager.technique import Compressed, TechniqueContext

NAME = "distil"
WAYS = ("plain", "soft", "internal")
MAX_TEACHERS = 16
_TEACHER_STREAM = 7919  # seeds of an ensemble's members are this far apart


@dataclass(frozen=True)
class Distil:
    """Settings of ``distil``.

    ``student``: ``module:function`` returning a network of the same inputs and outputs; empty: the model with ``ratio`` of
    its channels removed. ``teacher``: ``module:function`` returning one or several further teachers. ``ensemble``: train
    the model anew from other seeds, until there are so many teachers. ``soft_weight``: of the teachers' answers against
    the labels, at ``temperature``. ``internal``: kind of loss on inner layers, ``internal_weight`` its weight, ``taps``
    where (``teacher.layer=student.layer``; empty: by depth). ``ways``: which to try.
    """

    student: str = ""
    ratio: float = 0.5
    teacher: str = ""
    ensemble: int = 1
    soft_weight: float = 0.5
    temperature: float = 2.0
    internal: str = "features"
    internal_weight: float = 0.5
    taps: tuple[str, ...] = ()
    ways: tuple[str, ...] = WAYS
    exclude: tuple[str, ...] = ()

    @classmethod
    def from_toml(cls, table: TomlTable) -> Distil:
        """Reads the technique's table of a recipe.

        Raises:
            UsageError: a wrong value, or a way that does not exist.
        """
        default = cls()
        config = cls(
            student=table.text("student", default.student),
            ratio=table.number("ratio", default.ratio, minimum=0.01, maximum=MAX_RATIO),
            teacher=table.text("teacher", default.teacher),
            ensemble=table.integer("ensemble", default.ensemble, minimum=1, maximum=MAX_TEACHERS),
            soft_weight=table.number("soft_weight", default.soft_weight, minimum=0.0, maximum=1.0),
            temperature=table.number("temperature", default.temperature, minimum=0.1, maximum=100.0),
            internal=table.text("internal", default.internal, choices=("none", *KINDS)),
            internal_weight=table.number("internal_weight", default.internal_weight, minimum=0.0, maximum=1000.0),
            taps=table.texts("taps"),
            ways=table.texts("ways", default.ways),
            exclude=table.texts("exclude"),
        )
        if not config.ways or not set(config.ways) <= set(WAYS) or (config.ways == ("internal",) and config.internal == "none"):
            raise UsageError(
                "wrong recipe value of 'ways'",
                code="recipe_value",
                where=table.where,
                expected=f"some of {', '.join(WAYS)}; internal needs a kind",
                actual=list(config.ways),
            )
        return config


@dataclass(frozen=True)
class _Trained:
    way: str
    module: Any
    history: TrainingHistory


def distil(model: Compressed, config: Distil, context: TechniqueContext) -> Compressed:
    """Trains a student, and hands it on in the model's place.

    Cost: one training per way and one per further teacher of the ensemble.

    Raises:
        UsageError: no module, no training rows (too few for a scaled-down copy), or a student that does not fit.
    """
    teacher = need_module(model, technique=NAME)
    train = need_rows(context, technique=NAME)
    rows = make_rows(teacher, train)
    example = rows.example()
    plan = ChannelPlan(config.ratio, exclude=config.exclude)
    student = make_student(teacher, example, entry=config.student, plan=plan, seed=context.seed, where=NAME)
    if not config.student:
        refuse_few_rows(train, task=context.task, parameters=count_parameters(student), technique=NAME)
    teachers, training = _teachers(teacher, train, config, context)
    soft = teach(teachers, rows, task=context.task, weight=config.soft_weight, temperature=config.temperature)
    taps = _taps(teacher, student, example, config)
    ways = [
        way for way in WAYS if way in config.ways and (way != "plain" or rows.labels is not None) and (way != "internal" or taps)
    ]
    if not ways:
        raise UsageError(
            "no way to train the student is left",
            code="distil_ways",
            where=NAME,
            expected="labels for 'plain', a kind of inner loss for 'internal'",
            hint='add "soft" to ways',
        )
    trained = [_train(way, teacher, student, rows, soft, taps, train, config, context) for way in ways]
    chosen = max(
        trained, key=lambda item: (item.history.rank if context.validation is not None else (0.0, 0.0), ways.index(item.way))
    )
    evidence: dict[str, object] = {
        "student": config.student or f"the model with {config.ratio:g} of its channels removed",
        "teachers": len(teachers),
        "ensemble_training": [history.to_json() for history in training],
        "taps": [str(tap) for tap in taps],
        "inner_loss": config.internal if taps else "none",
        "ways": {item.way: item.history.to_json() for item in trained},
        "kept": chosen.way,
        "kept_because": "best on the validation part" if context.validation is not None else "last way: no validation part",
    }
    return finish(model, chosen.module, train, technique=NAME, seed=context.seed, evidence=evidence)


def _teachers(teacher: Any, train: Dataset, config: Distil, context: TechniqueContext) -> tuple[list[Any], list[TrainingHistory]]:
    """The model, the further teachers that are given, and copies of the model trained from other seeds."""
    teachers, histories = [teacher], []
    if config.teacher:
        with torch_reproducible(context.seed):
            teachers += [module.eval() for module in modules_from(config.teacher, where=NAME)[: MAX_TEACHERS - 1]]
    while len(teachers) < config.ensemble:
        seed = (context.seed + _TEACHER_STREAM * len(teachers)) % 2**32
        member = _fresh_copy(teacher, seed=seed)
        histories.append(train_module(member, train, context.validation, task=context.task, plan=context.training, seed=seed))
        teachers.append(member)
    return teachers, histories


def _fresh_copy(module: Any, *, seed: int) -> Any:
    """The same network with the weights that its layers would begin with; parameters outside of layers stay."""
    fresh = copy.deepcopy(module)
    with torch_reproducible(seed):
        for layer in fresh.modules():
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if callable(reset):
                reset()
    return fresh


def _taps(teacher: Any, student: Any, example: tuple[Any, ...], config: Distil) -> tuple[Tap, ...]:
    if config.internal == "none" or "internal" not in config.ways:
        return ()
    return choose_taps(teacher, student, example, config.taps, where=NAME)


def _train(
    way: str,
    teacher: Any,
    student: Any,
    rows: Rows,
    soft: SoftLabels,
    taps: tuple[Tap, ...],
    train: Dataset,
    config: Distil,
    context: TechniqueContext,
) -> _Trained:
    """One way, from the same beginning as the others."""
    module = copy.deepcopy(student)
    with ExitStack() as stack:
        extra = None
        if way == "internal":
            with torch_reproducible(context.seed):
                inner = stack.enter_context(
                    Internals(
                        teacher,
                        module,
                        taps,
                        kind=config.internal,
                        weight=config.internal_weight,
                        example=rows.example(),
                        where=NAME,
                    )
                )
            extra = Extra(inner.loss, inner.parameters)
        history = train_module(
            module,
            train,
            context.validation,
            task=context.task,
            plan=context.training,
            seed=context.seed,
            teacher=None if way == "plain" else soft,
            extra=extra,
        )
    return _Trained(way, module, history)
