"""A deadline that also holds while a connection sits inside the HTTP library.

A server can keep a client inside ``http.client`` for ever without being slow by any single wait: a byte of a header
now and then, an endless chunk extension, ``100 Continue`` after ``100 Continue``. No check between two reads sees that,
so at its time the deadline cuts the connection itself, and the library comes back with an error.

    deadline = Deadline()
    pool = deadline.watch(urllib3.PoolManager(...))
    with deadline.running(60.0):
        pool.request(...)                 # after 60 s every read and write on its connections ends
    deadline.is_over                      # whether that was the reason
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from device_client.trust.authorities import default_context


class Deadline:
    """Cuts the connections of the pools it watches; one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._handles: list[socket.socket] = []
        self.is_over = False

    def watch(self, pools: urllib3.PoolManager) -> urllib3.PoolManager:
        """Makes every connection that ``pools`` opens from now on one that the deadline can cut; returns ``pools``."""
        classes = {"http": partial(_PlainPool, deadline=self), "https": partial(_SecurePool, deadline=self)}
        pools.pool_classes_by_scheme = classes  # type: ignore[assignment]  # called like the classes themselves
        return pools

    @contextmanager
    def running(self, seconds: float) -> Iterator[None]:
        """Cuts all watched connections after ``seconds``, unless the block ended before."""
        self.is_over = False
        with self._lock:
            self._handles = [_second_handle(known.sock) for known in self._known if known.sock is not None]
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                for handle in self._handles:
                    with contextlib.suppress(OSError):  # the request is over; what came of it stands
                        handle.close()
                self._handles = []

    def note(self, connection: HTTPConnection, opened: socket.socket) -> socket.socket:
        """Watches a connection that was just opened; returns ``opened``."""
        with self._lock:
            self._known.add(connection)
            self._handles.append(_second_handle(opened))
        if self.is_over:  # connected too late, at a second try
            self._cut()
        return opened

    def _cut(self) -> None:
        self.is_over = True
        with self._lock:
            for handle in self._handles:
                with contextlib.suppress(OSError):  # closed by the other side already
                    handle.shutdown(socket.SHUT_RDWR)


def _second_handle(opened: socket.socket) -> socket.socket:
    """Another handle on the same connection: TLS and the HTTP library move and close the first one without telling us."""
    return socket.socket(fileno=os.dup(opened.fileno()))


class _Plain(HTTPConnection):
    def __init__(self, *args: Any, deadline: Deadline, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline = deadline

    def _new_conn(self) -> socket.socket:
        return self._deadline.note(self, super()._new_conn())


class _Secure(HTTPSConnection):
    def __init__(self, *args: Any, deadline: Deadline, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline = deadline

    def connect(self) -> None:
        if self.ssl_context is None:
            self.ssl_context = default_context()
        super().connect()

    def _new_conn(self) -> socket.socket:  # before the handshake, which can trickle too
        return self._deadline.note(self, super()._new_conn())


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure
