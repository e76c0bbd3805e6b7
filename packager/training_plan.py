"""How techniques that train do so: the recipe's ``[train]`` table. No torch here, so that a recipe reads without it."""

from __future__ import annotations

from dataclasses import dataclass

from packager.toml_table import TomlTable


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of every training or recovery run.

    ``loss``: ``module:function`` of (outputs, labels), both torch tensors, returning a scalar; empty: cross entropy for
    classes, mean squared error otherwise. ``threads``: of torch; results depend on it, so it is a setting.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    batch_rows: int = 64
    loss: str = ""
    threads: int = 1

    @classmethod
    def from_toml(cls, table: TomlTable) -> TrainingPlan:
        """Reads the ``[train]`` table of a recipe.

        Raises:
            UsageError: an unknown key, or a value out of its range.
        """
        default = cls()
        plan = cls(
            epochs=table.integer("epochs", default.epochs, minimum=0, maximum=10_000),
            learning_rate=table.number("learning_rate", default.learning_rate, minimum=1e-9, maximum=10.0),
            batch_rows=table.integer("batch_rows", default.batch_rows, minimum=1, maximum=65_536),
            loss=table.text("loss", default.loss),
            threads=table.integer("threads", default.threads, minimum=1, maximum=64),
        )
        table.finish()
        return plan
