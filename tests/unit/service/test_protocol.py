"""Messages from hostile, broken, slow and silent clients: bounded before read, one clear error, no harm to the others."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from device_client.errors import FormatError, LimitError, SealiftError, TransportError
from device_client.service.client import InferenceClient
from device_client.service.protocol import PRELUDE, Message, Tensor, read_tensors, receive, send
from tests.unit.service.conftest import Town

MOST = 4096
X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def raw(
    header: object, body: bytes = b"", *, magic: bytes = b"SLI1", header_bytes: int | None = None, body_bytes: int | None = None
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    lengths = (len(text) if header_bytes is None else header_bytes, len(body) if body_bytes is None else body_bytes)
    return struct.pack("<4sIQ", magic, *lengths) + text + body


def tensors(*shapes: tuple[int, ...], name: str = "t", dtype: str = "float32") -> list[dict[str, Any]]:
    return [{"name": f"{name}{index}", "dtype": dtype, "shape": list(shape)} for index, shape in enumerate(shapes)]


def test_what_is_sent_arrives(pair: tuple[socket.socket, socket.socket]) -> None:
    sent = [
        Tensor("a", "int8", (3,), b"\1\2\3"),
        Tensor("b", "float32", (1, 2), X.tobytes()[:8]),
        Tensor("none", "bool", (0, 4), b""),
    ]
    send(pair[0], {"op": "x"}, sent, timeout_s=5)
    message = receive(pair[1], max_body_bytes=MOST, timeout_s=5)
    assert message is not None
    assert message.header.text("op") == "x"
    found = read_tensors(message)
    assert [(t.name, t.dtype, t.shape, bytes(t.data)) for t in found] == [(t.name, t.dtype, t.shape, bytes(t.data)) for t in sent]
    pair[0].close()
    assert receive(pair[1], max_body_bytes=MOST, timeout_s=5) is None


REFUSED: dict[str, tuple[bytes, type[SealiftError], str]] = {
    "another protocol": (raw({}, magic=b"GET "), FormatError, "message_syntax"),
    "a header beyond its bound": (raw({}, header_bytes=65537), LimitError, "too_large"),
    "a header of four gigabytes": (raw({}, header_bytes=2**32 - 1), LimitError, "too_large"),
    "a body beyond its bound": (raw({}, body_bytes=MOST + 1), LimitError, "too_large"),
    "a body of all there is": (raw({}, body_bytes=2**64 - 1), LimitError, "too_large"),
    "no JSON": (raw(b"{"), FormatError, "json_syntax"),
    "a key twice": (raw(b'{"op":"ping","op":"vote"}'), FormatError, "json_syntax"),
    "a number that is none": (raw(b'{"op":NaN}'), FormatError, "json_syntax"),
    "not an object": (raw([]), FormatError, "field_type"),
    "nesting": (raw(b"[" * 60000 + b"]" * 5000), LimitError, "too_deep"),
    "an end in the lengths": (raw({})[:9], TransportError, "socket_lost"),
    "an end in the header": (raw({"op": "ping"})[:-2], TransportError, "socket_lost"),
    "an end in the body": (raw({}, b"123", body_bytes=4), TransportError, "socket_lost"),
}


@pytest.mark.parametrize(("data", "kind", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_broken_message_is_refused(
    pair: tuple[socket.socket, socket.socket], data: bytes, kind: type[SealiftError], code: str
) -> None:
    pair[0].sendall(data)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(kind) as caught:
        receive(pair[1], max_body_bytes=MOST, timeout_s=5)
    assert caught.value.code == code


BAD_TENSORS: dict[str, tuple[list[Any], bytes]] = {
    "shorter than the body": (tensors((1,)), b"12345"),
    "longer than the body": (tensors((2,)), b"1234"),
    "a product that would wrap around": (tensors((2**31 - 1,) * 32), b"1234"),
    "a name twice": (tensors((1,)) * 2, b"12345678"),
    "a name with a line end": (tensors((1,), name="a\n"), b"1234"),
    "an unknown type": (tensors((1,), dtype="object"), b"1234"),
    "text": (tensors((1,), dtype="string"), b"1234"),
    "a negative size": (tensors((-1,)), b""),
    "a size that is true": ([{"name": "a", "dtype": "int8", "shape": [True]}], b"1"),
    "too many sizes": (tensors((1,) * 33), b"1234"),
    "too many tensors": (tensors(*[(0,)] * 65), b""),
    "a key too many": ([{"name": "a", "dtype": "int8", "shape": [1], "offset": 0}], b"1"),
    "no list": ({"name": "a"}, b""),  # type: ignore[dict-item]
    "a body without tensors": ([], b"1"),
}


@pytest.mark.parametrize(("listed", "body"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_tensors_that_are_not_the_body_are_refused(
    pair: tuple[socket.socket, socket.socket], listed: list[Any], body: bytes
) -> None:
    pair[0].sendall(raw({"tensors": listed}, body))
    message = receive(pair[1], max_body_bytes=MOST, timeout_s=5)
    assert isinstance(message, Message)
    with pytest.raises(FormatError):
        read_tensors(message)


def test_a_header_that_no_reader_would_take_is_not_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(LimitError):
        send(pair[0], {"text": "x" * 70000}, timeout_s=5)
    pair[0].close()
    assert pair[1].recv(1) == b""


def test_a_sender_who_trickles_is_cut_off_like_one_who_is_silent(pair: tuple[socket.socket, socket.socket]) -> None:
    ending = threading.Event()

    def trickle() -> None:
        for byte in raw({"op": "ping"}, b"x" * 200):
            if ending.wait(0.05):
                return
            pair[0].sendall(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises(TransportError) as caught:
            receive(pair[1], max_body_bytes=MOST, timeout_s=0.4)
        assert caught.value.code == "socket_timeout"
    finally:
        ending.set()
        thread.join()


def test_a_reader_who_does_not_read_is_cut_off(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TransportError) as caught:
        send(pair[0], {}, [Tensor("a", "int8", (1 << 24,), bytes(1 << 24))], timeout_s=0.3)
    assert caught.value.code == "socket_timeout"


# Through the service.


@contextmanager
def plain(town: Town) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(town.socket))
        yield connection


def answer(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    _, header_bytes, body_bytes = PRELUDE.unpack(connection.recv(PRELUDE.size, socket.MSG_WAITALL))
    found: dict[str, Any] = json.loads(connection.recv(header_bytes, socket.MSG_WAITALL))
    return found, connection.recv(body_bytes, socket.MSG_WAITALL) if body_bytes else b""


def test_a_broken_message_gets_one_error_and_the_end_and_others_go_on(town: Town) -> None:
    town.configure("max_message_bytes = 4096")
    town.release("1.0.0", counter=1)
    with town.serving(), InferenceClient(town.socket) as other:
        other.run("ocr", {"x": X})
        for data, kind, code in REFUSED.values():
            if kind is not TransportError:
                with plain(town) as connection:
                    connection.sendall(data)
                    found, _ = answer(connection)
                    assert (found["ok"], found["code"]) == (False, code)
                    with contextlib.suppress(ConnectionResetError):  # what was sent behind the error was not read
                        assert connection.recv(1) == b""
        assert other.run("ocr", {"x": X}).version == "1.0.0"


WRONG: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "an unknown request": ({"op": "shutdown"}, b"", "field_value"),
    "no request": ({}, b"", "field_missing"),
    "an unknown key": ({"op": "ping", "shell": "sh"}, b"", "request_field"),
    "an unknown model": ({"op": "describe", "model": "../../etc/passwd"}, b"", "model_unknown"),
    "no model": ({"op": "infer"}, b"", "field_missing"),
    "tensors that are not the body": ({"op": "infer", "model": "ocr", "tensors": tensors((9,))}, b"1", "message_tensors"),
    "a client's own deadline": ({"op": "infer", "model": "ocr", "deadline_ms": 1}, b"", "request_field"),
}


def test_a_wrong_request_gets_an_error_and_the_connection_stays_open(town: Town) -> None:
    town.release("1.0.0", counter=1)
    with town.serving(), plain(town) as connection:
        for header, body, code in WRONG.values():
            connection.sendall(raw(header, body))
            found, _ = answer(connection)
            assert (found["ok"], found["code"]) == (False, code), header
            assert found.keys() == {"ok", "code", "error", "where", "expected", "actual", "hint"}
        connection.sendall(raw({"op": "ping"}))
        assert answer(connection)[0]["ok"]


def test_a_silent_client_loses_its_connection(town: Town) -> None:
    town.configure("silence_s = 1")
    with town.serving(), plain(town) as silent, plain(town) as half:
        half.sendall(raw({"op": "ping"})[:10])
        begun = time.monotonic()
        for connection in (half, silent):
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
        assert time.monotonic() - begun < 20


def test_connections_above_the_bound_are_refused_and_a_place_becomes_free_again(town: Town) -> None:
    town.configure("connections_per_user = 2")
    with town.serving():
        with plain(town) as first, plain(town) as second:
            for connection in (first, second):
                connection.sendall(raw({"op": "ping"}))
                assert answer(connection)[0]["ok"]
            with plain(town) as third:
                assert answer(third)[0]["code"] == "service_busy"
        end = time.monotonic() + 20
        while True:
            with plain(town) as connection:
                connection.sendall(raw({"op": "ping"}))
                if answer(connection)[0]["ok"]:
                    break
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_request_by_hand_is_computed_rightly(town: Town) -> None:
    town.release("1.0.0", counter=1)
    with town.serving(), plain(town) as connection:
        listed = [{"name": "x", "dtype": "float32", "shape": [1, 3]}]
        connection.sendall(raw({"op": "infer", "model": "digits/ocr", "tensors": listed}, X.tobytes()))
        found, body = answer(connection)
        assert found["tensors"] == [{"name": "y", "dtype": "float32", "shape": [1, 3]}]
        np.testing.assert_array_equal(np.frombuffer(body, "<f4"), 2 * X.ravel())
