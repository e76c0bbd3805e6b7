"""The HTTP protocol of the server: uvicorn's h11 with a bound on how long a client may take to send its headers.

h11 bounds the size of headers; uvicorn alone would wait for them for ever, which lets one client hold every
connection (slow headers). The httptools parser is faster and bounds neither, so it is not used.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 10.0


class PatientH11Protocol(H11Protocol):
    """Closes a connection on which a request was not begun and its headers sent within ``HEADER_TIMEOUT_S``.

    The time runs from the connection, and later from the first byte after a response; the idle time between requests
    is uvicorn's ``timeout_keep_alive``.
    """

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Starts waiting for the first request."""
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts waiting if these bytes are outside of a request that is being answered."""
        if self._header_timer is None and not self._is_answering():
            self._wait_for_headers()
        super().data_received(data)

    def handle_events(self) -> None:
        """Stops waiting once there is a request to answer."""
        super().handle_events()
        if self._is_answering():
            self._stop_waiting()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self.transport.close()
