"""Reads JSON values that decide nothing and are therefore looked at late: type, range and length of each are checked here.

A value of another form raises TypeError, ValueError or KeyError; ``render_report`` turns those into one error of ours. So a
number that somebody replaced by markup never reaches the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

MAX_ITEMS = 4096
MAX_NUMBERS = 100_000
MAX_TEXT = 4096
Interval = tuple[float, float]
T = TypeVar("T")


def number(value: object) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r:.40}")
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def count(value: object) -> int:
    """A whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"not a whole number: {value!r:.40}")
    if value < 0:
        raise ValueError("negative count")
    return value


def flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r:.40}")
    return value


def text(value: object) -> str:
    """A text of bounded length, not escaped yet."""
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r:.40}")
    if len(value) > MAX_TEXT:
        raise ValueError("text too long")
    return value


def interval(value: object) -> Interval:
    """Two finite numbers, the lower first."""
    low, high = numbers(value)
    if low > high:
        raise ValueError("an interval's lower end is above its upper end")
    return low, high


def numbers(value: object) -> tuple[float, ...]:
    """A bounded list of finite numbers."""
    return tuple(number(item) for item in sequence(value, most=MAX_NUMBERS))


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping):
        raise TypeError(f"not an object: {value!r:.40}")
    return value


def objects(value: object) -> tuple[Mapping[str, Any], ...]:
    """A bounded list of JSON objects."""
    return tuple(mapping(item) for item in sequence(value, most=MAX_ITEMS))


def sequence(value: object, *, most: int) -> Sequence[Any]:
    """A list of at most ``most`` values."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"not a list: {value!r:.40}")
    if len(value) > most:
        raise ValueError(f"more than {most} items")
    return value


def optional(reader: Callable[[object], T], value: object) -> T | None:
    """None, or what ``reader`` makes of it."""
    return None if value is None else reader(value)
