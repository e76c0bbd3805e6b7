"""One HTTP server on loopback for many repositories, each below a path of its own.

with Loopback() as server:
    url = server.mount("timestamp-rollback", repo)      # http://127.0.0.1:PORT/timestamp-rollback
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.conformance.repository import Answer, Repository

ENDLESS_BYTES = 64 * 1024 * 1024  # where an endless answer ends if nobody hangs up
_STEP_BYTES = 64 * 1024


class _Quiet(ThreadingHTTPServer):
    """A client that hangs up in the middle is no error here."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as socketserver calls it


class Loopback:
    """Serves until it is left."""

    def __init__(self) -> None:
        self._repositories: dict[str, Repository] = {}
        self._server = _Quiet(("127.0.0.1", 0), _handler(self._repositories))
        self._server.daemon_threads = True
        self._server.block_on_close = False  # a trickle is not waited for
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def mount(self, name: str, repo: Repository) -> str:
        """Serves ``repo`` below ``name``, in the place of what was there; returns its address."""
        self._repositories[name] = repo
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler(repositories: dict[str, Repository]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = _STEP_BYTES  # headers and body in one packet
        timeout = 30.0

        def do_GET(self) -> None:
            name, _, path = self.path.removeprefix("/").partition("/")
            repo = repositories.get(name)
            answer = Answer(status=404) if repo is None else repo.answer(path)
            try:
                self._send(answer)
            except OSError:  # the client hung up
                self.close_connection = True
            if repo is not None and answer.is_endless:
                repo.sent_bytes[path] = self._sent

        def do_HEAD(self) -> None:  # no client asks so
            self.send_error(405)

        def _send(self, answer: Answer) -> None:
            self._sent = 0
            self.send_response(answer.status)
            for header, value in answer.headers:
                self.send_header(header, value)
            if answer.is_chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif not answer.is_endless:
                length = len(answer.body) if answer.claimed_bytes is None else answer.claimed_bytes
                self.send_header("Content-Length", str(length))
            is_last = answer.is_endless or answer.claimed_bytes is not None
            if is_last:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self._send_body(answer)

        def _send_body(self, answer: Answer) -> None:
            if answer.is_endless:
                step = answer.body * max(1, _STEP_BYTES // len(answer.body))
                while self._sent < ENDLESS_BYTES:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(step), step) if answer.is_chunked else step)
                    self._sent += len(step)
            elif answer.pause_s:
                for byte in answer.body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if self._hung_up(answer.pause_s):
                        return
            elif answer.is_chunked:
                middle = len(answer.body) // 2
                for part in (answer.body[:middle], answer.body[middle:], b""):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            else:
                self.wfile.write(answer.body)

        def _hung_up(self, wait_s: float) -> bool:
            """Waits; ends at once when the client closes the connection."""
            self.connection.settimeout(wait_s)
            try:
                return self.connection.recv(1) == b""
            except TimeoutError:
                return False

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
            pass

    return Handler
