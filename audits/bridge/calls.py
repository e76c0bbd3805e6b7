"""What an operator's translation gets: tensors, attributes, opset; and the registry of translations.

A translation is a pure function from ``Call`` to one tensor or a tuple of tensors. Operators that are not registered
are an error that names them: an audit never guesses what a model computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from audits.bridge.graph import BridgeError, Node

Tensor: TypeAlias = torch.Tensor
Translation = Callable[["Call"], "Tensor | tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Call:
    """One operator call with its inputs; an absent optional input is None."""

    node: Node
    inputs: tuple[Tensor | None, ...]
    opset: int

    def tensor(self, index: int) -> Tensor:
        """A required input."""
        found = self.optional(index)
        if found is None:
            raise BridgeError(f"{self.node.op} lacks input {index}", code="bridge_graph", where=self.node.name or self.node.op)
        return found

    def optional(self, index: int) -> Tensor | None:
        """An input that may be absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, or its default from the ONNX specification."""
        return self.node.attributes.get(name, default)

    def integers(self, index: int, attribute: str) -> list[int] | None:
        """Integers that newer opsets pass as input ``index`` and older ones as an attribute."""
        tensor = self.optional(index)
        if tensor is not None:
            return [int(value) for value in tensor.detach().reshape(-1)]
        values = self.node.attributes.get(attribute)
        return None if values is None else [int(value) for value in values]

    def unsupported(self, what: str) -> BridgeError:
        """The error for a form of this operator that has no translation."""
        return BridgeError(f"operator form not supported: {self.node.op} with {what}", code="bridge_operator", where=self.node.name)


def straight_through(forward: Tensor, x: Tensor) -> Tensor:
    """The values of ``forward``, bit for bit, with the gradient of ``x``: for rounding, whose own gradient is zero.

    Source: Bengio et al. 2013, straight-through estimator.
    """
    return forward.detach() + (x - x.detach())


class Registry:
    """Operator name to translation, default domain only."""

    def __init__(self) -> None:
        self._translations: dict[str, Translation] = {}

    def register(self, *names: str) -> Callable[[Translation], Translation]:
        """Decorator that files a translation under one or more operator names."""

        def add(translation: Translation) -> Translation:
            for name in names:
                self._translations[name] = translation
            return translation

        return add

    def names(self) -> frozenset[str]:
        """All operators that have a translation."""
        return frozenset(self._translations)

    def find(self, node: Node) -> Translation:
        """The translation of ``node``.

        Raises:
            BridgeError: the operator or its domain is unknown; the message names it.
        """
        translation = self._translations.get(node.op) if node.domain in {"", "ai.onnx"} else None
        if translation is None:
            name = f"{node.domain}.{node.op}" if node.domain else node.op
            raise BridgeError(
                f"the bridge does not know the operator {name}",
                code="bridge_operator",
                where=node.name or "graph",
                hint="this model cannot be attacked with gradients; its audit is INCONCLUSIVE",
            )
        return translation
