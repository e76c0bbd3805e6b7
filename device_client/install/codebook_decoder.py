"""Decodes a model layer in the ``codebook`` encoding, in bounded memory, while it arrives.

A compressed model's weights often take few distinct values. The layer holds, under one LZMA stream, the bytes between the
tensors (the skeleton, first and together, because they are text and the tensors are not) and then segments: how many bytes of
skeleton to write, and what stands behind them: bytes as they are, numbers taken apart into byte planes, or a table of values
with several indices packed into each byte. ``docs/bundle-format.md`` defines it byte by byte.

    decoder = CodebookDecoder(out.write, size=signed_size)
    decoder.write(chunk)
    decoder.finish()

Everything a segment promises is compared with the signed size before it is made. Memory: the skeleton (at most 1 MiB), LZMA's
dictionary (1 MiB) and some pieces; time is linear in the output, whatever the input claims. Says nothing about the content:
whoever takes the output compares size and digest. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from device_client.errors import FormatError, StateError

ENCODING = "codebook"
MAGIC = b"SLC\x01"
DICTIONARY_BYTES = 1 << 20  # what the LZMA decoder holds; part of the format
MAX_SKELETON_BYTES = 1 << 20
MAX_SEGMENTS = 1 << 16
PLANE_ITEMS = 1 << 14  # numbers in one group of byte planes
END, RAW, PLANES, CODEBOOK = range(4)
WIDTHS = (1, 2, 4, 8)

_PIECE_BYTES = 1 << 16
_EXPANDED_BYTES = 1 << 17  # no piece of output is longer
_SEGMENT = struct.Struct("<IB")
_LENGTH = struct.Struct("<I")
_PLANES = struct.Struct("<BI")
_CODEBOOK = struct.Struct("<BBI")


def digits_per_byte(entries: int) -> int:
    """How many indices into a table of ``entries`` values (2 to 256) one byte holds, as digits of a number in that base."""
    digits = 1
    while entries ** (digits + 1) <= 256:
        digits += 1
    return digits


def lzma_filters() -> list[dict[str, Any]]:
    """The one form of LZMA stream: literals without context, since neighbouring weights say nothing about each other."""
    import lzma

    return [{"id": lzma.FILTER_LZMA1, "dict_size": DICTIONARY_BYTES, "lc": 0, "lp": 0, "pb": 0}]


class CodebookDecoder:
    """One layer, fed in pieces of any size.

    Args:
        out: takes the decoded bytes, in pieces of at most 128 KiB, but for the skeleton's, which may be longer.
        size: the signed size of the whole, in bytes.
        where: for errors.

    Raises:
        StateError: this Python was built without lzma (``lzma_missing``).
    """

    def __init__(self, out: Callable[[bytes], None], *, size: int, where: str = "layer") -> None:
        try:
            import lzma
        except ImportError as e:
            raise StateError(
                "this Python has no lzma module, which a layer needs",
                code="lzma_missing",
                where=where,
                hint="use a Python built with lzma, as those of all distributions are",
            ) from e
        self._error = lzma.LZMAError
        self._lzma = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=lzma_filters())
        self._out = out
        self._size = size
        self._where = where
        self._head = bytearray()
        self._pending = bytearray()
        # a plain function, since a bound method would make a cycle that keeps the dictionary until it is collected
        self._step: Callable[[CodebookDecoder], bool] = CodebookDecoder._read_skeleton_length
        self._skeleton = b""
        self._skeleton_at = 0
        self._made = 0
        self._segments = 0
        self._left = 0  # of the current segment: bytes, or numbers
        self._width = 1
        self._digits = 1
        self._table = _Table((), 0)

    def write(self, data: bytes) -> None:
        """Decodes as far as the input goes.

        Raises:
            FormatError: ``encoding_container``.
        """
        if len(self._head) < len(MAGIC):
            missing = len(MAGIC) - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if not MAGIC.startswith(bytes(self._head)):
                raise self._wrong("it does not begin like one")
        while data or not (self._lzma.needs_input or self._lzma.eof):
            if self._lzma.eof:
                raise self._wrong("something follows its end")
            try:
                self._pending += self._lzma.decompress(data, max_length=_PIECE_BYTES)
            except self._error as e:
                raise self._wrong("its LZMA stream is damaged") from e
            data = self._lzma.unused_data
            while self._step(self):
                pass

    def finish(self) -> None:
        """The layer is complete, and nothing came after it.

        Raises:
            FormatError: ``encoding_container``.
        """
        if not self._lzma.eof or self._step != CodebookDecoder._refuse_more:
            raise self._wrong("it ends too early")

    def _read_skeleton_length(self) -> bool:
        if len(self._pending) < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > min(MAX_SKELETON_BYTES, self._size):
            raise self._wrong(f"a skeleton of {length} bytes")
        self._left = length
        self._step = CodebookDecoder._read_skeleton
        return True

    def _read_skeleton(self) -> bool:
        if len(self._pending) < self._left:
            return False
        self._skeleton = self._take(self._left)
        self._step = CodebookDecoder._read_segment
        return True

    def _read_segment(self) -> bool:
        if len(self._pending) < _SEGMENT.size:
            return False
        skipped, kind = _SEGMENT.unpack_from(self._pending)
        sizes = {END: 0, RAW: _LENGTH.size, PLANES: _PLANES.size, CODEBOOK: _CODEBOOK.size}
        if kind not in sizes:
            raise self._wrong(f"a segment of the unknown kind {kind}")
        if len(self._pending) < _SEGMENT.size + sizes[kind]:
            return False
        self._take(_SEGMENT.size)
        body = self._take(sizes[kind])
        self._segments += 1
        if self._segments > MAX_SEGMENTS:
            raise self._wrong(f"more than {MAX_SEGMENTS} segments")
        self._write_skeleton(skipped)
        (self._end, self._begin_raw, self._begin_planes, self._begin_codebook)[kind](body)
        return True

    def _write_skeleton(self, length: int) -> None:
        if length > len(self._skeleton) - self._skeleton_at:
            raise self._wrong("more skeleton than there is")
        self._reserve(length)
        piece = self._skeleton[self._skeleton_at : self._skeleton_at + length]
        self._skeleton_at += length
        self._emit(piece)

    def _end(self, _body: bytes) -> None:
        if self._made != self._size or self._skeleton_at != len(self._skeleton):
            raise self._wrong(f"its segments make {self._made} bytes instead of {self._size}, or leave skeleton over")
        self._step = CodebookDecoder._refuse_more

    def _begin_raw(self, body: bytes) -> None:
        (self._left,) = _LENGTH.unpack(body)
        self._reserve(self._left)
        self._step = CodebookDecoder._read_raw

    def _begin_planes(self, body: bytes) -> None:
        self._width, self._left = _PLANES.unpack(body)
        self._check_width(WIDTHS[1:])
        self._reserve(self._left * self._width)
        self._step = CodebookDecoder._read_planes

    def _begin_codebook(self, body: bytes) -> None:
        self._width, last, self._left = _CODEBOOK.unpack(body)
        self._check_width(WIDTHS)
        if last == 0:
            raise self._wrong("a table of one value")
        self._reserve(self._left * self._width)
        self._entries = last + 1
        self._digits = digits_per_byte(self._entries)
        self._step = CodebookDecoder._read_table

    def _read_raw(self) -> bool:
        if self._left and not self._pending:
            return False
        piece = self._take(min(self._left, len(self._pending)))
        self._left -= len(piece)
        self._emit(piece)
        if not self._left:
            self._step = CodebookDecoder._read_segment
        return True

    def _read_planes(self) -> bool:
        count = min(self._left, PLANE_ITEMS)
        if len(self._pending) < count * self._width:
            return False
        planes, numbers = self._take(count * self._width), bytearray(count * self._width)
        for index in range(self._width):
            numbers[index :: self._width] = planes[index * count : (index + 1) * count]
        self._left -= count
        self._emit(bytes(numbers))
        if not self._left:
            self._step = CodebookDecoder._read_segment
        return True

    def _read_table(self) -> bool:
        length = self._entries * self._width
        if len(self._pending) < length:
            return False
        values = self._take(length)
        self._table = _Table(
            tuple(values[begin : begin + self._width] for begin in range(0, length, self._width)), self._entries**self._digits
        )
        self._step = CodebookDecoder._read_indices
        return True

    def _read_indices(self) -> bool:
        whole = self._left // self._digits
        longest = _EXPANDED_BYTES // (self._digits * self._width)
        packed = self._take(min(whole, len(self._pending), longest))
        try:
            self._emit(b"".join(map(self._table.__getitem__, packed)))
            self._left -= len(packed) * self._digits
            if 0 < self._left < self._digits:
                if not self._pending:
                    return False
                self._emit(self._last_numbers(self._take(1)[0]))
        except KeyError:
            raise self._wrong("an index beyond its table") from None
        if not self._left:
            self._step = CodebookDecoder._read_segment
        return bool(packed) or not self._left

    def _last_numbers(self, packed: int) -> bytes:
        """The byte that holds fewer indices than fit: what is not used of it is zero."""
        if packed >= self._entries**self._left:
            raise KeyError(packed)
        numbers = self._table[packed][: self._left * self._width]
        self._left = 0
        return numbers

    def _refuse_more(self) -> bool:
        if self._pending:
            raise self._wrong("something follows its last segment")
        return False

    def _check_width(self, allowed: tuple[int, ...]) -> None:
        if self._width not in allowed:
            raise self._wrong(f"numbers of {self._width} bytes")

    def _reserve(self, length: int) -> None:
        """Nothing is made that would not fit into the signed size."""
        if length > self._size - self._made:
            raise self._wrong(f"more than {self._size} bytes")

    def _emit(self, piece: bytes) -> None:
        if piece:
            self._made += len(piece)
            self._out(piece)

    def _take(self, length: int) -> bytes:
        taken = bytes(self._pending[:length])
        del self._pending[:length]
        return taken

    def _wrong(self, what: str) -> FormatError:
        return FormatError(
            "a layer is not in the codebook encoding",
            code="encoding_container",
            where=self._where,
            actual=what,
            hint="pack the bundle again; if its digest is right, the layer was made by another tool",
        )


class _Table(dict[int, bytes]):
    """What each packed byte stands for, made when it first occurs: time follows the input, not the table."""

    def __init__(self, values: tuple[bytes, ...], limit: int) -> None:
        super().__init__()
        self._values = values
        self._limit = limit

    def __missing__(self, packed: int) -> bytes:
        if packed >= self._limit:
            raise KeyError(packed)
        entries, rest, found = len(self._values), packed, []
        digits = digits_per_byte(entries)
        for _ in range(digits):
            rest, digit = divmod(rest, entries)
            found.append(self._values[digit])
        self[packed] = b"".join(found)
        return self[packed]
