"""The messages of the inference service, as bytes; ``docs/inference-protocol.md`` is the same in words.

One message: 4 bytes ``SLI1``, the length of the header (4 bytes), the length of the body (8 bytes), both little-endian; then
the header, strict JSON; then the body: the tensors that the header lists, one after the other, little-endian, row by row.
Every length is compared with its bound before a byte of what it announces is read, and a whole message has one deadline, so
that a slow sender is no better off than a silent one. Used on both sockets: client to service, service to worker.
Standard library only; knows nothing of models.
"""

from __future__ import annotations

import math
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, LimitError, TransportError

MAGIC = b"SLI1"
PRELUDE = struct.Struct("<4sIQ")
MAX_HEADER_BYTES = 64 * 1024
MAX_TENSORS = 64
_AT_ONCE_BYTES = 256 * 1024
MAX_RANK = 32
SIZES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
"""Bytes per element of each type that the socket carries; text and types without a plain form are not among them."""

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}\Z")


@dataclass(frozen=True)
class Message:
    """Header, not yet read further, and body."""

    header: Fields
    body: bytearray


@dataclass(frozen=True)
class Tensor:
    """A tensor of a message: ``data`` holds its elements row by row, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Buffer

    def to_json(self) -> dict[str, object]:
        """Its entry in the header."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


def send(
    connection: socket.socket,
    header: Mapping[str, object],
    tensors: Sequence[Tensor] = (),
    *,
    chunks: Sequence[Buffer] = (),
    timeout_s: float,
) -> None:
    """Sends one message.

    Args:
        connection: a stream socket.
        header: what it says; ``tensors`` are listed in it.
        tensors: the body, as tensors.
        chunks: the body in pieces, where it is not tensors.
        timeout_s: seconds for all of it.

    Raises:
        LimitError: a header beyond its bound; nothing was sent.
        TransportError: the other side is gone or does not read (``socket_lost``, ``socket_timeout``).
    """
    listed = {**header, "tensors": [tensor.to_json() for tensor in tensors]} if tensors else header
    text = canonical_json(listed)
    if len(text) > MAX_HEADER_BYTES:
        raise LimitError("header too long", code="too_large", where="message", expected=MAX_HEADER_BYTES, actual=len(text))
    chunks = [tensor.data for tensor in tensors] if tensors else chunks
    length = sum(memoryview(chunk).nbytes for chunk in chunks)
    deadline = time.monotonic() + timeout_s
    head = PRELUDE.pack(MAGIC, len(text), length) + text
    # A small message goes at once: each piece would wake the other side for itself.
    for piece in (b"".join((head, *chunks)),) if length <= _AT_ONCE_BYTES else (head, *chunks):
        _send_all(connection, piece, deadline)


def receive(
    connection: socket.socket, *, max_body_bytes: int, timeout_s: float, idle_s: float | None = None, where: str = "message"
) -> Message | None:
    """Receives one message, or None if the other side closed before one began.

    Args:
        connection: a stream socket.
        max_body_bytes: bound of the body.
        timeout_s: seconds for all of the message, from its first byte.
        idle_s: seconds until its first byte, may be infinite; ``timeout_s`` where left out.
        where: who sends, for errors.

    Raises:
        FormatError: not a message (``message_syntax``), or a header that is not strict JSON.
        LimitError: a length beyond its bound (``too_large``); the body was not read.
        TransportError: closed in the middle (``socket_lost``) or too slow (``socket_timeout``).
    """
    first = _wait_first(connection, idle_s if idle_s is not None else timeout_s)
    if not first:
        return None
    deadline = time.monotonic() + timeout_s
    prelude = first if len(first) == PRELUDE.size else first + _receive(connection, PRELUDE.size - len(first), deadline)
    magic, header_bytes, body_bytes = PRELUDE.unpack(prelude)
    if magic != MAGIC:
        raise FormatError("not a message of this protocol", code="message_syntax", where=where, expected="SLI1")
    if header_bytes > MAX_HEADER_BYTES or body_bytes > max_body_bytes:
        raise LimitError(
            "message too long",
            code="too_large",
            where=where,
            expected=f"at most {MAX_HEADER_BYTES} + {max_body_bytes} bytes",
            actual=f"{header_bytes} + {body_bytes}",
        )
    text = bytes(_receive(connection, header_bytes, deadline))
    body = _receive(connection, body_bytes, deadline)
    return Message(Fields(parse_strict(text, max_bytes=MAX_HEADER_BYTES, where=where), where=where), body)


