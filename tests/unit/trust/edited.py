"""JSON documents with one thing changed, for tests that ask each rule of a closed schema in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from device_client.errors import SealiftError

REMOVED = object()
Place = tuple[str | int, ...]


def edited(document: Any, place: Place, value: Any) -> Any:
    """A copy of ``document`` in which ``place`` holds ``value``, or is not there for ``REMOVED``."""
    whole = copy.deepcopy(document)
    holder = whole
    for step in place[:-1]:
        holder = holder[step]
    if value is REMOVED:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return whole


def with_a_stranger(document: Any) -> Iterator[Any]:
    """For each object anywhere in ``document`` a copy in which that object has one field more."""
    for place in _objects(document, ()):
        yield edited(document, (*place, "stranger"), 1)


def without_one_field(document: Any) -> Iterator[Any]:
    """For each field anywhere in ``document`` a copy without it."""
    for place in _objects(document, ()):
        holder = document
        for step in place:
            holder = holder[step]
        for key in holder:
            yield edited(document, (*place, key), REMOVED)


def code_of(call: Callable[[], object]) -> str | None:
    """The code that ``call`` is refused with; None when it is not."""
    try:
        call()
    except SealiftError as refusal:
        return refusal.code
    return None


def _objects(value: Any, place: Place) -> Iterator[Place]:
    if isinstance(value, dict):
        yield place
        for key, inner in value.items():
            yield from _objects(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _objects(inner, (*place, index))
