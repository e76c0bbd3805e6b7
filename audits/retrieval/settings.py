"""Settings of the retrieval tests: their budgets, and what the policy tolerates; which of them run is in the policy's ``tests``.

The policy holds them in one table; its built-in values are in ``defaults.toml``. Every value has a range, and an unknown
key is an error, so that nothing that decides is left to a guess.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from audits.blackbox.label_only import LabelOnlySettings
from audits.blackbox.nes import NesSettings
from audits.policy import ATTACKS
from device_client.errors import UsageError

TESTS = ("identity", "black_box", "label_only", "swap_split")
_DEFAULTS = Path(__file__).with_name("defaults.toml")


@dataclass(frozen=True)
class RetrievalSettings:
    """See the comments of ``defaults.toml``."""

    identity_is_public: bool
    max_retrieval: float
    max_gap: float
    black_box_queries: int
    black_box_restarts: int
    black_box_pairs: int
    black_box_spread: float
    black_box_step: float
    black_box_decay: float
    black_box_stop: float
    label_only_queries: int
    label_only_search: int
    label_only_points: int
    label_only_radius: float
    planted_strengths: tuple[float, ...]
    planted_required: float
    swap_split_attacks: tuple[str, ...]
    swap_split_restarts: int
    reference_records: int

    @property
    def black_box(self) -> NesSettings:
        """For ``invert_by_scores``."""
        return NesSettings(
            queries=self.black_box_queries,
            restarts=self.black_box_restarts,
            pairs=self.black_box_pairs,
            spread=self.black_box_spread,
            step=self.black_box_step,
            decay=self.black_box_decay,
            stop=self.black_box_stop,
        )

    @property
    def label_only(self) -> LabelOnlySettings:
        """For ``invert_by_labels``."""
        return LabelOnlySettings(
            queries=self.label_only_queries,
            search=self.label_only_search,
            points=self.label_only_points,
            radius=self.label_only_radius,
        )


def default_section() -> dict[str, Any]:
    """The built-in table, as a policy file would hold it."""
    return tomllib.loads(_DEFAULTS.read_text(encoding="utf-8"))


def read_settings(section: Mapping[str, Any], *, where: str) -> RetrievalSettings:
    """The settings of a policy's table; a missing key takes its built-in value.

    Raises:
        UsageError: ``policy_unknown_key``, or ``policy_value`` for a wrong type or range.
    """
    names = {field.name for field in fields(RetrievalSettings)}
    section = {**default_section(), **section}
    if unknown := sorted(set(section) - names):
        raise UsageError(
            "unknown key", code="policy_unknown_key", where=where, actual=unknown[0], expected=", ".join(sorted(names))
        )
    table = _Table(section, where)
    settings = RetrievalSettings(
        identity_is_public=table.flag("identity_is_public"),
        max_retrieval=table.number("max_retrieval", 0.0, 1.0),
        max_gap=table.number("max_gap", 0.0, 2.0),
        black_box_queries=table.integer("black_box_queries", 10, 1_000_000),
        black_box_restarts=table.integer("black_box_restarts", 1, 64),
        black_box_pairs=table.integer("black_box_pairs", 1, 10_000),
        black_box_spread=table.number("black_box_spread", 1e-4, 10.0),
        black_box_step=table.number("black_box_step", 1e-5, 1.0),
        black_box_decay=table.number("black_box_decay", 0.0, 0.5),
        black_box_stop=table.number("black_box_stop", 0.01, 1.0),
        label_only_queries=table.integer("label_only_queries", 10, 1_000_000),
        label_only_search=table.integer("label_only_search", 1, 1_000_000),
        label_only_points=table.integer("label_only_points", 1, 10_000),
        label_only_radius=table.number("label_only_radius", 1e-4, 1.0),
        planted_strengths=table.growing("planted_strengths"),
        planted_required=table.number("planted_required", 1e-6, 1.0),
        swap_split_attacks=table.choices("swap_split_attacks", ATTACKS),
        swap_split_restarts=table.integer("swap_split_restarts", 1, 64),
        reference_records=table.integer("reference_records", 0, 1000),
    )
    if settings.planted_strengths[-1] < settings.planted_required:
        raise table.problem("planted_strengths", "the last at least planted_required")
    if settings.label_only_search >= settings.label_only_queries:
        raise table.problem("label_only_search", "below label_only_queries")
    if 2 * settings.black_box_pairs + 4 > settings.black_box_queries:
        raise table.problem("black_box_pairs", "two answers for each pair within black_box_queries")
    return settings


class _Table:
    """Reads values with their type and range; TOML integers count as numbers, booleans never do."""

    def __init__(self, section: Mapping[str, Any], where: str) -> None:
        self._section, self._where = section, where

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._section[key]
        if type(value) is not int or not low <= value <= high:
            raise self.problem(key, f"an integer in {low}..{high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self._section[key]
        if type(value) not in {int, float} or not low <= value <= high:
            raise self.problem(key, f"a number in {low}..{high}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._section[key]
        if type(value) is not bool:
            raise self.problem(key, "true or false")
        return value

    def choices(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        value = self._section[key]
        known = isinstance(value, list | tuple) and all(isinstance(item, str) and item in allowed for item in value)
        if not known or not value or len(set(value)) != len(value):
            raise self.problem(key, f"some of {', '.join(allowed)}")
        return tuple(value)

    def growing(self, key: str) -> tuple[float, ...]:
        value = self._section[key]
        numbers = isinstance(value, list | tuple) and all(type(item) in {int, float} and 0 < item <= 1 for item in value)
        if not numbers or not 1 <= len(value) <= 16 or sorted(set(value)) != list(value):
            raise self.problem(key, "1 to 16 growing numbers above 0 and at most 1")
        return tuple(float(item) for item in value)

    def problem(self, key: str, expected: str) -> UsageError:
        actual = repr(self._section[key])[:80]
        return UsageError(f"wrong value for {key}", code="policy_value", where=self._where, expected=expected, actual=actual)
