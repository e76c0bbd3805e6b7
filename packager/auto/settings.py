"""How to search: the recipe's ``[auto]`` table. Nothing heavy here, so that a recipe reads fast."""

from __future__ import annotations

from dataclasses import dataclass

from packager.toml_table import TomlTable

PREFERENCES = ("balanced", "size", "latency")
CLASSES = ("portable", "x86-vnni")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class AutoPlan:
    """Settings of the search.

    ``prefer``: what counts among variants within the budget. ``classes``: the device classes that get a variant each:
    ``portable`` runs exactly the same on any CPU, ``x86-vnni`` only where the instructions are. ``max_seconds``: after this
    much time no further trial begins; 0: by the size of the model. ``max_trials``: a bound on their number.
    ``train``: whether techniques that train may be tried, where there is a torch module and rows to train on.
    """

    prefer: str = "balanced"
    classes: tuple[str, ...] = ("portable",)
    max_seconds: float = 0.0
    max_trials: int = 100
    train: bool = True

    @classmethod
    def from_toml(cls, table: TomlTable) -> AutoPlan:
        """Reads the ``[auto]`` table of a recipe.

        Raises:
            UsageError: an unknown key, or a value out of its range.
        """
        default = cls()
        plan = cls(
            prefer=table.text("prefer", default.prefer, choices=PREFERENCES),
            classes=table.texts("classes", default.classes, choices=CLASSES),
            max_seconds=table.number("max_seconds", default.max_seconds, minimum=0.0, maximum=7 * 86_400.0),
            max_trials=table.integer("max_trials", default.max_trials, minimum=1, maximum=10_000),
            train=table.boolean("train", default=default.train),
        )
        table.finish()
        return plan

    def seconds_for(self, model_bytes: int, *, trains: bool) -> float:
        """The time to search in, in seconds: as set, or 35 up to 1 MB, 180 up to 4 MB, 600 beyond or where it trains."""
        if self.max_seconds or trains:
            return self.max_seconds or 600.0
        return 35.0 if model_bytes <= MEGABYTE else 180.0 if model_bytes <= 4 * MEGABYTE else 600.0
