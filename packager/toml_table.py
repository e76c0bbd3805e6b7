"""Reads typed keys out of one TOML table, so that a misspelt key is an error and never a silent default.

Used by ``recipe.py`` and by the techniques for their own tables. Errors name the file, the key and what was expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from device_client.errors import UsageError


class TomlTable:
    """One table of a recipe being read; call ``finish`` when every known key was asked for.

    Args:
        value: what ``tomllib`` returned for the table.
        where: file and path inside it, for errors.
    """

    def __init__(self, value: object, *, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise UsageError("wrong recipe entry", code="recipe_type", where=where, expected="a table", actual=type(value).__name__)
        self._value: Mapping[str, Any] = value
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """True if the key is there."""
        return key in self._value

    def text(self, key: str, default: str, *, choices: Iterable[str] | None = None) -> str:
        """A string, one of ``choices`` if given."""
        value = self._take(key, default)
        if not isinstance(value, str):
            self._wrong(key, "a string", value)
        if choices is not None and value not in tuple(choices):
            self._wrong(key, " | ".join(choices), value)
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            self._wrong(key, "true or false", value)
        return value

    def integer(self, key: str, default: int, *, minimum: int, maximum: int) -> int:
        """A whole number in ``[minimum, maximum]``."""
        value = self._take(key, default)
        if type(value) is not int or not minimum <= value <= maximum:
            self._wrong(key, f"a whole number in {minimum}..{maximum}", value)
        return value

    def number(self, key: str, default: float, *, minimum: float, maximum: float) -> float:
        """A number in ``[minimum, maximum]``."""
        value = self.optional_number(key, minimum=minimum, maximum=maximum)
        return default if value is None else value

    def optional_number(self, key: str, *, minimum: float, maximum: float) -> float | None:
        """A number in ``[minimum, maximum]``, or ``None`` where the key is absent."""
        value = self._take(key, None)
        if value is None:
            return None
        if type(value) not in (int, float) or not minimum <= value <= maximum:
            self._wrong(key, f"a number in {minimum}..{maximum}", value)
        return float(value)

    def texts(self, key: str, default: tuple[str, ...] = (), *, choices: Iterable[str] | None = None) -> tuple[str, ...]:
        """An array of strings, each one of ``choices`` if given."""
        value = self._take(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(key, "an array of strings", value)
        if choices is not None and not (value and set(value) <= set(choices)):
            self._wrong(key, f"an array of {' | '.join(choices)}", value)
        return tuple(value)

    def optional_range(self, key: str) -> tuple[float, float] | None:
        """``[low, high]`` with low below high, or ``None`` where the key is absent."""
        value = self._take(key, None)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or not all(type(item) in (int, float) for item in value):
            self._wrong(key, "[low, high]", value)
        low, high = float(value[0]), float(value[1])
        if not -3e38 < low < high < 3e38:
            self._wrong(key, "[low, high], finite, low below high", value)
        return low, high

    def table(self, key: str) -> TomlTable:
        """A sub-table; empty where it is absent."""
        return TomlTable(self._take(key, {}), where=f"{self.where}: {key}")

    def tables(self, key: str) -> dict[str, TomlTable]:
        """Sub-tables by name, for ``[inputs.NAME]``."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            self._wrong(key, "tables by name", value)
        return {name: TomlTable(item, where=f"{self.where}: {key}.{name}") for name, item in value.items()}

    def list_of_tables(self, key: str) -> list[TomlTable] | None:
        """An array of tables (``[[key]]``), or ``None`` where the key is absent."""
        if key not in self._value:
            self._known.append(key)
            return None
        return [TomlTable(item, where=f"{self.where}: {key}[{index}]") for index, item in enumerate(self.list_of_raw_tables(key))]

    def list_of_raw_tables(self, key: str) -> list[object]:
        """An array of tables, unread; empty where the key is absent."""
        value = self._take(key, [])
        if not isinstance(value, list):
            self._wrong(key, f"an array of tables, [[{key}]]", value)
        return list(value)

    def numbers(self, key: str, *, minimum: float, maximum: float) -> tuple[tuple[str, float], ...]:
        """A table of numbers by name, sorted by name."""
        table = self.table(key)
        found = {name: table.number(name, 0.0, minimum=minimum, maximum=maximum) for name in table._value}
        return tuple(sorted(found.items()))

    def finish(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self._value:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                raise UsageError(
                    f"unknown recipe key '{key}'",
                    code="recipe_key",
                    where=self.where,
                    expected=", ".join(sorted(self._known)),
                    hint=f"did you mean '{close[0]}'?" if close else "remove the key, or see docs/recipes.md",
                )

    def _take(self, key: str, default: object) -> Any:
        self._known.append(key)
        return self._value.get(key, default)

    def _wrong(self, key: str, expected: str, value: object) -> NoReturn:
        raise UsageError(
            f"wrong recipe value of '{key}'", code="recipe_value", where=self.where, expected=expected, actual=repr(value)[:80]
        )
