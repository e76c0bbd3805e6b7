"""The inference service: accepts, asks the kernel who it is, and answers, one thread per connection and a bound on those.

    with InferenceServer(device) as server:
        server.run()          # until server.stop(), from any thread or a signal handler

Speaks ``protocol.py``; what it answers is in ``requests.py``. A client that is silent or slow loses its connection, one that
sends something else than messages gets one error and loses it, too. Nothing of a request's content is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from contextlib import ExitStack
from types import TracebackType

from device_client.errors import FormatError, LimitError, SealiftError, TransportError
from device_client.install.folder import Device
from device_client.service.listener import listening
from device_client.service.peers import Peer, Permissions, Places, read_peer
from device_client.service.pool import Pool
from device_client.service.protocol import Message, receive, send
from device_client.service.requests import Requests

GRACE_S = 10.0
"""How long requests that were begun may take when the service ends."""
logger = logging.getLogger(__name__)


class InferenceServer:
    """The service of one device. Use it in a ``with`` statement.

    Raises:
        StateError: another service is at work on this folder, or the socket cannot be made.
        UsageError: the configuration names an unknown user or group.
    """

    def __init__(self, device: Device, *, pool: Pool | None = None) -> None:
        settings = device.config.service
        self._settings = settings
        self._permissions = Permissions.of(settings)
        self._places = Places(total=settings.connections, per_user=settings.connections_per_user)
        self._device, self._given_pool = device, pool
        self._ending = threading.Event()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> InferenceServer:
        with ExitStack() as stack:
            self._listener = stack.enter_context(listening(self._device.folder, self._settings))
            self._wakeup, self._waker = os.pipe()
            for descriptor in (self._wakeup, self._waker):
                os.set_blocking(descriptor, False)
                stack.callback(os.close, descriptor)
            self.pool = self._given_pool or Pool(self._device)
            self._requests = Requests(self._device, self.pool, self._permissions)
            stack.callback(self._end)
            self.pool.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def stop(self) -> None:
        """Lets ``run`` return; safe from a signal handler."""
        self._ending.set()
        with contextlib.suppress(OSError):
            os.write(self._waker, b"!")

    def run(self) -> None:
        """Accepts until ``stop``."""
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while not self._ending.is_set():
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # gone again, or no descriptor is left: the others go on
            logger.warning("a connection could not be accepted: %s", error.strerror)
            time.sleep(0.05)
            return
        thread = threading.Thread(target=self._converse, args=(connection,), name="connection", daemon=True)
        with self._lock:
            self._connections.add(connection)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no thread can be made
            self._forget(connection, thread)

    def _converse(self, connection: socket.socket) -> None:
        """One connection, from its first byte to its end."""
        try:
            peer = read_peer(connection)
            self._permissions.check_user(peer)
            with self._places.taken_by(peer):
                while not self._ending.is_set() and (message := self._receive(connection)) is not None:
                    self._reply(connection, message, peer)
        except TransportError as error:
            if error.code == "service_busy":
                self._refuse(connection, error)
        except SealiftError as error:  # not a message, or not allowed: one word, then the end
            self._refuse(connection, error)
        except OSError:
            pass
        finally:
            self._forget(connection, threading.current_thread())

    def _receive(self, connection: socket.socket) -> Message | None:
        silence_s = float(self._settings.silence_s)
        return receive(
            connection,
            max_body_bytes=self._settings.max_message_bytes,
            timeout_s=silence_s,
            idle_s=2 * silence_s,
            where="request",
        )

    def _reply(self, connection: socket.socket, message: Message, peer: Peer) -> None:
        try:
            header, tensors = self._requests.answer(message, peer)
        except SealiftError as error:
            header, tensors = {"ok": False, **error.to_json()}, ()
        send(connection, header, tensors, timeout_s=float(self._settings.silence_s))

    def _refuse(self, connection: socket.socket, error: SealiftError) -> None:
        level = logging.INFO if isinstance(error, (FormatError, LimitError, TransportError)) else logging.WARNING
        logger.log(level, "a connection is refused: %s", error)
        with contextlib.suppress(SealiftError):
            send(connection, {"ok": False, **error.to_json()}, timeout_s=1.0)

    def _forget(self, connection: socket.socket, thread: threading.Thread) -> None:
        connection.close()
        with self._lock:
            self._connections.discard(connection)
            self._threads.discard(thread)

    def _end(self) -> None:
        """Requests that were begun end well, in ``GRACE_S`` seconds; connections that wait for one end at once."""
        self._ending.set()
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # what waits for a message finds the end; answers still go out
        deadline = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(timeout=max(deadline - time.monotonic(), 0.0))
        self.pool.close(grace_s=max(deadline - time.monotonic(), 0.5))
