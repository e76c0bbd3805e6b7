"""Which chains are worth trying on a model, and what to try next to a result: graphs in, chains out.

The order is the order of expectation, so that a search that is cut off early has tried the likeliest first. The chains
without training come from ``packager.ptq.candidates``; weights alone, in 8 bits, in half precision and with few values, are tried
before all of them, since they are as fast as the original everywhere: after two trials there is something to ship, and after five
something small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from packager.auto.trial import Chain, Trial
from packager.codebook import Codebook
from packager.ptq.candidates import candidates, refine
from packager.ptq.fp16 import Fp16
from packager.ptq.sensitivity import NodeSensitivity
from packager.ptq.static import Int8Static
from packager.ptq.weight_only import WeightOnly
from packager.technique import TechniqueContext, TechniqueStep
from packager.train.distil import Distil
from packager.train.qat import Qat
from packager.train.structured import PruneStructured

WEIGHTS = TechniqueStep("weight-only", WeightOnly())
HALF = TechniqueStep("fp16", Fp16())
TARGETS = {"portable": "portable", "x86-vnni": "vnni"}
_RATIOS = (0.5, 0.75)  # of channels that go, where there are rows to recover on
_BITS = (5, 4, 3)
_CAREFUL_BITS = (8, 9, 10, 11, 12)
_QUANTISERS = ("int8-static", "int8-dynamic", "weight-only", "gptq", "adaround")


def weights_alone(*, eight_bits_do: bool) -> list[Chain]:
    """What follows weights of 8 bits: few values where those are within the budget, else more bits, up to about FP16."""
    if eight_bits_do:
        return _few_values((WEIGHTS,))
    careful = replace(WEIGHTS, config=replace(WEIGHTS.config, method="gptq"))
    return [(replace(careful, config=replace(careful.config, bits=bits)),) for bits in _CAREFUL_BITS]


def first_wave(
    model: bytes, *, context: TechniqueContext, trains: bool, classes: Sequence[str], eight_bits_do: Callable[[], bool]
) -> Iterator[Chain]:
    """The planned chains for a model in its normal form; ``eight_bits_do`` is asked once ``WEIGHTS`` was tried.

    Some may come twice.
    """
    yield (WEIGHTS,)
    yield (HALF,)
    yield from weights_alone(eight_bits_do=eight_bits_do())
    lists = [candidates(model, has_train=trains, task=context.task, target=TARGETS[kind]) for kind in classes]
    untrained = [chain for chain in itertools.chain.from_iterable(itertools.zip_longest(*lists)) if chain is not None]
    yield from untrained[:2]
    if trains:
        yield from _trained(untrained)
    yield from untrained[2:]


def gentler(chain: Chain, sensitivity: Callable[[Chain, TechniqueStep], Sequence[NodeSensitivity]]) -> list[Chain]:
    """Chains that quantise less than one that missed the budget or was too slow: fewer nodes in INT8.

    Args:
        chain: of the trial.
        sensitivity: the table of the model that the first steps make, worst first, under the step after them.
    """
    place = next((index for index, step in enumerate(chain) if step.name == "int8-static"), None)
    if place is None:
        return []
    table = sensitivity(chain[:place], chain[place])
    found = refine(chain, table)
    return [item if item[-1].name == "weight-only" else (*item, WEIGHTS) for item in found]


def mixed(chain: Chain, *, operators: Sequence[str]) -> list[Chain]:
    """Where INT8 arithmetic slows a network down: only some operators in INT8, the others' weights in 8 bits."""
    place = next((index for index, step in enumerate(chain) if step.name == "int8-static"), None)
    if place is None:
        return []
    found = []
    for operator in operators:
        step = replace(chain[place], config=replace(chain[place].config, ops=(operator,), exclude_nodes=()))
        found.append((*chain[:place], step, WEIGHTS))
    return found


def coarser(trial: Trial) -> Iterator[Chain]:
    """Chains that store the weights of a trial within the budget in fewer bits."""
    if any(step.name in ("codebook", "fp16") or getattr(step.config, "bits", 8) != 8 for step in trial.chain):
        return
    yield from _few_values(trial.chain)
    if trial.chain == (WEIGHTS,):
        yield (TechniqueStep("weight-only", WeightOnly(bits=4, block=32, method="adaround")),)


def arithmetic(chain: Chain) -> Chain:
    """The chain without what changes values alone: two chains with the same arithmetic are as fast as each other.

    Equalising and codebooks move weights; how ranges are found and weights rounded moves numbers in the same graph; and weights
    that are folded to FP32 when the file is opened compute as the original does, whatever they were stored in.
    """
    found = []
    for step in chain:
        is_folded = isinstance(step.config, Fp16) or (isinstance(step.config, WeightOnly) and step.config.form == "folded")
        if is_folded or step.name in ("equalise", "codebook", "bias-correction"):
            continue
        if isinstance(step.config, Int8Static):
            default = Int8Static()
            same = {key: getattr(default, key) for key in ("calibration", "rounding", "bias_correction")}
            found.append(replace(step, config=replace(step.config, **same)))
        else:
            found.append(step)
    return tuple(found)


def _few_values(chain: Chain) -> list[Chain]:
    return [(*chain, TechniqueStep("codebook", Codebook(bits=bits))) for bits in _BITS]


def _trained(untrained: Sequence[Chain]) -> list[Chain]:
    """Structure first, since everything after it is cheaper then; each followed by the likeliest quantisation."""
    last: list[Chain] = [*([tail] if (tail := _quantising(untrained)) else []), (WEIGHTS,)]
    starts: list[Chain] = [(TechniqueStep("prune-structured", PruneStructured(ratio=ratio)),) for ratio in _RATIOS]
    starts += [(TechniqueStep("distil", Distil(ratio=ratio)),) for ratio in _RATIOS]
    found = [(*start, *end) for start in starts for end in last]
    found += [(starts[1][0], TechniqueStep("qat", Qat())), (TechniqueStep("qat", Qat()),)]
    return found


def _quantising(untrained: Sequence[Chain]) -> Chain | None:
    """The first planned chain that quantises as it is, without node names of the original."""
    for chain in untrained:
        if chain[0].name in _QUANTISERS and not any(getattr(step.config, "exclude_nodes", ()) for step in chain):
            return chain
    return None
