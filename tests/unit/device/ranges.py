"""A blob server that knows ranges, keeps connections open, and can be told to misbehave for its next answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from device_client.bundle import Digest


@dataclass
class Reply:
    """An answer to a range that is about to be sent; a test changes it."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Blobs:
    """What is served, and how. ``cuts`` are lengths after which the next answers break off."""

    data: dict[str, bytes]
    url: str = ""
    cuts: list[int] = field(default_factory=list)
    change: Callable[[Reply, str], Reply] = lambda reply, _: reply
    seen: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    barrier: threading.Barrier | None = None

    def ranges(self) -> list[str | None]:
        """The ``Range`` of each request."""
        return [headers.get("Range") for _, headers in self.seen]


@contextmanager
def serving_blobs(*blobs: bytes) -> Iterator[Blobs]:
    """Serves ``blobs`` under their digests on loopback."""
    served = Blobs({f"/blobs/sha256/{Digest.of(data).hex}": data for data in blobs})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.connections.add(self.client_address)
            served.seen.append((self.path, dict(self.headers.items())))
            if served.barrier is not None:
                served.barrier.wait(10)
            reply = served.change(self._reply(), self.path)
            body = reply.body[: served.cuts.pop(0)] if served.cuts else reply.body
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if len(body) < len(reply.body):
                self.close_connection = True

        def _reply(self) -> Reply:
            data = served.data.get(self.path)
            if data is None:
                return Reply(404, {}, b"")
            etag = f'"{self.path.rpartition("/")[2]}"'
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if not match or self.headers.get("If-Range", etag) != etag:
                return Reply(200, {"ETag": etag}, data)
            begin = int(match[1])
            if begin >= len(data):
                return Reply(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return Reply(206, {"ETag": etag, "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}, data[begin:])

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hung up is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