def read_tensors(message: Message) -> tuple[Tensor, ...]:
    """The tensors of a message; together they are the whole body.

    Raises:
        FormatError: an unknown type, a bad shape, a name twice, or lengths that do not add up (``message_tensors``).
    """
    listed = message.header.items("tensors", _read_tensor, max_items=MAX_TENSORS) if "tensors" in message.header else ()
    lengths = [SIZES[tensor.dtype] * math.prod(tensor.shape) for tensor in listed]
    if sum(lengths) != len(message.body) or len({tensor.name for tensor in listed}) != len(listed):
        raise FormatError(
            "the tensors are not the body",
            code="message_tensors",
            where=message.header.where,
            expected=f"{sum(lengths)} bytes, each name once",
            actual=f"{len(message.body)} bytes",
        )
    view, offset, found = memoryview(message.body), 0, []
    for tensor, length in zip(listed, lengths, strict=True):
        found.append(Tensor(tensor.name, tensor.dtype, tensor.shape, view[offset : offset + length]))
        offset += length
    return tuple(found)


def _read_tensor(value: object, where: str) -> Tensor:
    fields = Fields(value, where=where, known=("name", "dtype", "shape"))
    name = fields.text("name", max_chars=256)
    if not _NAME.match(name):
        raise FormatError("not a tensor's name", code="field_value", where=f"{where}.name")
    return Tensor(name, fields.text("dtype", choices=SIZES), fields.items("shape", _read_size, max_items=MAX_RANK), b"")


def _read_size(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise FormatError("not a size", code="field_value", where=where, expected="0..2147483647", actual=ascii(value)[:40])
    return value


def native(data: Buffer, dtype: str) -> Buffer:
    """Elements in this machine's byte order, from the protocol's; the same the other way."""
    if sys.byteorder == "little" or SIZES[dtype] == 1:
        return data
    import array

    turned = array.array({2: "H", 4: "I", 8: "Q"}[SIZES[dtype]], bytes(data))
    turned.byteswap()
    return turned.tobytes()


def _wait_first(connection: socket.socket, idle_s: float) -> bytes:
    connection.settimeout(None if idle_s == math.inf else max(idle_s, 0.001))
    return _mapped(lambda: connection.recv(PRELUDE.size))


def _receive(connection: socket.socket, count: int, deadline: float) -> bytearray:
    """Exactly ``count`` bytes. The kernel gives memory to a buffer as it is filled: announcing much costs nothing here."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        connection.settimeout(_left(deadline))
        got = _mapped(partial(connection.recv_into, view))
        if not got:
            raise TransportError("the other side closed in the middle of a message", code="socket_lost")
        view = view[got:]
    return data


def _send_all(connection: socket.socket, data: Buffer, deadline: float) -> None:
    connection.settimeout(_left(deadline))
    _mapped(lambda: connection.sendall(data))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _too_slow()
    return left


def _mapped(action: Callable[[], T]) -> T:
    """The border where a socket's errors become ours."""
    try:
        return action()
    except TimeoutError as e:
        raise _too_slow() from e
    except OSError as e:
        raise TransportError("the connection is gone", code="socket_lost", actual=e.strerror) from e


def _too_slow() -> TransportError:
    return TransportError("the other side is too slow", code="socket_timeout")
