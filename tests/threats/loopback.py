"""The real server on a loopback port, in a thread of this process: its own files, its own database, its own HTTP stack.

What differs from `sealift server serve`: no signal handlers, which belong to the main thread, and a gate in front that
can hold a blob's answer in the middle, so that a test meets a device while it downloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import Any

from device_client.errors import SealiftError
from device_client.trust.times import utc_now
from update_server.serve import _bind, _Server
from update_server.service import Service, open_service

_WAIT_S = 20.0


class Gate:
    """In front of the application: holds the answers about one blob after their first half, until it is opened."""

    def __init__(self) -> None:
        self.app: Any = None
        self.held = threading.Event()  # somebody has received the first half
        self.requests: list[str] = []
        self._blob: str | None = None
        self._open = threading.Event()

    def hold(self, blob: str) -> None:
        """Holds every answer about ``/blobs/sha256/<blob>`` from now on."""
        self._open.clear()
        self.held.clear()
        self._blob = blob

    def open(self) -> None:
        """Lets everything go on."""
        self._blob = None
        self._open.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(scope["path"])
        is_held = self._blob is not None and scope["path"].endswith(self._blob)
        await self.app(scope, receive, self._slowly(send) if is_held else send)

    def _slowly(self, send: Any) -> Any:
        async def sent(message: Any) -> None:
            body = message.get("body", b"")
            if body:
                half = len(body) // 2
                await send({**message, "body": body[:half], "more_body": True})
                self.held.set()
                while not self._open.is_set():
                    await asyncio.sleep(0.01)
                message = {**message, "body": body[half:]}
            await send(message)

        return sent


class _InThread(_Server):
    """The server of `serve`, without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class LoopbackServer:
    """A server over ``data``; ``port`` 0 takes a free one. Stop it, or use it in a ``with`` statement."""

    def __init__(
        self, data: Path, *, passphrase: bytes, port: int = 0, loopback: bool = True, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.gate = Gate()
        self._data = data
        self._clock = clock
        self._passphrase = passphrase
        self._loopback = loopback
        self._ready = threading.Event()
        self._server: _InThread | None = None
        self._failure: BaseException | None = None
        self._listener = _bind("127.0.0.1", port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._run, name=f"server-{self.port}", daemon=True)
        self._thread.start()
        if not self._ready.wait(_WAIT_S) or self._failure is not None:
            raise RuntimeError("the server did not start") from self._failure

    def stop(self) -> None:
        """Ends it; afterwards nothing listens on the port."""
        self.gate.open()
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(_WAIT_S)
        if self._thread.is_alive():
            raise RuntimeError("the server does not end")

    def __enter__(self) -> LoopbackServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            with open_service(
                self._data, loopback=self._loopback, passphrase=lambda _: self._passphrase, clock=self._clock
            ) as service:
                self._serve(service)
        except (SealiftError, OSError) as error:
            self._failure = error
        finally:
            self._listener.close()
            self._ready.set()

    def _serve(self, service: Service) -> None:
        self._server = _InThread(service, on_ready=self._ready.set)
        self.gate.app, self._server.config.app = self._server.config.app, self.gate
        self._server.run(sockets=[self._listener])
