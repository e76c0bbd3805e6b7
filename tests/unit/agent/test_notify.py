"""The service manager hears when the agent is ready, alive and ending; the children cannot speak in its name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from device_client.agent.notify import READY, STOPPING, WATCHDOG, Notifier, clean_environment


def test_the_manager_gets_one_datagram_for_each_message(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, pid=1)
        notifier.tell(READY, "STATUS=up")
        notifier.tell(WATCHDOG)
        notifier.tell(STOPPING)
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1\nSTATUS=up", b"WATCHDOG=1", b"STOPPING=1"]


def test_an_abstract_address_works_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0sealift-test-{os.getpid()}")
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@sealift-test-{os.getpid()}"}, pid=1).tell(READY)
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/nobody/here"}]
)
def test_no_manager_is_no_trouble(environment: dict[str, str]) -> None:
    Notifier(environment, pid=1).tell(READY)


def test_a_manager_that_does_not_read_does_not_hold_the_agent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, pid=1)
        for _ in range(3000):
            notifier.tell(WATCHDOG)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "180000000"}, 180.0),
        ({"WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "7"}, 180.0),
        ({"WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 30}, None),
        ({}, None),
    ],
)
def test_the_watchdog_counts_if_it_is_meant_for_this_process(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/somewhere", **environment}, pid=7).watchdog_s == seconds


def test_children_get_no_way_to_the_manager() -> None:
    given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    assert clean_environment(given) == {"PATH": "/bin"}
