"""One operator call of a graph, and the error of everything in the bridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_client.errors import SealiftError


class BridgeError(SealiftError):
    """The bridge cannot express this model; the audit of it is INCONCLUSIVE, never a pass."""


@dataclass(frozen=True)
class Node:
    """One operator call; an absent optional input is the empty string."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
