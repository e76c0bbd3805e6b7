"""The spaces that are searched: a few whole-network choices per family, and the architecture that follows from them.

MobileNet-style: inverted residuals with depthwise convolutions (Sandler et al. 2018). SqueezeNet-style: fire modules
(Iandola et al. 2016). EfficientNet-style: the same blocks with squeeze-and-excite, and width, depth and resolution scaled
(Tan and Le 2019). We differ in size: these networks have some hundreds to some ten thousands of weights, so choices hold
for the whole network and few trials cover them.

Pure: no torch, no randomness. The number of spatial axes does not matter here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Choice = int | float | str

WIDTHS = (4, 8, 12, 16, 24)
"""Channels of the first layer."""

COMMON: Mapping[str, tuple[Choice, ...]] = {
    "width": WIDTHS,
    "kernel": (3, 5, 7),
    "stem_stride": (1, 2),
    "stages": (1, 2, 3),
    "growth": (1.0, 1.5, 2.0),
    "head": ("average", "flatten"),
}
"""Choices of every family; each stage halves the resolution and multiplies the channels by ``growth``.

An average over positions is small; what matters by its position, such as the end of a window, needs them all.
"""

OWN: Mapping[str, Mapping[str, tuple[Choice, ...]]] = {
    "mobilenet": {"expand": (1, 2, 4), "repeats": (1, 2)},
    "squeezenet": {"squeeze": (0.125, 0.25, 0.5), "repeats": (1, 2)},
    "efficientnet": {"expand": (1, 2, 4), "scale_width": (0.5, 1.0, 1.5), "scale_depth": (1, 2), "shrink": (1, 2, 4)},
}

_START: Mapping[str, Choice] = {"width": 8, "kernel": 5, "stem_stride": 2, "stages": 2, "growth": 2.0}

START: Mapping[str, Mapping[str, Choice]] = {
    "mobilenet": {**_START, "head": "flatten", "expand": 2, "repeats": 1},
    "squeezenet": {**_START, "head": "average", "squeeze": 0.5, "repeats": 1},
    "efficientnet": {**_START, "head": "average", "expand": 2, "scale_width": 1.0, "scale_depth": 1, "shrink": 1},
}
"""A hand-made network of each family: tried first, so that a short search is never worse than these."""


@dataclass(frozen=True)
class Stage:
    """Blocks of equal width. ``kind``: ``mbconv`` or ``fire``; ``factor``: expansion, or share that is squeezed to."""

    kind: str
    channels: int
    repeats: int
    stride: int
    factor: float
    excite: bool = False


@dataclass(frozen=True)
class Architecture:
    """Everything that a network is built from.

    ``shrink``: the input is averaged over windows of this size first. ``average``: over all positions, before the last layer.
    """

    family: str
    stem: int
    stem_stride: int
    kernel: int
    stages: tuple[Stage, ...]
    shrink: int = 1
    average: bool = True

    @property
    def reduction(self) -> int:
        """How many input positions one position of the last stage stands for, along one axis."""
        total = self.shrink * self.stem_stride
        for stage in self.stages:
            total *= stage.stride
        return total


def choices(family: str) -> dict[str, tuple[Choice, ...]]:
    """The names and values to choose from."""
    return {**COMMON, **OWN[family]}


def architecture(family: str, chosen: Mapping[str, Choice]) -> Architecture:
    """The network that these choices mean."""
    width = float(chosen["width"]) * float(chosen.get("scale_width", 1.0))
    repeats = int(chosen.get("scale_depth", chosen.get("repeats", 1)))
    fire = family == "squeezenet"
    stages = []
    for number in range(int(chosen["stages"])):
        channels = _multiple_of_4(width * float(chosen["growth"]) ** (number + 1))
        factor = float(chosen["squeeze" if fire else "expand"])
        stages.append(Stage("fire" if fire else "mbconv", channels, repeats, 2, factor, excite=family == "efficientnet"))
    stem = _multiple_of_4(width)
    shrink = int(chosen.get("shrink", 1))
    return Architecture(
        family, stem, int(chosen["stem_stride"]), int(chosen["kernel"]), tuple(stages), shrink, chosen["head"] == "average"
    )


def _multiple_of_4(value: float) -> int:
    return max(4, int(value / 4 + 0.5) * 4)
