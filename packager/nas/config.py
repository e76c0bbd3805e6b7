"""Settings of the technique ``nas``. No heavy import here, so that a recipe reads quickly."""

from __future__ import annotations

from dataclasses import dataclass

from packager.toml_table import TomlTable

FAMILIES = ("mobilenet", "squeezenet", "efficientnet")


@dataclass(frozen=True)
class Nas:
    """How to search.

    ``trials``: networks that are trained. ``family``: one of ``FAMILIES``, or ``all``. ``max_bytes``: modelled size in
    INT8 form; 0: no limit but that the network is smaller than the original, in FP32. ``epochs``: of one trial; the one that
    is chosen is trained anew with the recipe's ``[train]``. ``tolerance``: how far below the original, on the validation
    part, the chosen one may be, if one is that good. ``teacher_weight``: of the original's outputs against the labels.
    ``resume``: a file that keeps finished trials; empty: none.
    """

    trials: int = 20
    family: str = "all"
    max_bytes: int = 0
    epochs: int = 4
    tolerance: float = 0.005
    teacher_weight: float = 0.5
    temperature: float = 2.0
    resume: str = ""

    @classmethod
    def from_toml(cls, table: TomlTable) -> Nas:
        """Reads the technique's table of a recipe."""
        default = cls()
        return cls(
            trials=table.integer("trials", default.trials, minimum=1, maximum=10_000),
            family=table.text("family", default.family, choices=("all", *FAMILIES)),
            max_bytes=table.integer("max_bytes", default.max_bytes, minimum=0, maximum=2**31),
            epochs=table.integer("epochs", default.epochs, minimum=1, maximum=1_000),
            tolerance=table.number("tolerance", default.tolerance, minimum=0.0, maximum=1.0),
            teacher_weight=table.number("teacher_weight", default.teacher_weight, minimum=0.0, maximum=1.0),
            temperature=table.number("temperature", default.temperature, minimum=0.1, maximum=100.0),
            resume=table.text("resume", default.resume),
        )
