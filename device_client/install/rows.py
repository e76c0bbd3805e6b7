"""Values of the device's database as types: what SQLite gives is checked once, here, before anything believes it."""

from __future__ import annotations

from datetime import datetime

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, StateError
from device_client.trust.times import parse_time


def read_integer(value: object) -> int:
    """An integer column.

    Raises:
        StateError: ``state_damaged``, as in every function here.
    """
    if type(value) is not int:
        raise StateError("the state holds a wrong type", code="state_damaged", expected="an integer")
    return value


def read_number(value: object) -> float:
    """A real column."""
    if type(value) is not float:
        raise StateError("the state holds a wrong type", code="state_damaged", expected="a number")
    return value


def read_counter(epoch: object, n: object) -> Counter:
    """The two columns of a release counter."""
    try:
        return Counter(read_integer(epoch), read_integer(n))
    except FormatError as e:
        raise StateError("the state holds a wrong counter", code="state_damaged") from e


def read_digest(value: object) -> Digest:
    """A digest column."""
    try:
        return Digest.parse(value, where="state")
    except FormatError as e:
        raise StateError("the state holds a wrong digest", code="state_damaged") from e


def read_model(value: object) -> ModelPath:
    """A model column."""
    try:
        return ModelPath.parse(str(value))
    except FormatError as e:
        raise StateError("the state holds a wrong name", code="state_damaged") from e


def read_time(value: object) -> datetime:
    """A time column."""
    try:
        return parse_time(value, "state")
    except FormatError as e:
        raise StateError("the state holds a wrong time", code="state_damaged") from e


def read_text(value: object) -> str | None:
    """A text column that may be null."""
    return None if value is None else str(value)
