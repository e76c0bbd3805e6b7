"""The in-memory world behind real sockets: metadata, blobs (with ranges) and the device API over HTTP."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tuf.api.exceptions import DownloadHTTPError

from device_client.bundle.digest import Digest
from device_client.install.http import Answer, ServerRefusalError
from tests.unit.device.world import World

_BLOBS = "/blobs/sha256/"
_NO_HEADERS: Mapping[str, str] = {}


class Front:
    """Serves ``world``, which may be replaced between two polls. Attributes: ``url``; ``world``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def do_GET(self) -> None:  # the base class calls it so
                status, kind, body = front._get(self.path, self._token())
                if status == 200 and self.path.startswith(_BLOBS):
                    self._give_blob(kind, body)
                else:
                    self._give(status, kind, body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self._give(*front._api("POST", self.path, self._token(), body))

            def log_message(self, *_: object) -> None:
                """Not in a test's output."""

            def _token(self) -> str | None:
                return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

            def _give_blob(self, kind: str, body: bytes) -> None:
                tag = f'"{self.path.removeprefix(_BLOBS)}"'
                match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                begin = int(match[1]) if match and self.headers.get("If-Range", tag) == tag else 0
                if not 0 < begin < len(body):
                    self._give(200, kind, body, {"ETag": tag})
                    return
                told = {"ETag": tag, "Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}
                self._give(206, kind, body[begin:], told)

            def _give(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that goes away in the middle is what is being tested."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def __enter__(self) -> Front:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _get(self, path: str, token: str | None) -> tuple[int, str, bytes]:
        if path.startswith("/tuf/"):
            with self._lock:
                try:
                    return 200, "application/json", b"".join(self.world.sim._fetch(path))
                except DownloadHTTPError:
                    return 404, "text/plain", b""
        if path.startswith(_BLOBS):
            data = self.world.server.blobs.get(Digest(path.removeprefix(_BLOBS)))
            return (404, "text/plain", b"") if data is None else (200, "application/octet-stream", data)
        return self._api("GET", path, token, None)

    def _api(self, method: str, path: str, token: str | None, body: bytes | None) -> tuple[int, str, bytes]:
        with self._lock:
            try:
                answer: Answer = self.world.server.request(method, path, body=body, token=token)
            except ServerRefusalError as refusal:
                return 409, "application/problem+json", json.dumps(dict(refusal.problem)).encode()
            return answer.status, "application/json", answer.body
