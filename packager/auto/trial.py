"""One trial of the search: a chain of techniques and what came out. Pure values; no clock reading enters a bundle from here."""

from __future__ import annotations

from dataclasses import dataclass

from packager.latency import LatencyRatio
from packager.technique import Compressed, TechniqueStep

Chain = tuple[TechniqueStep, ...]


@dataclass(frozen=True)
class Trial:
    """A chain that was tried.

    ``model``: what it made, ``None`` if it failed. ``stored_bytes``: as the bundle would store it. ``drop``: of the metric
    on the rows that the search chooses by, original minus variant. ``spread``: the standard error of that drop.
    ``distortion``: mean squared error of the outputs as a share of the original outputs' variance.
    ``latency``: against the original on this machine, ``None`` where not measured. ``is_portable``: no CPU can overflow in
    it. ``failure``: why there is no model.
    """

    chain: Chain
    model: Compressed | None
    stored_bytes: int = 0
    drop: float = 0.0
    spread: float = 0.0
    distortion: float = 0.0
    latency: LatencyRatio | None = None
    is_portable: bool = True
    failure: str | None = None

    @property
    def id(self) -> str:
        """The techniques' names; several trials may share one."""
        return chain_id(self.chain)

    @property
    def size_bytes(self) -> int:
        """Bytes that the runtime gets; 0 for a failed trial."""
        return 0 if self.model is None else len(self.model.data)


def chain_id(chain: Chain) -> str:
    """A variant id for a chain: the names in order, cut to what a contract allows."""
    return "-".join(dict.fromkeys(step.name for step in chain))[:64].rstrip("-")


def describe_chain(chain: Chain) -> str:
    """The chain with every setting that is not a default, in one line for people."""
    parts = []
    for step in chain:
        default = type(step.config)()
        changed = [f"{key}={value}" for key, value in vars(step.config).items() if value != getattr(default, key)]
        parts.append(step.name + (f"({', '.join(changed)})" if changed else ""))
    return " + ".join(parts)
