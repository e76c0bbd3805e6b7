"""Settings of the technique ``prune-channels``. No heavy import here, so that a recipe reads quickly."""

from __future__ import annotations

from dataclasses import dataclass

from packager.toml_table import TomlTable


@dataclass(frozen=True)
class PruneChannels:
    """What to remove.

    ``ratio``: share of the channels that can be removed. ``allocation``: ``global`` removes where it costs least, over
    all layers, at most ``MOST`` of one group; ``uniform`` takes the same share of each group. ``round_to``: channels left in a
    group are a multiple of it, where it has that many. ``min_channels``: left in every group. ``exclude``: nodes whose
    output channels stay, as ``Conv#3``: type and position among the nodes of the prepared graph. ``refit``: fit the
    weights of later layers to what they computed before.
    """

    ratio: float = 0.25
    allocation: str = "global"
    round_to: int = 1
    min_channels: int = 2
    exclude: tuple[str, ...] = ()
    refit: bool = True

    @classmethod
    def from_toml(cls, table: TomlTable) -> PruneChannels:
        """Reads the technique's table of a recipe."""
        default = cls()
        return cls(
            ratio=table.number("ratio", default.ratio, minimum=0.01, maximum=0.9),
            allocation=table.text("allocation", default.allocation, choices=("global", "uniform")),
            round_to=table.integer("round_to", default.round_to, minimum=1, maximum=256),
            min_channels=table.integer("min_channels", default.min_channels, minimum=1, maximum=65_536),
            exclude=table.texts("exclude"),
            refit=table.boolean("refit", default=default.refit),
        )
