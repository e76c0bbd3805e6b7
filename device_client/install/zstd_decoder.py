"""Decodes a model layer that is stored as one zstd frame, in bounded memory, while it arrives.

The frame is taken apart here as far as its blocks, which are then given to the decoder one by one: a block yields at most
128 KiB, so nothing in the input can make more appear at once, whatever it claims. One plain frame and nothing else: no
dictionary, no skippable frame, nothing after the end; a window of at most 4 MiB.

    decoder = ZstdDecoder(out.write, size=signed_size)
    decoder.write(chunk)
    decoder.finish()

Says nothing about the content: whoever takes the output compares size and digest. It runs on bytes that nobody has verified
yet, so that a download needs no second pass; the layer's own digest is compared at the end as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from device_client.errors import FormatError, LimitError, MissingExtraError

ENCODING = "zstd"
MAX_WINDOW_BYTES = 4 * 1024 * 1024  # what the decoder holds; part of the format
_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES = 128 * 1024
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RAW, _RLE, _COMPRESSED = 0, 1, 2


class ZstdDecoder:
    """One frame, fed in pieces of any size.

    Args:
        out: takes the decoded bytes, in pieces of at most 128 KiB.
        size: the signed size of the whole, in bytes; a frame that names another is refused before its first block.
        where: for errors.

    Raises:
        MissingExtraError: the zstandard package is not installed.
    """

    def __init__(self, out: Callable[[bytes], None], *, size: int, where: str = "layer") -> None:
        try:
            import zstandard
        except ImportError as e:
            raise MissingExtraError("device", missing="zstandard") from e
        self._library = zstandard
        self._out = out
        self._size = size
        self._where = where
        self._pending = bytearray()
        self._step: Callable[[], bool] = self._read_header
        self._decoder: Any = None
        self._has_checksum = False

    def write(self, data: bytes) -> None:
        """Decodes as far as whole blocks are there.

        Raises:
            FormatError: ``encoding_frame``.
            LimitError: ``encoding_window``.
        """
        self._pending += data
        while self._step():
            pass

    def finish(self) -> None:
        """The frame is complete, and nothing came after it.

        Raises:
            FormatError: ``encoding_frame``.
        """
        if self._step != self._refuse_more or self._pending or not self._decoder.eof:
            raise self._wrong("it ends in the middle of its frame")

    def _read_header(self) -> bool:
        if not _MAGIC.startswith(bytes(self._pending[:4])):
            raise self._wrong("it does not begin with a zstd frame")
        if len(self._pending) < 5:
            return False
        descriptor = self._pending[4]
        is_single = bool(descriptor & 0x20)
        length = 5 + (not is_single) + _DICTIONARY_ID_BYTES[descriptor & 3]
        length += _CONTENT_SIZE_BYTES[descriptor >> 6] or is_single
        if len(self._pending) < length:
            return False
        header = self._take(length)
        try:
            found = self._library.get_frame_parameters(header)
        except self._library.ZstdError as e:
            raise self._wrong("its header is damaged") from e
        if descriptor & 3:
            raise self._wrong("it asks for a dictionary")
        if found.window_size > MAX_WINDOW_BYTES:
            raise LimitError(
                "an encoded layer asks for too large a window",
                code="encoding_window",
                where=self._where,
                expected=f"at most {MAX_WINDOW_BYTES} bytes",
                actual=found.window_size,
            )
        if found.content_size not in {self._size, self._library.CONTENTSIZE_UNKNOWN}:
            raise self._wrong(f"it promises {found.content_size} bytes instead of {self._size}")
        self._has_checksum = found.has_checksum
        self._decoder = self._library.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._decode(header)
        self._step = self._read_block
        return True

    def _read_block(self) -> bool:
        if len(self._pending) < 3:
            return False
        head = int.from_bytes(self._pending[:3], "little")
        is_last, kind, size = bool(head & 1), head >> 1 & 3, head >> 3
        if kind not in {_RAW, _RLE, _COMPRESSED} or size > _BLOCK_BYTES:
            raise self._wrong("a block is of no known kind, or too large")
        length = 3 + (1 if kind == _RLE else size)
        if len(self._pending) < length:
            return False
        self._decode(self._take(length))
        if is_last:
            self._step = self._read_checksum if self._has_checksum else self._refuse_more
        return True

    def _read_checksum(self) -> bool:
        if len(self._pending) < 4:
            return False
        self._decode(self._take(4))
        self._step = self._refuse_more
        return True

    def _refuse_more(self) -> bool:
        if self._pending:
            raise self._wrong("something follows its frame")
        return False

    def _take(self, length: int) -> bytes:
        taken = bytes(self._pending[:length])
        del self._pending[:length]
        return taken

    def _decode(self, data: bytes) -> None:
        try:
            decoded = self._decoder.decompress(data)
        except self._library.ZstdError as e:
            raise self._wrong("it does not decode") from e
        if decoded:
            self._out(decoded)

    def _wrong(self, what: str) -> FormatError:
        return FormatError(
            "an encoded layer is not one plain zstd frame",
            code="encoding_frame",
            where=self._where,
            actual=what,
            hint="pack the bundle again; if its digest is right, the layer was made by another tool",
        )
