"""Who is at the other end of a Unix socket, by the kernel's word, and what they may do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from device_client.errors import PolicyError, TransportError, UsageError
from device_client.install.service_settings import ServiceSettings

_CREDENTIALS = struct.Struct("3i")  # process, user, group


@dataclass(frozen=True)
class Peer:
    """A connected process."""

    pid: int
    uid: int


@dataclass(frozen=True)
class Permissions:
    """Users by number. The owner of the device's folder may run models; whoever may vote may run them, too."""

    users: frozenset[int]
    voters: frozenset[int]

    @classmethod
    def of(cls, settings: ServiceSettings) -> Permissions:
        """From the configuration.

        Raises:
            UsageError: a name that this system does not know (``device_config``).
        """
        voters = frozenset(_uid(user, "service.voters") for user in settings.voters)
        users = frozenset(_uid(user, "service.users") for user in settings.users)
        return cls(users | voters | {os.geteuid()}, voters)

    def check_user(self, peer: Peer) -> None:
        """The peer may use the service.

        Raises:
            PolicyError: ``peer_refused``.
        """
        if peer.uid not in self.users:
            raise _refused(peer, "users")

    def check_voter(self, peer: Peer) -> None:
        """The peer may vote.

        Raises:
            PolicyError: ``peer_refused``.
        """
        if peer.uid not in self.voters:
            raise _refused(peer, "voters")


class Places:
    """How many may be connected at once: in all, and of one user."""

    def __init__(self, *, total: int, per_user: int) -> None:
        self._total, self._per_user = total, per_user
        self._lock = Lock()
        self._taken: Counter[int] = Counter()

    @contextmanager
    def taken_by(self, peer: Peer) -> Iterator[None]:
        """A place for the length of the block.

        Raises:
            TransportError: none is free (``service_busy``).
        """
        with self._lock:
            if self._taken[peer.uid] >= self._per_user or self._taken.total() >= self._total:
                raise TransportError(
                    "too many connections",
                    code="service_busy",
                    expected=f"at most {self._total}, {self._per_user} of one user",
                    hint="keep one connection open and ask through it, or ask again later",
                )
            self._taken[peer.uid] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[peer.uid] -= 1


def read_peer(connection: socket.socket) -> Peer:
    """The process that connected, as the kernel noted it then."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)


def group_number(name: str) -> int:
    """The number of a group.

    Raises:
        UsageError: this system does not know it (``device_config``).
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as e:
        raise UsageError("no such group", code="device_config", where="service.group", actual=name) from e


def _uid(user: str | int, where: str) -> int:
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as e:
        raise UsageError("no such user", code="device_config", where=where, actual=user) from e


def _refused(peer: Peer, listed: str) -> PolicyError:
    return PolicyError(
        "this user may not do this here",
        code="peer_refused",
        expected=f"a user of [service] {listed} in device.toml",
        actual=f"user {peer.uid}",
        hint="the device's owner adds the user and starts the service again",
    )
