"""Typed readers for the values of a policy's tables: every one bounded, every error names the key and what belongs there.

Used by ``policy`` and by the settings of each family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from device_client.errors import UsageError


class ValueProblemError(Exception):
    """A value that does not belong under its key; ``naming`` turns it into a ``UsageError``."""

    def __init__(self, key: str, expected: str, actual: object) -> None:
        self.key, self.expected, self.actual = key, expected, actual
        super().__init__(key)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Names the file and the key in what is raised.

    Raises:
        UsageError: ``policy_value``.
    """
    try:
        yield
    except ValueProblemError as e:
        raise UsageError(
            f"wrong value for {e.key}", code="policy_value", where=where, expected=e.expected, actual=repr(e.actual)[:80]
        ) from e


def read_section(value: object, kind: type[Any], where: str) -> dict[str, Any]:
    """A table with exactly the keys of the dataclass ``kind``.

    Raises:
        UsageError: no table, a key too many (``policy_unknown_key``) or too few.
    """
    return read_keys(value, {field.name for field in fields(kind)}, where)


def read_keys(value: object, names: set[str], where: str) -> dict[str, Any]:
    """A table with exactly the keys ``names``."""
    if not isinstance(value, dict):
        raise UsageError("not a table", code="policy_value", where=where)
    unknown, missing = sorted(set(value) - names), sorted(names - set(value))
    if unknown:
        raise UsageError(
            "unknown key", code="policy_unknown_key", where=where, actual=unknown[0], expected=", ".join(sorted(names))
        )
    if missing:
        raise UsageError("missing key", code="policy_value", where=where, expected=missing[0])
    return value


def read_text(v: Mapping[str, Any], key: str) -> str:
    """1 to 64 printable characters."""
    value = v[key]
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise ValueProblemError(key, "1 to 64 printable characters", value)
    return value


def read_choice(v: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    """One of ``choices``."""
    if v[key] not in choices:
        raise ValueProblemError(key, " | ".join(choices), v[key])
    return str(v[key])


def read_choices(v: Mapping[str, Any], key: str, choices: tuple[str, ...], *, at_least: int) -> tuple[str, ...]:
    """Some of ``choices``, none twice."""
    value = v[key]
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueProblemError(key, f"a list of {', '.join(choices)}", value)
    if len(value) < at_least or len(set(value)) != len(value) or set(value) - set(choices):
        raise ValueProblemError(key, f"at least {at_least} of {', '.join(choices)}, none twice", value)
    return tuple(value)


def read_flag(v: Mapping[str, Any], key: str) -> bool:
    """True or false."""
    if type(v[key]) is not bool:
        raise ValueProblemError(key, "true or false", v[key])
    return bool(v[key])


def read_integer(v: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """An integer in ``low..high``; a boolean is none."""
    value = v[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueProblemError(key, f"an integer in {low}..{high}", value)
    return value


def read_number(v: Mapping[str, Any], key: str, low: float, high: float) -> float:
    """A finite number in ``low..high``."""
    value = v[key]
    if type(value) not in {int, float} or not low <= value <= high:
        raise ValueProblemError(key, f"a number in {low}..{high}", value)
    return float(value)
