"""The policy's section on attribute inference.

```toml
[attribute]
sensitive = [3, "smoker"]          # columns, by index from 0 or by name
columns = ["age", "sex", "..."]    # names of all columns in their order; may be empty if indices are used
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from device_client.errors import UsageError

_MAX_COLUMNS = 100_000
_MAX_SENSITIVE = 16
_MAX_NAME = 128


@dataclass(frozen=True)
class AttributeSettings:
    """What is attacked and how it is judged.

    Attributes:
        sensitive: columns that an attacker wants to know; none: the test does not run.
        columns: names of all columns, or empty.
        max_values: a column with more distinct values is cut into ``bins``.
        bins: pieces with about equal numbers of records.
        max_records: members and held-outs each that are attacked; the rest is left out by the seed.
        min_records: fewer members or held-outs: the test does not run.
        folds: parts of the held-outs; attacker and baseline learn on all parts but one.
        tolerated: advantage over the baseline that is accepted; 0: none, and the p-value alone decides.
        planted_shares: shares of members whose value the planted models give away.
        planted_required: planted leaks of this share and more must be caught.
        shuffles: shuffled columns of each model and column, which must stay quiet.
        reference: also run ART's black-box attack, which is shown and never decides.
    """

    sensitive: tuple[int | str, ...] = ()
    columns: tuple[str, ...] = ()
    max_values: int = 12
    bins: int = 4
    max_records: int = 1000
    min_records: int = 50
    folds: int = 4
    tolerated: float = 0.0
    planted_shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    planted_required: float = 0.5
    shuffles: int = 2
    reference: bool = False


DEFAULT = AttributeSettings()


def read_settings(section: Mapping[str, Any], *, where: str) -> AttributeSettings:
    """The settings of a table; a missing key takes its default.

    Raises:
        UsageError: an unknown key (``policy_unknown_key``), a wrong type or range (``policy_value``).
    """
    known = {field.name for field in fields(AttributeSettings)}
    if unknown := sorted(set(section) - known):
        raise UsageError(
            "unknown key", code="policy_unknown_key", where=where, actual=unknown[0], expected=", ".join(sorted(known))
        )
    read = _Reader(section, where)
    settings = AttributeSettings(
        sensitive=read.sensitive(),
        columns=read.names(),
        max_values=read.integer("max_values", 2, 64),
        bins=read.integer("bins", 2, 32),
        max_records=read.integer("max_records", 20, 100_000),
        min_records=read.integer("min_records", 20, 100_000),
        folds=read.integer("folds", 2, 20),
        tolerated=read.number("tolerated", 0.0, 1.0),
        planted_shares=read.shares(),
        planted_required=read.number("planted_required", 0.0, 1.0),
        shuffles=read.integer("shuffles", 1, 64),
        reference=read.boolean("reference"),
    )
    if settings.planted_required > settings.planted_shares[-1]:
        raise read.wrong("planted_required", f"at most {settings.planted_shares[-1]:g}")
    if settings.min_records > settings.max_records:
        raise read.wrong("min_records", f"at most {settings.max_records}")
    return settings


class _Reader:
    def __init__(self, section: Mapping[str, Any], where: str) -> None:
        self._section, self._where = section, where

    def value(self, key: str) -> Any:
        return self._section.get(key, getattr(DEFAULT, key))

    def wrong(self, key: str, expected: str) -> UsageError:
        return UsageError(
            f"wrong value for {key}", code="policy_value", where=self._where, expected=expected, actual=repr(self.value(key))[:80]
        )

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.value(key)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"an integer in {low}..{high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.value(key)
        if type(value) not in {int, float} or not low <= value <= high:
            raise self.wrong(key, f"a number in {low}..{high}")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.value(key)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def sensitive(self) -> tuple[int | str, ...]:
        value = self.value("sensitive")
        expected = f"at most {_MAX_SENSITIVE} different columns, each an index from 0 or a name"
        if not isinstance(value, list | tuple) or len(value) > _MAX_SENSITIVE:
            raise self.wrong("sensitive", expected)
        for item in value:
            if not (_is_name(item) or (type(item) is int and 0 <= item < _MAX_COLUMNS)):
                raise self.wrong("sensitive", expected)
        if len(set(value)) != len(value):
            raise self.wrong("sensitive", expected)
        return tuple(value)

    def names(self) -> tuple[str, ...]:
        value = self.value("columns")
        good = isinstance(value, list | tuple) and len(value) <= _MAX_COLUMNS and all(_is_name(item) for item in value)
        if not good or len(set(value)) != len(value):
            raise self.wrong("columns", f"different names of 1 to {_MAX_NAME} printable characters")
        return tuple(value)

    def shares(self) -> tuple[float, ...]:
        value = self.value("planted_shares")
        good = isinstance(value, list | tuple) and 1 <= len(value) <= 32
        if not good or not all(type(item) in {int, float} and 0.0 < item <= 1.0 for item in value):
            raise self.wrong("planted_shares", "1 to 32 numbers above 0, at most 1")
        numbers = tuple(float(item) for item in value)
        if tuple(sorted(set(numbers))) != numbers:
            raise self.wrong("planted_shares", "growing numbers")
        return numbers


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _MAX_NAME and value.isprintable()
