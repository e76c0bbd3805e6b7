"""Which chains are worth trying on a model, and what to try next to a result. Pure: graphs in, chains out.

The order is the order of expectation, so that a search that is cut off early has tried the likeliest first.
"""

from __future__ import annotations

from collections.abc import Iterator

from packager.auto.trial import Chain, Trial
from packager.ptq.static import Int8Static
from packager.technique import TechniqueContext, TechniqueStep


def first_wave(model: bytes, *, context: TechniqueContext, trains: bool, classes: tuple[str, ...]) -> list[Chain]:
    """The planned chains for a model in its normal form."""
    return [
        (TechniqueStep("int8-static", Int8Static()),),
        (TechniqueStep("int8-static", Int8Static(calibration="percentile")),),
        (TechniqueStep("int8-static", Int8Static(reduce_range=False)),),
    ]


def gentler(trial: Trial, model: bytes, *, context: TechniqueContext) -> Iterator[Chain]:
    """Chains that change less than a trial that missed the budget."""
    return iter(())


def coarser(trial: Trial, *, original: bytes) -> Iterator[Chain]:
    """Chains that change more than a trial that is well within the budget."""
    return iter(())
