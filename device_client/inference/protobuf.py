"""A bounded reader of protobuf messages, driven by tables: every field is known, or the file is refused.

Used by ``walker.py`` for ONNX. Stricter than protobuf itself, so that two parsers cannot read one file differently:
no unknown fields, no singular field twice, no groups, nothing after the end, tags, lengths and single numbers in their
shortest form. Reads in one pass; the content of large fields is skipped by its length, never copied, and what is kept
of a file is small: Python's own work is per field, so that speed depends on how many fields a file has, not on its size.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

from device_client.errors import FormatError, LimitError
from device_client.inference.onnx_schema import Field, Kind
from device_client.limits import KIB, Limits

Values = Mapping[str, Any]
"""The fields of one message that are present, by name, as its check gets them.

A single number is an ``int``, a text a ``str``, a name the hash of its bytes, skipped bytes their length, a message what its
check returned. Repeated numbers and bytes are their count, unless the table says ``keep``; repeated messages and names are
a sequence: of all that the checks returned, and of hashes.
"""

_MAX_TEXT_BYTES = 64 * KIB  # a name of gigabytes, which would be copied
_MAX_KEPT = 1 << 15  # a million inputs or operator sets, each kept with a hundred times the bytes that it has in the file
_MEMO_BYTES, _MEMO_ENTRIES = 64, 1024  # of repeated messages: at most 200 KiB
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which ONNX never uses
_WIRES = {Kind.INTEGER: _VARINT, Kind.FIXED32: _I32, Kind.FIXED64: _I64}
_FIXED_BYTES = {_I32: 4, _I64: 8}
_MESSAGE, _SKIP, _TEXT, _NAME = Kind.MESSAGE, Kind.SKIP, Kind.TEXT, Kind.NAME

_LANE_BYTES = 4 * KIB  # packed integers are counted in blocks of eight lanes, so that memory stays small
_OVERLAP_BYTES = 9  # a lane looks into the next one, so that no run of continued bytes hides at the border
_TOP_BITS = int.from_bytes(b"\x80" * (_LANE_BYTES + _OVERLAP_BYTES), "little")
_OWN_BITS = (1 << 8 * _LANE_BYTES) - 1


class Reader:
    """One pass over one file. Recursion is bounded by ``max_model_depth``.

    Args:
        data: the file.
        schema: message name to its fields by number.
        checks: message name to what is asked of its fields; returns what the parent message keeps, as a tuple, to which
            the results of all fields of that name are joined if the field is repeated.
        where: file or digest, for errors.
        limits: bounds on depth, number of fields and rank.
    """

    def __init__(
        self,
        data: bytes,
        *,
        schema: Mapping[str, Mapping[int, Field]],
        checks: Mapping[str, Callable[[Values], tuple[Any, ...]]],
        where: str,
        limits: Limits,
    ) -> None:
        self._data = data
        self._tables = {kind: _by_tag(fields) for kind, fields in schema.items()}
        self._checks = checks
        self._where = where
        self._limits = limits
        self._fields_left = limits.max_model_fields
        self._varint_bytes_left = limits.max_model_varint_bytes
        self._at = 0
        self._messages = 0
        self._memo: dict[bytes, tuple[Any, ...]] = {}
        self.path: list[str] = []

    def read(self, kind: str, start: int, end: int) -> tuple[Any, ...]:  # noqa: PLR0912, PLR0915  # one loop: see below
        """Walks a message and returns what its check made of it.

        One long loop on purpose: it is all that the speed of a check depends on.

        Raises:
            FormatError: bytes that are not that message, by the table or by a check.
            LimitError: too deep, too many fields, too many dimensions, a name too long.
        """
        if len(self.path) > self._limits.max_model_depth:
            raise self.limit("nested too deeply", code="model_too_deep", expected=f"at most {self._limits.max_model_depth} levels")
        self._messages += 1
        data, table, left = self._data, self._tables[kind], self._fields_left
        values: dict[str, Any] = {}
        position = start
        while position < end:
            self._at = position
            left -= 1
            if left < 0:
                raise self.limit("too many fields", code="model_too_large", expected=f"at most {self._limits.max_model_fields}")
            tag = data[position]
            if tag < 0x80:  # as in _varint; here and below the common short form is taken without a call
                position += 1
            else:
                tag, position = self._varint(position, end)
            entry = table.get(tag)
            if entry is None:
                raise self._misfit(kind, tag)
            name, what, repeated, field = entry
            if not repeated and name in values:
                raise self.refusal(f"field '{name}' is repeated", code="model_field_repeated")
            if tag & 7 != _LEN:
                if tag & 7 == _VARINT and position < end and (byte := data[position]) < 0x80:
                    value = byte
                    position += 1
                else:
                    value, position = self._number(tag & 7, position, end)
                if not repeated:
                    values[name] = value
                elif field.keep:
                    self._keep(field, value, values)
                else:
                    values[name] = values.get(name, 0) + 1
                continue
            if position < end and (byte := data[position]) < 0x80:
                position += 1
                stop = position + byte
            elif position + 1 < end and 0 < (second := data[position + 1]) < 0x80:
                position += 2
                stop = position + (byte & 0x7F | second << 7)
            else:
                length, position = self._varint(position, end)
                stop = position + length
            if stop > end:
                raise self.refusal("truncated", code="model_syntax", expected=f"{stop - position} bytes", actual=end - position)
            if what is _SKIP:
                values[name] = values.get(name, 0) + 1 if repeated else stop - position
            elif what is _MESSAGE:
                self._fields_left = left
                self.path.append(name)
                if field.memo and stop - position <= _MEMO_BYTES:
                    result = self._memoised(field.message, position, stop)
                else:
                    result = self.read(field.message, position, stop)
                self.path.pop()
                left = self._fields_left
                if not repeated:
                    values[name] = result
                elif name in values:
                    values[name].extend(result)
                    if len(values[name]) > _MAX_KEPT and not field.hashes:
                        raise self.limit(f"too many of '{name}'", code="model_too_large", expected=f"at most {_MAX_KEPT}")
                else:
                    values[name] = array("q", result) if field.hashes else list(result)
            elif what is _NAME:
                piece = data[position:stop] if stop - position <= _MAX_TEXT_BYTES else b""
                value = hash(piece) if piece.isascii() and piece else self._name(position, stop)
                if not repeated:
                    values[name] = value
                elif name in values:
                    values[name].append(value)
                else:
                    values[name] = [value]
            elif what is _TEXT:
                values[name] = self._text(position, stop)
            else:
                self._packed(field, values, start=position, stop=stop)
            position = stop
        self._fields_left = left
        check = self._checks.get(kind)
        return check(values) if check else ()

    def _memoised(self, kind: str, start: int, stop: int) -> tuple[Any, ...]:
        """A short message like thousands of others in the file (``kernel_shape=[3, 3]``) is walked once.

        Only one without messages inside: what a check makes of it then depends on its bytes alone, not on its place.
        """
        key = self._data[start:stop]
        result = self._memo.get(key)
        if result is None or len(self.path) > self._limits.max_model_depth:
            before = self._messages
            result = self.read(kind, start, stop)
            if self._messages == before + 1 and len(self._memo) < _MEMO_ENTRIES:
                self._memo[key] = result
        return result

    def _number(self, wire: int, position: int, end: int) -> tuple[int, int]:
        """A number that is not packed, and the position behind it. Fixed ones are stepped over: their value decides nothing."""
        if wire == _VARINT:
            return self._varint(position, end)
        position += _FIXED_BYTES[wire]
        if position > end:
            raise self.refusal("truncated", code="model_syntax")
        return 0, position

    def _keep(self, field: Field, value: int, values: dict[str, Any]) -> None:
        kept = values.setdefault(field.name, [])
        if len(kept) == self._limits.max_model_rank:
            raise self.limit("too many dimensions", code="model_dims", expected=f"at most {self._limits.max_model_rank}")
        kept.append(value)

    def _packed(self, field: Field, values: dict[str, Any], *, start: int, stop: int) -> None:
        """Counts packed numbers, or keeps them where the table says so."""
        if field.keep:
            while start < stop:
                value, start = self._varint(start, stop)
                self._keep(field, value, values)
            return
        wire = _WIRES[field.kind]
        if wire == _VARINT:
            count = self._varint_count(field, start, stop)
        else:
            count, rest = divmod(stop - start, _FIXED_BYTES[wire])
            if rest:
                raise self.refusal(f"packed field '{field.name}' ends inside a number", code="model_syntax")
        values[field.name] = values.get(field.name, 0) + count

    def _varint_count(self, field: Field, start: int, stop: int) -> int:
        """Number of packed varints: of the bytes without the top bit, since each number ends with one.

        An unfinished last number, or one longer than ten bytes, would be read differently by different parsers. What the
        numbers are is not looked at: a longer spelling than needed means the same to every parser.

        This is the one content that has to be looked at byte by byte, so that a whole file has a bound on it; more of it
        belongs into ``raw_data``. Eight stretches of the file are worked on at once, as the eight bits of the bytes of one
        large integer: bit 7 - n of byte k says that byte k of stretch n is continued. That is ten times as fast as a
        regular expression.
        """
        self._varint_bytes_left -= stop - start
        if self._varint_bytes_left < 0:
            raise self.limit(
                f"too many numbers of varying length ('{field.name}')",
                code="model_packed",
                expected=f"at most {self._limits.max_model_varint_bytes} bytes in the whole file",
                hint="save the weights as raw_data: onnx.numpy_helper.from_array does",
            )
        if stop > start and self._data[stop - 1] >= 0x80:
            raise self.refusal(f"packed field '{field.name}' holds a broken number", code="model_syntax")
        continued = 0
        for block in range(start, stop, 8 * _LANE_BYTES):
            lanes = 0
            for lane in range(8):
                begin = block + lane * _LANE_BYTES
                piece = self._data[begin : min(begin + _LANE_BYTES + _OVERLAP_BYTES, stop)]
                lanes |= (int.from_bytes(piece, "little") & _TOP_BITS) >> lane
            runs = lanes & (lanes >> 8)  # two continued bytes in a row begin here
            runs &= runs >> 16  # four
            runs &= runs >> 32  # eight
            if runs & (runs >> 16):  # ten: eight here, and eight from two bytes on
                raise self.refusal(f"packed field '{field.name}' holds a broken number", code="model_syntax")
            continued += (lanes & _OWN_BITS).bit_count()
        return stop - start - continued

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """A base-128 number below 2^64 in its shortest form, and the position behind it."""
        data = self._data
        if position < end and data[position] < 0x80:
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

    def _name(self, start: int, stop: int) -> int:
        """A name, as a hash: enough to find out that two are the same, in eight bytes. The empty name is 0."""
        return hash(self._text(start, stop).encode())

    def _text(self, start: int, stop: int) -> str:
        if stop - start > _MAX_TEXT_BYTES:
            raise self.limit("a name is too long", code="model_too_large", expected=f"at most {_MAX_TEXT_BYTES} bytes")
        try:
            return self._data[start:stop].decode("utf-8", "strict")
        except UnicodeDecodeError as e:
            raise self.refusal("a name is not UTF-8", code="model_syntax") from e

    def _misfit(self, kind: str, tag: int) -> FormatError:
        """Why a tag is not in the table."""
        number, wire = tag >> 3, tag & 7
        if wire not in {_VARINT, _I64, _LEN, _I32} or number == 0:
            return self.refusal(f"wire type {wire}, field {number}", code="model_syntax")
        if any(number == known >> 3 for known in self._tables[kind]):
            return self.refusal(f"field {number} of {kind} has wire type {wire}", code="model_syntax")
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


_Entry = tuple[str, Kind, bool, Field]  # name, kind, repeated: what the loop asks of each field, without a look into it


def _by_tag(fields: Mapping[int, Field]) -> dict[int, _Entry]:
    """A message's fields by tag: number and wire type in one. Repeated numbers come packed and one by one."""
    table: dict[int, _Entry] = {}
    for number, field in fields.items():
        entry = (field.name, field.kind, field.repeated, field)
        wire = _WIRES.get(field.kind, _LEN)
        table[number << 3 | wire] = entry
        if field.repeated:
            table[number << 3 | _LEN] = entry
    return table
