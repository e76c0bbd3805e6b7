"""A bounded reader of protobuf messages, driven by tables: every field is known, or the file is refused.

Used by ``walker.py`` for ONNX. Stricter than protobuf itself, so that two parsers cannot read one file differently:
no unknown fields, no singular field twice, numbers in their shortest form, no groups, nothing after the end.
Reads in one pass; the content of large fields is skipped by its length, never copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from device_client.errors import FormatError, LimitError
from device_client.inference.onnx_schema import Field, Kind
from device_client.limits import Limits

_CHUNK_BYTES = 1 << 16  # packed integers are counted in pieces, so that memory stays small
_CONTINUED = bytes(range(0x80, 0x100))
_TOO_LONG_VARINT = re.compile(rb"[\x80-\xff]{10}")
_FIXED_BYTES = {Kind.FIXED32: 4, Kind.FIXED64: 8}
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which ONNX never uses


class Values:
    """The fields of one message, as far as a check needs them."""

    __slots__ = ("count", "first", "kept")

    def __init__(self) -> None:
        self.first: dict[str, object] = {}  # singular fields
        self.kept: dict[str, list[object]] = {}  # repeated fields whose values matter
        self.count: dict[str, int] = {}  # repeated fields: number of entries; singular bytes: their length

    def integer(self, name: str) -> int:
        """A singular number, 0 if absent."""
        value = self.first.get(name, 0)
        return value if isinstance(value, int) else 0

    def text(self, name: str) -> str:
        """A singular string, empty if absent."""
        value = self.first.get(name, "")
        return value if isinstance(value, str) else ""


class Reader:
    """One pass over one file. Recursion is bounded by ``max_model_depth``.

    Args:
        data: the file.
        schema: message name to its fields by number.
        checks: message name to what is asked of its fields; the result is what the parent message keeps.
        where: file or digest, for errors.
        limits: bounds on depth, number of fields and rank.
    """

    def __init__(
        self,
        data: bytes,
        *,
        schema: Mapping[str, Mapping[int, Field]],
        checks: Mapping[str, Callable[[Values], object]],
        where: str,
        limits: Limits,
    ) -> None:
        self._data = data
        self._view = memoryview(data)
        self._schema = schema
        self._checks = checks
        self._where = where
        self._limits = limits
        self._fields_left = limits.max_model_fields
        self._at = 0
        self.path: list[str] = []

    def read(self, kind: str, start: int, end: int) -> object:
        """Walks a message and returns what its check made of it.

        Raises:
            FormatError: bytes that are not that message, by the table or by a check.
            LimitError: too deep, too many fields, too many dimensions.
        """
        if len(self.path) > self._limits.max_model_depth:
            raise self.limit("nested too deeply", code="model_too_deep", expected=f"at most {self._limits.max_model_depth} levels")
        fields = self._schema[kind]
        values = Values()
        position = start
        while position < end:
            self._at = position
            self._fields_left -= 1
            if self._fields_left < 0:
                raise self.limit("too many fields", code="model_too_large", expected=f"at most {self._limits.max_model_fields}")
            tag, position = self._varint(position, end)
            field = fields.get(tag >> 3)
            if field is None:
                raise self._unknown(kind, tag >> 3, tag & 7)
            if not field.repeated and field.name in values.first:
                raise self.refusal(f"field '{field.name}' is repeated", code="model_field_repeated")
            position = self._field(field, tag & 7, values, position=position, end=end)
        check = self._checks.get(kind)
        return check(values) if check else None

    def _field(self, field: Field, wire: int, values: Values, *, position: int, end: int) -> int:
        """Reads one field's content and returns the position behind it."""
        if field.kind is Kind.INTEGER and wire == _VARINT:
            value, position = self._varint(position, end)
            self._number(field, value, values)
            return position
        if field.kind in _FIXED_BYTES and wire == (_I32 if field.kind is Kind.FIXED32 else _I64):
            position += _FIXED_BYTES[field.kind]
            if position > end:
                raise self.refusal("truncated", code="model_syntax")
            self._number(field, 0, values)
            return position
        is_number = field.kind is Kind.INTEGER or field.kind in _FIXED_BYTES
        if wire != _LEN or (is_number and not field.repeated):
            raise self.refusal(f"field '{field.name}' has wire type {wire}", code="model_syntax")
        length, position = self._varint(position, end)
        stop = position + length
        if stop > end:
            raise self.refusal("truncated", code="model_syntax", expected=f"{length} bytes", actual=end - position)
        if is_number:
            self._packed(field, values, start=position, stop=stop)
        else:
            self._content(field, values, start=position, stop=stop)
        return stop

    def _content(self, field: Field, values: Values, *, start: int, stop: int) -> None:
        """A message, a text, or bytes to skip."""
        if field.kind is Kind.MESSAGE:
            self.path.append(field.name)
            value = self.read(field.message, start, stop)
            self.path.pop()
            if not field.repeated:
                values.first[field.name] = value
            elif value is not None:
                values.kept.setdefault(field.name, []).append(value)
            values.count[field.name] = values.count.get(field.name, 0) + 1
        elif field.kind is Kind.TEXT:
            values.first[field.name] = self._text(start, stop)
        else:
            values.first[field.name] = True
            values.count[field.name] = values.count.get(field.name, 0) + 1 if field.repeated else stop - start

    def _packed(self, field: Field, values: Values, *, start: int, stop: int) -> None:
        if not field.keep:
            values.count[field.name] = values.count.get(field.name, 0) + self._packed_count(field, start, stop)
            return
        while start < stop:
            value, start = self._varint(start, stop)
            self._number(field, value, values)

    def _packed_count(self, field: Field, start: int, stop: int) -> int:
        """Number of packed entries; integers are counted by their last bytes, in pieces."""
        if field.kind in _FIXED_BYTES:
            if (stop - start) % _FIXED_BYTES[field.kind]:
                raise self.refusal(f"packed field '{field.name}' ends inside a number", code="model_syntax")
            return (stop - start) // _FIXED_BYTES[field.kind]
        if stop == start:
            return 0
        # An unfinished last number, or one longer than ten bytes, would be read differently by different parsers.
        if self._data[stop - 1] >= 0x80 or _TOO_LONG_VARINT.search(self._view[start:stop]):
            raise self.refusal(f"packed field '{field.name}' holds a broken number", code="model_syntax")
        count = 0
        for begin in range(start, stop, _CHUNK_BYTES):
            count += len(self._data[begin : min(begin + _CHUNK_BYTES, stop)].translate(None, _CONTINUED))
        return count

    def _number(self, field: Field, value: int, values: Values) -> None:
        if not field.repeated:
            values.first[field.name] = value
            return
        values.count[field.name] = values.count.get(field.name, 0) + 1
        if field.keep:
            kept = values.kept.setdefault(field.name, [])
            kept.append(value)
            if len(kept) > self._limits.max_model_rank:
                raise self.limit("too many dimensions", code="model_dims", expected=f"at most {self._limits.max_model_rank}")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """A base-128 number below 2^64 in its shortest form, and the position behind it."""
        data = self._data
        if position < end and data[position] < 0x80:  # nearly every tag and length
            return data[position], position + 1
        value = shift = 0
        for at in range(position, min(end, position + 10)):
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 or value >= 1 << 64:
                    break
                return value, at + 1
            shift += 7
        raise self.refusal("broken number (truncated, longer than needed, or beyond 64 bits)", code="model_syntax")

    def _text(self, start: int, stop: int) -> str:
        try:
            return self._data[start:stop].decode("utf-8", "strict")
        except UnicodeDecodeError as e:
            raise self.refusal("a name is not UTF-8", code="model_syntax") from e

    def _unknown(self, kind: str, number: int, wire: int) -> FormatError:
        if wire not in {_VARINT, _I64, _LEN, _I32} or number == 0:
            return self.refusal(f"wire type {wire}, field {number}", code="model_syntax")
        return self.refusal(f"field {number} of {kind} is not on the allow-list", code="model_field_unknown")

    def refusal(
        self, what: str, *, code: str, expected: object | None = None, actual: object | None = None, hint: str | None = None
    ) -> FormatError:
        """The error for the place being read, to be raised."""
        return FormatError(what, code=code, where=self.place(), expected=expected, actual=actual, hint=hint)

    def limit(
        self, what: str, *, code: str, expected: object | None = None, actual: object | None = None, hint: str | None = None
    ) -> LimitError:
        """The error for the place being read, to be raised."""
        return LimitError(what, code=code, where=self.place(), expected=expected, actual=actual, hint=hint)

    def place(self) -> str:
        """File, message path and byte, for errors."""
        return f"{self._where}: {'.'.join(self.path[-12:]) or 'top level'} near byte {self._at}"
