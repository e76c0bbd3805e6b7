"""The registry of compression techniques: each is a frozen config plus one function, named in a recipe.

A recipe lists techniques; they are applied in order, each to the result of the one before. To add one: a config with
``from_toml``, a function, an entry in ``TECHNIQUES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from device_client.errors import UsageError
from packager.codebook import Codebook, cluster_weights
from packager.data import Dataset
from packager.quantise import Int8Static, quantise_int8_static
from packager.toml_table import TomlTable
from packager.training_plan import TrainingPlan


@dataclass(frozen=True)
class Compressed:
    """A model on its way through the techniques.

    ``data``: the ONNX file. ``evidence``: what each technique did, JSON values for the report. ``module``: the torch module
    that ``data`` was exported from, in eval mode, or ``None`` where there is none (any more); a technique that trains needs
    it, exports what it made of it, and hands both on. One that changes ``data`` alone hands on ``None``.
    """

    data: bytes
    precision: str
    evidence: tuple[dict[str, object], ...] = ()
    module: Any = None


@dataclass(frozen=True)
class TechniqueContext:
    """What a technique may look at: never the test part, and the validation part only to choose by.

    ``task``: as in the recipe, decided. ``seed``: of everything random. ``training``: how to train, where there are rows to
    train on.
    """

    calibration: Dataset
    validation: Dataset | None = None
    train: Dataset | None = None
    task: str = "regression"
    seed: int = 0
    training: TrainingPlan = field(default_factory=TrainingPlan)


@dataclass(frozen=True)
class Technique:
    """One entry of the registry: how its table is read, and what it does with that config."""

    read: Callable[[TomlTable], Any]
    apply: Callable[[Compressed, Any, TechniqueContext], Compressed]


@dataclass(frozen=True)
class TechniqueStep:
    """A technique with its config, as a recipe holds it."""

    name: str
    config: Any

    def to_json(self) -> dict[str, object]:
        """Name and every setting, defaults included."""
        return {"name": self.name, **{key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.config).items()}}


def read_technique(table: TomlTable) -> TechniqueStep:
    """Reads one ``[[technique]]`` table.

    Raises:
        UsageError: no such technique, or wrong settings.
    """
    name = table.text("name", "")
    if name not in TECHNIQUES:
        raise UsageError(
            "unknown technique",
            code="recipe_technique",
            where=table.where,
            expected=" | ".join(sorted(TECHNIQUES)),
            actual=repr(name)[:60],
            hint='write name = "int8-static"',
        )
    config = TECHNIQUES[name].read(table)
    table.finish()
    return TechniqueStep(name, config)


def apply_technique(step: TechniqueStep, model: Compressed, context: TechniqueContext) -> Compressed:
    """Applies one technique."""
    return TECHNIQUES[step.name].apply(model, step.config, context)


def _int8_static(model: Compressed, config: Int8Static, context: TechniqueContext) -> Compressed:
    result = quantise_int8_static(model.data, config, context.calibration)
    evidence: dict[str, object] = {
        "technique": "int8-static",
        "quantised_operators": dict(result.quantised_ops),
        "int8_weight_share": round(result.int8_weight_share, 6),
        "notes": list(result.notes),
    }
    return Compressed(result.data, "int8", (*model.evidence, evidence))


def _codebook(model: Compressed, config: Codebook, context: TechniqueContext) -> Compressed:
    result = cluster_weights(model.data, config, context.calibration)
    return Compressed(result.data, model.precision, (*model.evidence, result.evidence))


TECHNIQUES: dict[str, Technique] = {
    "codebook": Technique(Codebook.from_toml, _codebook),
    "int8-static": Technique(Int8Static.from_toml, _int8_static),
}
