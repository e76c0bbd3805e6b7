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

DEADLINE_S = 0.2
Answer = Callable[[socket.socket], None]


@contextmanager
def _server(answer: Callable[..., None], *, with_request: bool = False) -> Iterator[str]:
    """Answers each connection with ``answer`` until the client or the test ends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    request = connection.recv(65536)
                    answer(connection, request) if with_request else answer(connection)

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
        for _ in range(200):  # 4 s: far beyond the deadline, and an end where there is none
            connection.sendall(again)
            time.sleep(0.02)

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
        _trickle(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),  # its end is the end of the connection, which the deadline makes
    ],
    ids=["header", "continue", "chunk extension", "body", "body without a length"],
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


def test_a_fetch_tells_the_server_nothing_about_the_device() -> None:
    asked: list[bytes] = []

    def keep(connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        _whole(connection)

    with _server(keep, with_request=True) as url:
        assert _fetch(url) == b"{}"
    (request,) = asked
    host = url.split("/")[2]
    assert sorted(request.split(b"\r\n")) == sorted(
        f"GET /tuf/1.root.json HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\nAccept: application/json\r\n"
        "User-Agent: sealift-device\r\n\r\n".encode().split(b"\r\n")
    )


@pytest.mark.parametrize("status", [204, 206, 302, 404, 503])
def test_any_status_but_200_is_refused_with_its_number_and_asked_for_once(status: int) -> None:
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        connections.append(connection)
        connection.sendall(f"HTTP/1.1 {status} x\r\nLocation: /tuf/other.json\r\nContent-Length: 0\r\n\r\n".encode())

    with _server(answer) as url:
        with pytest.raises(DownloadHTTPError) as refusal:
            _fetch(url)
        assert refusal.value.status_code == status
    assert len(connections) == 1


def test_an_answer_that_says_it_is_not_encoded_is_taken() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}"
    with _server(lambda connection: connection.sendall(plain)) as url:
        assert _fetch(url) == b"{}"


@pytest.mark.parametrize(("failures", "retries", "ends_well"), [(2, 2, True), (3, 2, False), (1, 0, False), (0, 0, True)])
def test_a_connection_that_ends_without_an_answer_is_tried_again_so_many_times(
    failures: int, retries: int, ends_well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        connections.append(connection)
        if len(connections) > failures:
            _whole(connection)

    with _server(answer) as url:
        fetcher = SealiftFetcher(timeout_s=5, deadline_s=30, retries=retries)
        if ends_well:
            assert fetcher.download_bytes(url, 1000) == b"{}"
        else:
            with pytest.raises(DownloadError) as refusal:
                fetcher.download_bytes(url, 1000)
            assert type(refusal.value) is DownloadError
    assert len(connections) == min(failures, retries) + 1
    assert sum(waits) < 1
    assert (sum(waits) > 0) == (min(failures, retries) > 1)  # the first new try comes at once, the second not


def test_a_server_that_says_nothing_is_left_before_the_deadline() -> None:
    def silent(connection: socket.socket) -> None:
        connection.recv(65536)

    with _server(silent) as url:
        fetcher = SealiftFetcher(timeout_s=0.1, deadline_s=3, retries=0)
        with pytest.raises(DownloadError) as refusal:
            fetcher.download_bytes(url, 1000)
    assert type(refusal.value) is DownloadError


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}"
    with _server(lambda connection: connection.sendall(cut)) as url, pytest.raises(DownloadError):
        _fetch(url)


def test_a_long_answer_comes_whole_and_in_pieces_of_bounded_size() -> None:
    body = bytes(range(256)) * 1024
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with _server(lambda connection: connection.sendall(head + body)) as url:
        pieces = list(SealiftFetcher(timeout_s=5, deadline_s=30).fetch(url))
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 16 * 1024


@pytest.mark.parametrize(("length", "is_kept"), [(0, True), (16 * 1024, True), (20_000, True), (40_000, False), (10**7, False)])
def test_a_connection_serves_on_after_the_short_body_of_an_error_and_is_left_after_a_long_one(length: int, is_kept: bool) -> None:
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        connections.append(connection)
        if len(connections) == 1:
            connection.sendall(f"HTTP/1.1 404 x\r\nContent-Length: {length}\r\n\r\n".encode() + b"x" * min(length, 40_000))
            if not connection.recv(65536):
                return
        _whole(connection)

    with _server(answer) as url:
        fetcher = SealiftFetcher(timeout_s=5, deadline_s=30, retries=0)
        with pytest.raises(DownloadHTTPError):
            fetcher.download_bytes(url, 1000)
        assert fetcher.download_bytes(url, 1000) == b"{}"
    assert len(connections) == (1 if is_kept else 2)
