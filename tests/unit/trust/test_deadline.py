"""The deadline cuts connections wherever the HTTP library sits, leaves others alone, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import urllib3

from device_client.trust.deadline import Deadline

LONG_S, SHORT_S, PATIENCE_S = 60.0, 0.5, 5.0
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Listener:
    """Takes connections and answers each request with ``answer``; None keeps the client waiting until it goes."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.connected = threading.Event()
        self.gone = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connected.set()
            with connection, suppress(OSError):
                connection.settimeout(PATIENCE_S)
                while connection.recv(65536):
                    if self.answer is not None:
                        connection.sendall(self.answer)
                self.gone.set()


@contextmanager
def _listening(answer: bytes | None) -> Iterator[Listener]:
    listener = Listener(answer)
    try:
        yield listener
    finally:
        listener.close()


def _pools(deadline: Deadline) -> urllib3.PoolManager:
    return deadline.watch(urllib3.PoolManager(retries=False, timeout=PATIENCE_S))


def _timers() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def _get(pools: urllib3.PoolManager, url: str) -> bytes:
    return pools.request("GET", url).data


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_answers_is_cut_at_the_deadline(scheme: str) -> None:
    deadline = Deadline()
    assert deadline.is_over is False
    with _listening(None) as server, pytest.raises(urllib3.exceptions.HTTPError), deadline.running(SHORT_S):
        _get(_pools(deadline), f"{scheme}://{server.address}/")
    assert deadline.is_over is True
    assert server.gone.wait(PATIENCE_S)


def test_a_connection_that_is_kept_from_before_is_cut_too() -> None:
    deadline = Deadline()
    with _listening(WHOLE) as server:
        pools = _pools(deadline)
        with deadline.running(LONG_S):
            assert _get(pools, f"http://{server.address}/") == b"{}"
        server.answer = None
        with pytest.raises(urllib3.exceptions.HTTPError), deadline.running(SHORT_S):
            _get(pools, f"http://{server.address}/")
    assert deadline.is_over


def test_an_answer_in_time_is_left_alone_and_the_next_deadline_begins_anew() -> None:
    deadline = Deadline()
    with _listening(None) as silent, suppress(urllib3.exceptions.HTTPError), deadline.running(SHORT_S):
        _get(_pools(deadline), f"http://{silent.address}/")
    assert deadline.is_over is True
    with _listening(WHOLE) as server, deadline.running(LONG_S):
        assert deadline.is_over is False
        assert _get(_pools(deadline), f"http://{server.address}/") == b"{}"
    assert deadline.is_over is False


def test_a_connection_opened_after_the_deadline_is_cut_at_once() -> None:
    deadline, before = Deadline(), set(_timers())
    with _listening(None) as server, deadline.running(0.0):
        for timer in set(_timers()) - before:
            timer.join(PATIENCE_S)
        assert deadline.is_over
        with pytest.raises(urllib3.exceptions.HTTPError):
            _get(_pools(deadline), f"http://{server.address}/")
        assert server.gone.wait(PATIENCE_S)


def test_other_connections_of_the_process_are_not_cut() -> None:
    deadline = Deadline()
    with _listening(WHOLE) as server, socket.create_connection(server.address.split(":")) as other:
        with _listening(None) as silent, suppress(urllib3.exceptions.HTTPError), deadline.running(SHORT_S):
            _get(_pools(deadline), f"http://{silent.address}/")
        other.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert other.recv(100) == WHOLE


def test_a_connection_that_the_server_closed_before_does_not_disturb_the_cut() -> None:
    deadline = Deadline()
    with _listening(WHOLE) as server, _listening(None) as silent:
        pools = _pools(deadline)
        with deadline.running(LONG_S):
            _get(pools, f"http://{server.address}/")
            first = next(iter(deadline._known)).sock
            assert first is not None
            first.shutdown(socket.SHUT_RDWR)
            assert server.gone.wait(PATIENCE_S)
            deadline._cut()
        with pytest.raises(urllib3.exceptions.HTTPError), deadline.running(SHORT_S):
            _get(pools, f"http://{silent.address}/")
    assert deadline.is_over


def test_the_timer_ends_with_the_block_and_never_keeps_the_process_alive() -> None:
    before = set(_timers())
    with Deadline().running(LONG_S):
        (timer,) = set(_timers()) - before
        assert timer.daemon
    timer.join(PATIENCE_S)
    assert not timer.is_alive()


def test_no_descriptor_is_left_open() -> None:
    deadline = Deadline()
    with _listening(WHOLE) as server:
        pools = _pools(deadline)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(3):
            with deadline.running(LONG_S):
                _get(pools, f"http://{server.address}/")
        pools.clear()
        server.gone.wait(PATIENCE_S)
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
