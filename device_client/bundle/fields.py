"""Reads typed fields out of a strict-JSON object, naming the place in every error.

Used by every document reader (manifest, contract, custom records, attestation, reports), so that "missing",
"wrong type" and "unknown field" are said the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from device_client.errors import FormatError

T = TypeVar("T")
_MISSING = object()


class Fields:
    """A JSON object being read.

    Args:
        value: what the parser returned.
        where: the document and the path inside it, for errors.
        known: if given, the schema is closed: any other key is refused.

    Raises:
        FormatError: ``value`` is not an object, or a key is unknown in a closed schema.
    """

    def __init__(self, value: object, *, where: str, known: Iterable[str] | None = None) -> None:
        if not isinstance(value, dict):
            raise FormatError("wrong type", code="field_type", where=where, expected="an object", actual=type(value).__name__)
        self._value: dict[str, object] = value
        self.where = where
        if known is not None:
            unknown = sorted(set(value) - set(known))
            if unknown:
                raise FormatError("unknown field", code="field_unknown", where=f"{where}.{shown(unknown[0])}"[:200])

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def keys(self) -> list[str]:
        """The keys in document order."""
        return list(self._value)

    def raw(self, key: str) -> object:
        """The value of a required key, unread."""
        value = self._value.get(key, _MISSING)
        if value is _MISSING:
            raise FormatError("missing field", code="field_missing", where=f"{self.where}.{key}")
        return value

    def text(self, key: str, *, choices: Iterable[str] | None = None, max_chars: int = 1024) -> str:
        """A required string, one of ``choices`` if given."""
        value = self._typed(key, str)
        if len(value) > max_chars:
            raise FormatError("string too long", code="field_type", where=self._at(key), expected=f"at most {max_chars} characters")
        if choices is not None and value not in set(choices):
            raise FormatError(
                "unknown value", code="field_value", where=self._at(key), expected=" | ".join(choices), actual=repr(value)[:80]
            )
        return value

    def integer(self, key: str, *, minimum: int = 0, maximum: int = 2**53 - 1) -> int:
        """A required integer in ``[minimum, maximum]``; booleans are not integers."""
        value = self._typed(key, int)
        if not minimum <= value <= maximum:
            raise FormatError(
                "out of range", code="field_value", where=self._at(key), expected=f"{minimum}..{maximum}", actual=value
            )
        return value

    def number(self, key: str) -> float:
        """A required finite number; an integer is taken as a float."""
        value = self.raw(key)
        if type(value) is int or type(value) is float:
            return float(value)
        raise self._wrong_type(key, "a number", value)

    def boolean(self, key: str) -> bool:
        """A required true or false."""
        return self._typed(key, bool)

    def fields(self, key: str, *, known: Iterable[str] | None = None) -> Fields:
        """A required object, to be read in turn."""
        return Fields(self.raw(key), where=self._at(key), known=known)

    def items(self, key: str, read: Callable[[object, str], T], *, max_items: int = 1024) -> tuple[T, ...]:
        """A required array, each element read by ``read(value, where)``."""
        value = self._typed(key, list)
        if len(value) > max_items:
            raise FormatError(
                "too many entries", code="too_many", where=self._at(key), expected=f"at most {max_items}", actual=len(value)
            )
        return tuple(read(item, f"{self._at(key)}[{index}]") for index, item in enumerate(value))

    def mapping(self, key: str, read: Callable[[object, str], T], *, max_items: int = 1024) -> dict[str, T]:
        """A required object used as a map, each value read by ``read(value, where)``."""
        value = self._typed(key, dict)
        if len(value) > max_items:
            raise FormatError(
                "too many entries", code="too_many", where=self._at(key), expected=f"at most {max_items}", actual=len(value)
            )
        return {name: read(item, f"{self._at(key)}.{shown(name)}"[:200]) for name, item in value.items()}

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}"

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self.raw(key)
        if type(value) is not kind:
            raise self._wrong_type(key, f"a {kind.__name__}", value)
        return value

    def _wrong_type(self, key: str, expected: str, value: object) -> FormatError:
        return FormatError("wrong type", code="field_type", where=self._at(key), expected=expected, actual=type(value).__name__)


def read_text(value: object, where: str) -> str:
    """Element reader for arrays and maps of strings."""
    if not isinstance(value, str) or len(value) > 1024:
        raise FormatError("wrong type", code="field_type", where=where, expected="a short string", actual=type(value).__name__)
    return value


def shown(name: str) -> str:
    """A key from outside, safe in a message: a terminal's control characters are escaped, and it is cut to 80."""
    return ascii(name)[1:-1][:80]
