"""A gateway between the device and the real server, in the attacker's hands: it passes everything on but for what it spoils.

with Front(world.server.url) as front:
    world.ask(front.url)
    front.spoil["/tuf/timestamp.json"] = endless(b" " * 4096)
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

Script = Callable[[socket.socket], None]
ENDLESS_BYTES = 64 * 1024 * 1024  # where an endless answer ends if nobody hangs up


class _Quiet(ThreadingHTTPServer):
    """A device that hangs up in the middle is no error here."""

    daemon_threads = True
    block_on_close = False  # a trickle is not waited for

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as socketserver calls it


class Front:
    """Serves until it is left.

    Args:
        upstream: base URL of the real server.
        tls: speaks TLS with this certificate.

    Attributes:
        url: its own base URL; ``host`` in it may be replaced by a name.
        spoil: path to what answers in its place; ``*`` answers everything.
        requests: paths that were asked for, oldest first.
        sent: path to the number of bytes that a script of this module got rid of.
    """

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        self.spoil: dict[str, Script] = {}
        self.requests: list[str] = []
        self._server = _Quiet(("127.0.0.1", 0), _handler(self, urlsplit(upstream).netloc))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler(front: Front, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = 20.0

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            front.requests.append(self.path)
            self.close_connection = True
            script = front.spoil.get(self.path) or front.spoil.get("*")
            if script is not None:
                script(self.connection)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            link = http.client.HTTPConnection(upstream, timeout=20)
            try:
                link.request(self.command, self.path, body=body or None, headers=headers)
                answer = link.getresponse()
                data = answer.read()
            finally:
                link.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
            pass

    return Handler


class Flood:
    """An answer without end; ``sent`` counts what the other side took."""

    def __init__(self, piece: bytes, *headers: str, is_chunked: bool = False, length: int | None = None) -> None:
        self.sent = 0
        self._piece = piece
        self._is_chunked = is_chunked
        how = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {length}" if length is not None else ""
        self._head = "\r\n".join(["HTTP/1.1 200 OK", "Connection: close", *headers, *([how] if how else []), "", ""]).encode()

    def __call__(self, connection: socket.socket) -> None:
        piece = b"%x\r\n%b\r\n" % (len(self._piece), self._piece) if self._is_chunked else self._piece
        connection.sendall(self._head)
        while self.sent < ENDLESS_BYTES:
            connection.sendall(piece)
            self.sent += len(piece)


def whole(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> Script:
    """A whole answer; ``length`` lies about it."""
    told = len(body) if length is None else length
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {told}", "Connection: close", *headers, "", ""]).encode()
    return lambda connection: connection.sendall(head + body)


def trickle(connection: socket.socket) -> None:
    """A byte now and then: no single wait is long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\nConnection: close\r\n\r\n")
    for _ in range(400):
        connection.sendall(b" ")
        threading.Event().wait(0.05)
