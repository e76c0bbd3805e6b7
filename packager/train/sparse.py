"""The techniques ``prune-unstructured`` and ``prune-nm``: zeros among the weights, grown while the rest trains on.

What they are worth: bytes. Zeros compress, so the file that is stored and sent gets smaller; the file that runs keeps its
size and speed, because the runtime has no kernels for zeros. Both say so in their evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_client.errors import UsageError
from packager.toml_table import TomlTable
from packager.train.finish import finish
from packager.train.loop import train_module
from packager.train.masks import (
    GROWTH_SHARE,
    GrowingMasks,
    Target,
    choose_n_of_m,
    choose_smallest,
    divides,
    find_targets,
    verify_in_file,
)
from packager.train.need import need_module, need_rows
from packager.train.rows import make_rows
from packager.train.teacher import teach

if TYPE_CHECKING:
    from packager.technique import Compressed, TechniqueContext

VALUE = "fewer bytes as stored: zeros compress; time and memory stay, because the arithmetic is dense"


@dataclass(frozen=True)
class PruneUnstructured:
    """Settings of ``prune-unstructured``.

    ``sparsity``: share of zeros in the end, of each tensor (``scope = "layer"``) or over the network. ``min_elements``:
    smaller tensors keep all weights. ``soft_weight``: of the original's outputs while training, against the labels.
    """

    sparsity: float = 0.7
    scope: str = "layer"
    min_elements: int = 256
    exclude: tuple[str, ...] = ()
    soft_weight: float = 0.5
    temperature: float = 2.0

    @classmethod
    def from_toml(cls, table: TomlTable) -> PruneUnstructured:
        """Reads the technique's table of a recipe."""
        default = cls()
        return cls(
            sparsity=table.number("sparsity", default.sparsity, minimum=0.01, maximum=0.99),
            scope=table.text("scope", default.scope, choices=("layer", "network")),
            min_elements=table.integer("min_elements", default.min_elements, minimum=1, maximum=2**31),
            exclude=table.texts("exclude"),
            soft_weight=table.number("soft_weight", default.soft_weight, minimum=0.0, maximum=1.0),
            temperature=table.number("temperature", default.temperature, minimum=0.1, maximum=100.0),
        )


@dataclass(frozen=True)
class PruneNM:
    """Settings of ``prune-nm``: ``n`` of every ``m`` weights stay, along the inputs. Others as in ``PruneUnstructured``."""

    n: int = 2
    m: int = 4
    min_elements: int = 256
    exclude: tuple[str, ...] = ()
    soft_weight: float = 0.5
    temperature: float = 2.0

    @classmethod
    def from_toml(cls, table: TomlTable) -> PruneNM:
        """Reads the technique's table of a recipe.

        Raises:
            UsageError: ``n`` not below ``m``.
        """
        default = cls()
        config = cls(
            n=table.integer("n", default.n, minimum=1, maximum=31),
            m=table.integer("m", default.m, minimum=2, maximum=32),
            min_elements=table.integer("min_elements", default.min_elements, minimum=1, maximum=2**31),
            exclude=table.texts("exclude"),
            soft_weight=table.number("soft_weight", default.soft_weight, minimum=0.0, maximum=1.0),
            temperature=table.number("temperature", default.temperature, minimum=0.1, maximum=100.0),
        )
        if config.n >= config.m:
            raise UsageError(
                "wrong recipe value of 'n'",
                code="recipe_value",
                where=table.where,
                expected=f"n below m = {config.m}",
                actual=config.n,
            )
        return config


def prune_unstructured(model: Compressed, config: PruneUnstructured, context: TechniqueContext) -> Compressed:
    """Zeroes the smallest weights of a copy of the module while it trains on.

    Raises:
        UsageError: no module, no training rows, or no weight to prune.
    """
    module = need_module(model, technique="prune-unstructured")
    targets = find_targets(module, min_elements=config.min_elements, exclude=config.exclude, where="prune-unstructured")
    masks = GrowingMasks(targets, choose_smallest(config.sparsity, network=config.scope == "network"))
    return _train_masked(model, module, masks, config, context, technique="prune-unstructured", notes={})


def prune_nm(model: Compressed, config: PruneNM, context: TechniqueContext) -> Compressed:
    """Keeps N of every M weights of a copy of the module while it trains on.

    Raises:
        UsageError: no module, no training rows, or no weight whose inputs divide by M.
    """
    module = need_module(model, technique="prune-nm")
    found = find_targets(module, min_elements=config.min_elements, exclude=config.exclude, where="prune-nm")
    targets: tuple[Target, ...] = tuple(target for target in found if divides(target.parameter, config.m))
    if not targets:
        raise UsageError(
            "no weight has inputs that divide into groups",
            code="prune_nothing",
            where="prune-nm",
            expected=f"a number of inputs divisible by {config.m}",
            hint="choose another m",
        )
    whole = [target.name for target in found if target not in targets]
    masks = GrowingMasks(targets, choose_n_of_m(config.n, config.m))
    return _train_masked(model, module, masks, config, context, technique="prune-nm", notes={"left_whole": whole})


def _train_masked(
    model: Compressed,
    module: Any,
    masks: GrowingMasks,
    config: PruneUnstructured | PruneNM,
    context: TechniqueContext,
    *,
    technique: str,
    notes: dict[str, object],
) -> Compressed:
    train, plan = need_rows(context, technique=technique), context.training
    teacher = teach(
        [module], make_rows(module, train), task=context.task, weight=config.soft_weight, temperature=config.temperature
    )
    history = train_module(
        module,
        train,
        context.validation,
        task=context.task,
        plan=plan,
        seed=context.seed,
        teacher=teacher,
        hook=masks,
        first_epoch=math.ceil(GROWTH_SHARE * plan.epochs) + 1,
    )
    masks.finish()
    evidence = {"value": VALUE, "masked": sorted(masks.masks), "training": history.to_json(), **notes}
    result = finish(model, module, train, technique=technique, seed=context.seed, evidence=evidence)
    result.evidence[-1].update(verify_in_file(result.data, masks.masks, where=technique))
    return result
