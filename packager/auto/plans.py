"""Which chains are worth trying on a model, and what to try next to a result: graphs in, chains out.

The order is the order of expectation, so that a search that is cut off early has tried the likeliest first. The chains
without training come from ``packager.ptq.candidates``; weights alone, in 8 bits and in half precision, are tried before all
of them, since they are as fast as the original everywhere and lose next to nothing: after two trials there is something to ship.
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
_HALVED = (0.25, 0.5, 0.75)  # of the layers
_QUANTISERS = ("int8-static", "int8-dynamic", "weight-only", "gptq", "adaround")


def first_wave(model: bytes, *, context: TechniqueContext, trains: bool, classes: Sequence[str]) -> list[Chain]:
    """The planned chains for a model in its normal form."""
    lists = [candidates(model, has_train=trains, task=context.task, target=TARGETS[kind]) for kind in classes]
    untrained = [chain for chain in itertools.chain.from_iterable(itertools.zip_longest(*lists)) if chain is not None]
    found: list[Chain] = [(WEIGHTS,), (HALF,), *untrained[:2]]
    if trains:
        found += _trained(untrained)
    return list(dict.fromkeys([*found, *untrained]))


def gentler(chain: Chain, sensitivity: Callable[[Chain, TechniqueStep], Sequence[NodeSensitivity]]) -> list[Chain]:
    """Chains that quantise less than one that missed the budget or was too slow.

    Args:
        chain: of the trial.
        sensitivity: the table of the model that the first steps make, worst first, under the step after them.
    """
    place = next((index for index, step in enumerate(chain) if step.name in ("int8-static", "weight-only")), None)
    if place is None:
        return []
    table = sensitivity(chain[:place], chain[place])
    if chain == (WEIGHTS,):
        return [_halved(table, share=share) for share in _HALVED if len(table) * share >= 1]
    found = refine(chain, table)
    return [item if item[-1].name == "weight-only" else (*item, WEIGHTS) for item in found]


def _halved(table: Sequence[NodeSensitivity], *, share: float) -> Chain:
    """8-bit weights, but for the nodes that mind most: those in half precision."""
    worst = tuple(name for row in table[: int(len(table) * share)] for name in row.nodes)
    kept = tuple(sorted(worst, key=lambda name: int(name[1:])))
    return (replace(WEIGHTS, config=replace(WEIGHTS.config, exclude_nodes=kept)), HALF)


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
    if any(step.name == "codebook" for step in trial.chain):
        return
    for bits in _BITS:
        yield (*trial.chain, TechniqueStep("codebook", Codebook(bits=bits)))
    if trial.chain == (WEIGHTS,):
        yield (TechniqueStep("weight-only", WeightOnly(bits=4, block=32, method="adaround")),)


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
