"""JSON from outside, read so that every reader sees the same value or an error.

Refuses what the standard library's parser accepts: duplicate keys, NaN and Infinity, integers beyond 2^53-1,
floats that overflow, lone surrogates, a byte order mark, and nesting beyond ``Limits.max_json_depth``.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from device_client.errors import FormatError, LimitError
from device_client.limits import DEFAULT_LIMITS, Limits

# A string ends at its quote or with the text, so that every match succeeds and none is tried twice: linear on any input.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_strict(data: bytes, *, max_bytes: int, where: str, limits: Limits = DEFAULT_LIMITS) -> object:
    """Parses UTF-8 JSON.

    Raises:
        LimitError: longer than ``max_bytes``, or nested deeper than the limit.
        FormatError: anything that two JSON readers could take differently.
    """
    if len(data) > max_bytes:
        raise LimitError(
            "document too long", code="too_large", where=where, expected=f"at most {max_bytes} bytes", actual=len(data)
        )
    _check_depth(data, max_depth=limits.max_json_depth, where=where)

    def refuse(reason: str) -> NoReturn:
        raise FormatError(f"not strict JSON: {reason}", code="json_syntax", where=where)

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            refuse("duplicate key")
        return found

    def integer(text: str) -> int:
        if len(text) > 17 or abs(int(text)) > limits.max_json_integer:
            refuse("integer beyond 2^53-1")
        return int(text)

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse("number out of range")
        return value

    def constant(name: str) -> object:
        return refuse(f"{name} is not JSON")

    try:
        text = data.decode("utf-8", "strict")
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=number, parse_constant=constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates written as \ud800 fail here
    except (UnicodeError, json.JSONDecodeError) as e:
        raise FormatError(f"not strict JSON: {e}", code="json_syntax", where=where) from e
    parsed: object = value
    return parsed


def canonical_json(value: object) -> bytes:
    """The one byte form that Sealift writes: sorted keys, no spaces, UTF-8, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _check_depth(data: bytes, *, max_depth: int, where: str) -> None:
    """Counts brackets outside strings before the recursive parser sees the text."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > max_depth:
            raise LimitError("JSON nested too deeply", code="too_deep", where=where, expected=f"at most {max_depth} levels")
