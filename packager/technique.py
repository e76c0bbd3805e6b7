"""The registry of compression techniques: each is a frozen config plus one function, named in a recipe.

A recipe lists techniques; they are applied in order, each to the result of the one before. To add one: a config with
``from_toml``, a function, an entry in ``TECHNIQUES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from device_client.errors import UsageError
from packager.data import Dataset
from packager.quantise import Int8Static, quantise_int8_static
from packager.toml_table import TomlTable


@dataclass(frozen=True)
class Compressed:
    """A model on its way through the techniques. ``evidence``: what each did, JSON values for the report."""

    data: bytes
    precision: str
    evidence: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True)
class Technique:
    """One entry of the registry: how its table is read, and what it does with that config."""

    read: Callable[[TomlTable], Any]
    apply: Callable[[Compressed, Any, Dataset], Compressed]


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


def apply_technique(step: TechniqueStep, model: Compressed, calibration: Dataset) -> Compressed:
    """Applies one technique; only the calibration part of the data is ever handed to it."""
    return TECHNIQUES[step.name].apply(model, step.config, calibration)


def _int8_static(model: Compressed, config: Int8Static, calibration: Dataset) -> Compressed:
    result = quantise_int8_static(model.data, config, calibration)
    evidence: dict[str, object] = {
        "technique": "int8-static",
        "quantised_operators": dict(result.quantised_ops),
        "int8_weight_share": round(result.int8_weight_share, 6),
        "notes": list(result.notes),
    }
    return Compressed(result.data, "int8", (*model.evidence, evidence))


TECHNIQUES: dict[str, Technique] = {"int8-static": Technique(Int8Static.from_toml, _int8_static)}
