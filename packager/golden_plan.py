"""The settings of golden probes, apart from both the recipe that holds them and the code that follows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GoldenPlan:
    """Number of golden probes, how far they may grow in number and bytes, and how many mutants judge them."""

    probes: int = 4
    max_probes: int = 64
    max_bytes: int = 1024 * 1024
    mutants: int = 96
    min_score: float = 0.95
