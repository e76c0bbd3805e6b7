"""Removes channels and neurons of a torch module, whatever depends on them included. The one door to Torch-Pruning.

That library follows which layers must shrink together (residual sums, concatenations, depthwise convolutions, flattening)
and ranks groups of channels. What it does not do, and this file does: leave the output layers alone, leave alone what a
module's own reshapes cannot take smaller, keep its mutable defaults from leaking between calls, and notice that nothing
was pruned. Trains nothing.

Source: Fang et al. 2023, "DepGraph: towards any structural pruning".
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from device_client.errors import MissingExtraError, UsageError
from packager.train.need import check_names, count_parameters
from packager.train.outputs import output_layers
from packager.train.rows import as_outputs

logger = logging.getLogger(__name__)
MAX_RATIO = 0.95
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError, ZeroDivisionError)


@dataclass(frozen=True)
class ChannelPlan:
    """What to remove. ``ratio``: of channels, per layer or over the network. ``exclude``: names of modules to leave alone."""

    ratio: float
    steps: int = 1
    round_to: int = 1
    scope: str = "layer"
    importance: str = "magnitude"
    exclude: tuple[str, ...] = ()


class ChannelPruner:
    """Prunes ``module`` in place, one call of ``step`` after the other, up to the plan's ratio.

    Args:
        module: a torch module in eval mode.
        example: its inputs, a few rows.
        plan: what to remove.
        gradients: called before each step where ``importance`` is ``taylor``; leaves gradients on the parameters.
        where: for errors.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        UsageError: an excluded name that does not exist, or a module that cannot be followed.
    """

    def __init__(
        self, module: Any, example: tuple[Any, ...], plan: ChannelPlan, *, gradients: Callable[[], None] | None, where: str
    ) -> None:
        self._module, self._example, self._plan, self._gradients, self._where = module, example, plan, gradients, where
        self._shapes = _output_shapes(module, example)
        self._excluded = _named(module, plan.exclude, where=where)
        self.left_alone = self._cannot_shrink()
        self._pruner = self._make(module, self.left_alone)

    def step(self) -> None:
        """Removes the next share of channels.

        Raises:
            UsageError: nothing could be removed, or the module does not run any more.
        """
        before = count_parameters(self._module)
        if self._gradients is not None:
            self._gradients()
        try:
            with quiet_library():
                self._pruner.step()
            shapes = _output_shapes(self._module, self._example)
        except _FAILURES as e:
            raise _failed(e, where=self._where) from e
        finally:
            self._module.zero_grad(set_to_none=True)
        if shapes != self._shapes:
            raise UsageError(
                "pruning changed the shape of the module's output",
                code="prune_failed",
                where=self._where,
                expected=self._shapes,
                actual=shapes,
                hint="name the last layer in 'exclude'",
            )
        if count_parameters(self._module) >= before:
            raise UsageError(
                "pruning removed nothing",
                code="prune_nothing",
                where=self._where,
                expected="layers with channels that may go",
                actual=f"{before} parameters before and after; left alone: {', '.join(self.left_alone) or 'none'}"[:300],
                hint="raise 'ratio', lower 'round_to' or 'steps', or take names out of 'exclude'",
            )

    def _make(self, module: Any, left_alone: tuple[str, ...]) -> Any:
        try:
            import torch_pruning
        except ModuleNotFoundError as e:
            raise MissingExtraError("train", missing=e.name or "torch_pruning") from e
        plan = self._plan
        names = dict(module.named_modules())
        kinds = {
            "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
            "taylor": torch_pruning.importance.GroupTaylorImportance,
        }
        try:
            with quiet_library():
                return torch_pruning.pruner.BasePruner(
                    module,
                    self._example if len(self._example) > 1 else self._example[0],
                    importance=kinds[plan.importance](),
                    global_pruning=plan.scope == "network",
                    pruning_ratio=plan.ratio,
                    max_pruning_ratio=MAX_RATIO,
                    iterative_steps=plan.steps,
                    ignored_layers=[names[name] for name in left_alone],
                    round_to=plan.round_to if plan.round_to > 1 else None,
                    in_channel_groups={},  # the library's defaults are shared by all pruners of a process
                    out_channel_groups={},
                    num_heads={},
                )
        except _FAILURES as e:
            raise _failed(e, where=self._where) from e

    def _cannot_shrink(self) -> tuple[str, ...]:
        """Names of layers to leave alone: outputs, excluded ones, attention, and those whose loss breaks ``forward``."""
        from torch import nn

        attention = [layer for layer in self._module.modules() if isinstance(layer, nn.MultiheadAttention)]
        fixed = [*output_layers(self._module, self._example), *self._excluded, *attention]
        known = tuple(name for name, layer in self._module.named_modules() if any(layer is other for other in fixed))
        if self._survives(known):
            return known
        found = list(known)
        for name in self._roots(known):
            if not self._survives(tuple(found), only=name):
                found.append(name)
                logger.debug("left alone: %s", name)
        return tuple(found)

    def _survives(self, left_alone: tuple[str, ...], *, only: str = "") -> bool:
        """True if a copy still runs after pruning half of each group, or of the group of layer ``only``."""
        trial = copy.deepcopy(self._module)
        try:
            with quiet_library():
                pruner = self._make_trial(trial, left_alone)
                for group in pruner.step(interactive=True):
                    if not only or dict(trial.named_modules())[only] is group[0].dep.target.module:
                        group.prune()
                return _output_shapes(trial, self._example) == self._shapes and _rows_are_apart(trial, self._example)
        except _FAILURES:
            return False

    def _make_trial(self, trial: Any, left_alone: tuple[str, ...]) -> Any:
        import torch_pruning

        names = dict(trial.named_modules())
        return torch_pruning.pruner.BasePruner(
            trial,
            self._example if len(self._example) > 1 else self._example[0],
            importance=torch_pruning.importance.GroupMagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=[names[name] for name in left_alone],
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )

    def _roots(self, left_alone: tuple[str, ...]) -> list[str]:
        trial = copy.deepcopy(self._module)
        names = {id(layer): name for name, layer in trial.named_modules()}
        try:
            with quiet_library():
                pruner = self._make_trial(trial, left_alone)
                return [names[id(group[0].dep.target.module)] for group in pruner.step(interactive=True)]
        except _FAILURES as e:
            raise _failed(e, where=self._where) from e


@contextmanager
def quiet_library() -> Iterator[None]:
    """The library warns of what is checked here in its own way (parameters outside layers, nothing left to prune)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _output_shapes(module: Any, example: tuple[Any, ...]) -> list[tuple[int, ...]]:
    import torch

    with torch.no_grad():
        return [tuple(output.shape) for output in as_outputs(module(*example))]


def _rows_are_apart(module: Any, example: tuple[Any, ...]) -> bool:
    """False where a reshape with a free size now mixes rows: the first row alone must give what it gives in the batch."""
    import torch

    with torch.no_grad():
        together = as_outputs(module(*example))
        alone = as_outputs(module(*(tensor[:1] for tensor in example)))
    return all(
        torch.allclose(many[:1], one, rtol=1e-3, atol=1e-4 * max(1.0, float(many.abs().max())))
        for many, one in zip(together, alone, strict=True)
    )


def _named(module: Any, names: tuple[str, ...], *, where: str) -> list[Any]:
    check_names(module, names, technique=where)
    layers = dict(module.named_modules())
    return [layers[name] for name in names]


def _failed(error: Exception, *, where: str) -> UsageError:
    return UsageError(
        f"the module cannot be pruned: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
        code="prune_failed",
        where=where,
        hint="name in 'exclude' the layers whose sizes the forward function knows as numbers",
    )
