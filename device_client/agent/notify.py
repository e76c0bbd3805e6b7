"""Tells the service manager how the agent is: a datagram to ``NOTIFY_SOCKET``, as sd_notify(3) describes.

Without that variable, outside systemd, every call does nothing. A manager that does not listen never disturbs the agent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"
_MAX_WATCHDOG_S = 3600.0


class Notifier:
    """One connection to the manager.

    Args:
        environment: of this process.
        pid: of this process; ``WATCHDOG_PID`` must be it, if it is given.
    """

    def __init__(self, environment: Mapping[str, str], *, pid: int) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment, pid=pid) if self._address else None

    def tell(self, *states: str) -> None:
        """Sends state assignments, such as ``READY=1`` or ``STATUS=...``."""
        if self._address is None:
            return
        import socket

        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
            way.setblocking(False)  # a manager whose queue is full misses a ping; the next one follows
            way.sendto("\n".join(states).encode(), self._address)

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self.tell(f"STATUS={text}")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for children: they must not speak to the manager in the agent's name."""
    own = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    return {name: value for name, value in environment.items() if name not in own}


def _address(name: str) -> str | None:
    if name.startswith("@"):
        return f"\0{name[1:]}"
    return name if name.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str], *, pid: int) -> float | None:
    """How often the manager wants to hear from us at the latest; None if it does not."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        return None
    return min(int(text) / 1e6, _MAX_WATCHDOG_S)
