"""A hostile metadata server holds a device no longer than the deadline of one file, whatever it sends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError

from device_client.trust.fetcher import SealiftFetcher

DEADLINE_S = 0.5
Answer = Callable[[socket.socket], None]


@contextmanager
def _server(answer: Answer) -> Iterator[str]:
    """Answers each connection with ``answer`` until the client or the test ends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.recv(65536)
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/tuf/1.root.json"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _trickle(start: bytes, again: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(again)
            time.sleep(0.05)

    return answer


def _flood_behind_retry_after(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 503 x\r\nRetry-After: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"A" * 0x10000 + b"\r\n")


def _whole(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def _fetch(url: str) -> bytes:
    fetcher = SealiftFetcher(timeout_s=5, deadline_s=DEADLINE_S)
    data: bytes = fetcher.download_bytes(url, 1000)
    return data


@pytest.mark.parametrize(
    "answer",
    [
        _trickle(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        _trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        _trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
        _trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"a"),
    ],
    ids=["header", "continue", "chunk extension", "body"],
)
def test_bytes_that_trickle_end_at_the_deadline(answer: Answer) -> None:
    with _server(answer) as url:
        begin = time.monotonic()
        with pytest.raises(SlowRetrievalError):
            _fetch(url)
        assert time.monotonic() - begin < DEADLINE_S + 5


def test_a_flood_behind_retry_after_is_not_read() -> None:
    with _server(_flood_behind_retry_after) as url, pytest.raises(DownloadHTTPError):
        _fetch(url)


def test_a_connection_that_is_kept_is_cut_too() -> None:
    served = []

    def twice(connection: socket.socket) -> None:
        served.append(connection)
        _whole(connection)
        connection.recv(65536)
        _trickle(b"HTTP/1.1 200 OK\r\nX: ", b"a")(connection)

    with _server(twice) as url:
        fetcher = SealiftFetcher(timeout_s=5, deadline_s=DEADLINE_S)
        assert fetcher.download_bytes(url, 1000) == b"{}"
        with pytest.raises(SlowRetrievalError):
            fetcher.download_bytes(url, 1000)
        assert len(served) == 1


def test_an_encoded_answer_and_a_redirect_are_refused() -> None:
    def encoded(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")

    def redirect(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 x\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")

    for answer in (encoded, redirect):
        with _server(answer) as url, pytest.raises(DownloadError):
            _fetch(url)
