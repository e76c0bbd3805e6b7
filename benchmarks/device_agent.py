"""D2, D6, D7: what a poll with nothing new asks for, and what the agent holds in memory while it waits and while it polls.

    python -m benchmarks.device_agent

A real server with one release, a device that runs it, and the agent as `sealift device run` starts it. Memory is private dirty
memory of `/proc/PID/smaps_rollup`: pages that exist only because this process wrote to them, which is what a device with many
processes pays for each. The supervisor is read after polls, with a service manager that it notifies. The worker is read over its
whole life, every millisecond from outside and once from within at its end, over plain HTTP and over TLS with this machine's list of
authorities (a MiB for each connection pool), and the highest figure counts.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from benchmarks.results_file import Goal
from device_client.agent.supervisor import command_of
from device_client.commands_agent import agent_command
from tests.threats.front import Front
from tests.threats.test_wrong_certificates import Authority
from tests.threats.town import build_town
from tests.threats.world import World

_POLLS = 5
_SUPERVISOR_MIB, _WORKER_MIB = 10.0, 25.0
_PATIENCE_S = 60.0
_MEASURED = """
import sys
from pathlib import Path
from device_client.agent import worker
print(worker.run("poll", Path(sys.argv[1])).kind)
print(next(line for line in open("/proc/self/smaps_rollup") if line.startswith("Private_Dirty")).split()[1])
"""


def rows(*, polls: int = _POLLS) -> list[dict[str, Any]]:
    """One row for each figure."""
    with _device() as world:
        world.poll()  # from here on there is nothing new
        return [*_requests(world), *_memory(world, polls), *_over_tls(world, polls)]


def goals(measured: list[dict[str, Any]]) -> list[Goal]:
    """D2, D6 and D7 from the rows."""
    value = {row["what"]: row["value"] for row in measured}
    plain, tls = value["worker, peak"], value["worker, peak over TLS"]
    return [
        Goal("D2", "poll with nothing new: metadata requests", value["metadata requests"], "<=", 2, ""),
        Goal("D2-api", "poll with nothing new: API calls", value["API calls"], "<=", 1, ""),
        Goal("D6", "supervisor: private dirty memory", value["supervisor, after polls"], "<=", _SUPERVISOR_MIB, "MiB"),
        Goal("D7", "worker: peak private dirty memory", max(plain, tls), "<=", _WORKER_MIB, "MiB"),
        Goal("D7-idle", "idle processes that map onnxruntime", value["idle processes with onnxruntime"], "<=", 0, ""),
    ]


def _requests(world: World) -> list[dict[str, Any]]:
    """Counted in front of the server's application, of a worker in a process of its own."""
    path = str(world.device.folder.path)
    world.server.gate.requests.clear()
    subprocess.run(command_of("poll", path), check=True, stdout=subprocess.DEVNULL)
    kinds = Counter(
        "metadata" if name.startswith("/tuf/") else "api" if name.startswith("/v1/") else "blob"
        for name in world.server.gate.requests
    )
    return [
        {"what": "metadata requests", "value": kinds["metadata"], "unit": ""},
        {"what": "API calls", "value": kinds["api"], "unit": ""},
        {"what": "blob requests", "value": kinds["blob"], "unit": ""},
    ]


def _memory(world: World, polls: int) -> list[dict[str, Any]]:
    path = world.device.folder.path
    within = [_from_within(path) for _ in range(polls)]
    with _agent(world) as agent:
        settled = [_private_dirty(agent.pid)]
        peaks = []
        for _ in range(polls):
            agent.send_signal(signal.SIGHUP)
            peaks.append(_peak_of_next_child(agent.pid))
            settled.append(_private_dirty(agent.pid))
        time.sleep(1.0)  # the worker is gone and was waited for
        mapped = sum(_maps_onnxruntime(pid) for pid in _tree(agent.pid))
        idle = len(_tree(agent.pid))
    return [
        {"what": "supervisor, at its start", "value": settled[0], "unit": "MiB"},
        {"what": "supervisor, after polls", "value": max(settled), "unit": "MiB"},
        {"what": "worker, peak", "value": max(*peaks, *within), "unit": "MiB"},
        {"what": "worker, lowest peak of all polls", "value": min(*peaks, *within), "unit": "MiB"},
        {"what": "worker, highest seen from outside", "value": max(peaks), "unit": "MiB"},
        {"what": "idle processes", "value": idle, "unit": ""},
        {"what": "idle processes with onnxruntime", "value": mapped, "unit": ""},
    ]


def _over_tls(world: World, polls: int) -> list[dict[str, Any]]:
    authority = Authority.make("an authority of this benchmark")
    store = world.folder / "authorities.pem"
    system = ssl.get_default_verify_paths().cafile
    ours = authority.certificate.public_bytes(serialization.Encoding.PEM)
    store.write_bytes((Path(system).read_bytes() if system else b"") + ours)
    with Front(world.server.url, tls=authority.server(world.folder)) as front:
        world.ask(front.url.replace("127.0.0.1", "localhost"))
        peaks = [_from_within(world.device.folder.path, SSL_CERT_FILE=str(store)) for _ in range(polls)]
    return [
        {"what": "worker, peak over TLS", "value": max(peaks), "unit": "MiB"},
        {"what": "authorities that it loads", "value": store.read_bytes().count(b"BEGIN CERTIFICATE"), "unit": ""},
    ]


@contextmanager
def _device() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        folder = Path(name) / "town"
        folder.mkdir()
        world = World(build_town(folder), Path(name))
        try:
            yield world
        finally:
            world.close()


@contextmanager
def _agent(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """The agent, ready, with somebody who listens to it."""
    address = str(world.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(_PATIENCE_S)
        command = agent_command(world.device.folder.path, once=False, as_json=True)
        environment = dict(os.environ) | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        agent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            manager.recv(100)
            manager.recv(100)  # the first ping: the loop runs
            yield agent
        finally:
            agent.terminate()
            agent.wait()


def _from_within(path: Path, **environment: str) -> float:
    command = [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{_MEASURED}", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ) | environment)
    kind, kib = done.stdout.split()
    if kind != "answered":
        raise RuntimeError(f"the poll did not go well: {kind}")
    return int(kib) / 1024


def _peak_of_next_child(parent: int) -> float:
    """The highest figure of the worker that is about to start, once it has ended."""
    peak, seen, end = 0.0, False, time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        workers = [pid for pid in _children(parent) if _is_worker(pid)]
        if seen and not workers:
            return peak
        for pid in workers:
            seen = True
            peak = max(peak, _private_dirty(pid))
        time.sleep(0.001)
    raise RuntimeError("no worker came and went")


def _private_dirty(pid: int) -> float:
    """MiB; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024


def _is_worker(pid: int) -> bool:
    try:
        return b"agent.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _tree(pid: int) -> list[int]:
    return [pid, *(below for child in _children(pid) for below in _tree(child))]


def _maps_onnxruntime(pid: int) -> bool:
    return "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()


def main() -> None:
    """Prints rows and goals."""
    from benchmarks.results_file import Results

    found = rows()
    results = Results("device_agent", goals(found), found)
    print(results.table())
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
