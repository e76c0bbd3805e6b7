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
from packager.nas.config import Nas
from packager.prune_onnx.config import PruneChannels
from packager.ptq.dynamic import Int8Dynamic, quantise_int8_dynamic
from packager.ptq.equalise import Equalise, equalise
from packager.ptq.fp16 import Fp16, narrow_weights
from packager.ptq.smooth import Smooth, smooth
from packager.ptq.static import Int8Static, quantise_int8_static
from packager.ptq.weight_only import WeightOnly, quantise_weights
from packager.toml_table import TomlTable
from packager.train.distil import Distil, distil
from packager.train.qat import Qat, qat
from packager.train.sparse import PruneNM, PruneUnstructured, prune_nm, prune_unstructured
from packager.train.structured import PruneStructured, prune_structured
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
    """One entry of the registry: how its table is read, and what it does with that config. ``trains``: needs the module."""

    read: Callable[[TomlTable], Any]
    apply: Callable[[Compressed, Any, TechniqueContext], Compressed]
    trains: bool = False


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


def _int8_dynamic(model: Compressed, config: Int8Dynamic, context: TechniqueContext) -> Compressed:
    result = quantise_int8_dynamic(model.data, config)
    evidence: dict[str, object] = {"technique": "int8-dynamic", "nodes": list(result.nodes)}
    return Compressed(result.data, "int8", (*model.evidence, evidence))


def _fp16(model: Compressed, config: Fp16, context: TechniqueContext) -> Compressed:
    result = narrow_weights(model.data, config)
    evidence: dict[str, object] = {"technique": "fp16", "constants": result.narrowed, "left_for_their_values": result.left}
    return Compressed(result.data, "fp16" if model.precision == "fp32" else model.precision, (*model.evidence, evidence))


def _weight_only(model: Compressed, config: WeightOnly, context: TechniqueContext) -> Compressed:
    result = quantise_weights(model.data, config, context.calibration)
    evidence: dict[str, object] = {
        "technique": "weight-only",
        "bits": config.bits,
        "method": config.method,
        "tensors": result.tensors,
        "weight_share": round(result.share, 6),
        "features": list(result.features),
    }
    precision = f"w{config.bits}" if model.precision == "fp32" else model.precision
    return Compressed(result.data, precision, (*model.evidence, evidence))


def _equalise(model: Compressed, config: Equalise, context: TechniqueContext) -> Compressed:
    result = equalise(model.data, config, context.calibration)
    evidence: dict[str, object] = {"technique": "equalise", "groups": result.groups}
    return Compressed(result.data, model.precision, (*model.evidence, evidence))


def _smooth(model: Compressed, config: Smooth, context: TechniqueContext) -> Compressed:
    result = smooth(model.data, config, context.calibration)
    evidence: dict[str, object] = {"technique": "smooth", "places": result.places}
    return Compressed(result.data, model.precision, (*model.evidence, evidence))


def _prune_channels(model: Compressed, config: PruneChannels, context: TechniqueContext) -> Compressed:
    from packager.prune_onnx.prune import prune_channels

    return prune_channels(model, config, context)


def _nas(model: Compressed, config: Nas, context: TechniqueContext) -> Compressed:
    from packager.nas.technique import search_architecture

    return search_architecture(model, config, context)


def _codebook(model: Compressed, config: Codebook, context: TechniqueContext) -> Compressed:
    result = cluster_weights(model.data, config, context.calibration)
    return Compressed(result.data, model.precision, (*model.evidence, result.evidence))


TECHNIQUES: dict[str, Technique] = {
    "adaround": Technique(WeightOnly.adaround_from_toml, _weight_only),
    "codebook": Technique(Codebook.from_toml, _codebook),
    "equalise": Technique(Equalise.from_toml, _equalise),
    "fp16": Technique(Fp16.from_toml, _fp16),
    "gptq": Technique(WeightOnly.gptq_from_toml, _weight_only),
    "int8-dynamic": Technique(Int8Dynamic.from_toml, _int8_dynamic),
    "int8-static": Technique(Int8Static.from_toml, _int8_static),
    "smooth": Technique(Smooth.from_toml, _smooth),
    "weight-only": Technique(WeightOnly.from_toml, _weight_only),
    "distil": Technique(Distil.from_toml, distil, trains=True),
    "prune-nm": Technique(PruneNM.from_toml, prune_nm, trains=True),
    "prune-unstructured": Technique(PruneUnstructured.from_toml, prune_unstructured, trains=True),
    "qat": Technique(Qat.from_toml, qat, trains=True),
    "prune-structured": Technique(PruneStructured.from_toml, prune_structured, trains=True),
    "nas": Technique(Nas.from_toml, _nas),
    "prune-channels": Technique(PruneChannels.from_toml, _prune_channels),
}
