"""A raw socket server on loopback that answers with whatever bytes a test gives it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Script = Callable[[socket.socket, bytes], None]


def serving(*scripts: Script) -> AbstractContextManager[tuple[str, list[bytes]]]:
    """Yields the base URL and the request heads; connection n is answered by script n, the last script by default."""
    return _serving(scripts, None)


def serving_tls(context: ssl.SSLContext, *scripts: Script) -> AbstractContextManager[tuple[str, list[bytes]]]:
    """The same over TLS, at ``https://localhost``."""
    return _serving(scripts, context)


@contextmanager
def _serving(scripts: tuple[Script, ...], tls: ssl.SSLContext | None) -> Iterator[tuple[str, list[bytes]]]:
    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.ExitStack() as stack:
                connection.settimeout(5)
                try:
                    if tls is not None:
                        connection = tls.wrap_socket(connection, server_side=True)
                    stack.enter_context(connection)
                    head = b""
                    while b"\r\n\r\n" not in head:
                        piece = connection.recv(4096)
                        if not piece:
                            break
                        head += piece
                    heads.append(head)
                    scripts[min(len(heads), len(scripts)) - 1](connection, head)
                except OSError:
                    continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        port = listener.getsockname()[1]
        yield f"https://localhost:{port}" if tls is not None else f"http://127.0.0.1:{port}", heads
    finally:
        stopped.set()
        # shutdown wakes the thread out of accept; close alone does not
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> Script:
    """A whole answer; ``length`` lies about it."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers])
    return lambda connection, _: connection.sendall(head.encode() + b"\r\n\r\n" + body)


def problem(code: str, *, status: str, extra: str = "") -> Script:
    body = f'{{"code": "{code}", "detail": "because"{extra}}}'.encode()
    return answer(body, "Content-Type: application/problem+json", status=status)


def chunked_without_end(chunk: bytes) -> Script:
    def script(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")

    return script


def trickle(total: int, *, pause_s: float) -> Script:
    def script(connection: socket.socket, _: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n".encode())
        for _ in range(total):
            connection.sendall(b"x")
            time.sleep(pause_s)

    return script


def head_trickle(connection: socket.socket, _: bytes) -> None:
    """A header that never ends, a byte now and then: no single wait is long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def continue_flood(connection: socket.socket, _: bytes) -> None:
    """``100 Continue`` for ever."""
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def chunk_extension(connection: socket.socket, _: bytes) -> None:
    """A chunk whose size line never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def hang_up(connection: socket.socket, _: bytes) -> None:
    connection.close()
