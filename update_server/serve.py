"""Runs the application: a bound socket, uvicorn in this process, renewal beside it, a clean end on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn

from device_client.errors import SealiftError, UsageError
from device_client.trust.files import write_atomic
from device_client.trust.keys import PassphraseSource
from update_server.app import create_app
from update_server.guard import MAX_HEADER_BYTES
from update_server.protocol import PatientH11Protocol
from update_server.service import Service, open_service

logger = logging.getLogger(__name__)

RENEWAL_CHECK_S = 300.0
KEEP_ALIVE_S = 30
MAX_CONNECTIONS = 2048
SHUTDOWN_S = 10


def serve(
    data: Path,
    *,
    host: str,
    port: int,
    port_file: Path | None,
    unsafe_plain_http: bool,
    passphrase: PassphraseSource,
    on_ready: Callable[[str], None],
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        data: folder made by `server init`.
        host: address to listen on.
        port: 0 lets the system choose.
        port_file: where the port is written once the server answers; removed at the end.
        unsafe_plain_http: allows an address that is not loopback, although this process speaks no TLS.
        passphrase: opens the online keys.
        on_ready: called with the base URL once the server answers.

    Raises:
        UsageError: ``plain_http`` for an address that others can reach, ``address`` when it cannot be bound.
    """
    loopback = is_loopback(host)
    if not loopback and not unsafe_plain_http:
        raise UsageError(
            "this address can be reached by others, and the connection would not be encrypted",
            code="plain_http",
            where=host,
            hint="listen on 127.0.0.1 behind a proxy that speaks TLS, or use --unsafe-plain-http-on",
        )
    with contextlib.closing(_bind(host, port)) as listener:
        bound = listener.getsockname()[1]
        with open_service(data, loopback=loopback, passphrase=passphrase) as service:
            server = _Server(service, on_ready=lambda: _announce(host, bound, port_file, on_ready))
            try:
                server.run(sockets=[listener])
            finally:
                if port_file is not None:
                    port_file.unlink(missing_ok=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; names other than localhost are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """Uvicorn that says when it answers, renews the online roles, and ends with status 0 on a signal."""

    def __init__(self, service: Service, *, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=PatientH11Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a client must not choose the address that it is judged by
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
        )
        self._service = service
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        renewal = asyncio.create_task(_renew_for_ever(self._service))
        try:
            await super().main_loop()
        finally:
            renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewal

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Uvicorn raises the signal again at the end; here a signal is the ordinary way to stop, with status 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _renew_for_ever(service: Service) -> None:
    while True:
        await asyncio.sleep(RENEWAL_CHECK_S)
        try:
            await asyncio.to_thread(service.publisher.renew_if_due)
        except (SealiftError, OSError) as e:
            # devices keep what they run; the operator has as long as the timestamp lives to see this line
            logger.error("cannot renew the online roles: %s", e)  # noqa: TRY400  # the cause is the message


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's algorithm off for what is accepted here. Without, the body of every answer
    # on a kept connection waits 40 ms for the client's delayed acknowledgement of the headers (measured: 44 ms against 0.5 ms).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.set_inheritable(False)
    except (OSError, OverflowError) as e:
        listener.close()
        raise UsageError(
            f"cannot listen there: {e}", code="address", where=f"{host}:{port}", hint="choose another --port, or 0 for a free one"
        ) from e
    return listener


def _announce(host: str, port: int, port_file: Path | None, on_ready: Callable[[str], None]) -> None:
    if port_file is not None:
        write_atomic(port_file, f"{port}\n".encode())
    on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
