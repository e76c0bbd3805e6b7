"""Kills the process, as ``kill -9`` does, when an installation enters a state and when that state was stored.

A forked child plays the scenario; what it told the server comes back through a pipe, so that a report that was sent before the
death counts.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import device_client.install.ledger as ledger_module
from device_client.errors import SealiftError
from device_client.install.machine import State
from device_client.install.state import DeviceState
from tests.faults.aftermath import InvariantError, check_recovery, reboot, weights
from tests.faults.power import DEVICE, prepare
from tests.unit.device.world import World

FINISHED, FAILED = 0, 3


class Moment(Enum):
    """When the process dies."""

    ENTERING = "before the state is stored"
    STORED = "after the state was stored"


@dataclass(frozen=True)
class Report:
    """Whether the state was reached at all, and the process with it killed."""

    scenario: str
    state: State
    moment: Moment
    killed: bool


def kill(name: str, folder: Path, state: State, moment: Moment) -> Report:
    """Plays a scenario in a child that dies in ``state``; then boots and looks.

    Raises:
        InvariantError: the device did not come back.
    """
    prepared = prepare(name, folder)
    world = prepared.world
    status, sent = in_child(world, lambda: _die_in(world, prepared.expected.act, state, moment))
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and os.waitstatus_to_exitcode(status) != FINISHED:
        raise InvariantError(f"{name}: the child ended with status {status}")
    after = reboot(world, folder / DEVICE, reports=[*world.server.reports, *sent])
    try:
        check_recovery(after, prepared.expected, acknowledged=prepared.memory, weights=weights(after))
    except Exception as error:
        raise InvariantError(f"{name}: killed in {state}, {moment.value}: {error!r}") from error
    return Report(name, state, moment, killed)


def in_child(world: World, action: Callable[[], None]) -> tuple[int, list[bytes]]:
    """Runs ``action`` in a forked child; returns its wait status and the reports that it sent."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a runtime's idle threads; the child needs none of them
        child = os.fork()
    if child == 0:
        os.close(reading)
        status = FAILED
        try:
            _tell_through(world, writing)
            action()
            status = FINISHED
        finally:
            os._exit(status)
    os.close(writing)
    sent: list[bytes] = []
    reader = threading.Thread(target=_receive, args=(reading, sent))
    reader.start()
    _, status = os.waitpid(child, 0)
    reader.join()
    return status, sent


def _die_in(world: World, act: Callable[[World], None], state: State, moment: Moment) -> None:
    stored, transaction, step = DeviceState.set_progress, DeviceState.transaction, ledger_module.next_state
    is_due: list[bool] = []

    def set_progress(self: DeviceState, model: Any, progress: Any) -> None:
        stored(self, model, progress)
        if progress.state is state:
            is_due.append(True)

    class Transaction:
        def __init__(self, state_: DeviceState) -> None:
            self._inner = transaction(state_)

        def __enter__(self) -> None:
            self._inner.__enter__()

        def __exit__(self, *error: Any) -> Any:
            found = self._inner.__exit__(*error)
            if is_due:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    def watched(self: DeviceState) -> Transaction:
        return Transaction(self)

    def next_state(*arguments: Any) -> State:
        found = step(*arguments)
        if found is state:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    if moment is Moment.STORED:
        DeviceState.set_progress = set_progress  # type: ignore[method-assign]
        DeviceState.transaction = watched  # type: ignore[assignment,method-assign,return-value]
    else:
        ledger_module.next_state = next_state  # type: ignore[attr-defined]
    try:
        act(world)
    except SealiftError as error:
        if error.code == "internal":
            raise


def _tell_through(world: World, descriptor: int) -> None:
    take = world.server._take

    def told(body: bytes) -> Any:
        answer = take(body)
        os.write(descriptor, len(body).to_bytes(4, "big") + body)
        return answer

    world.server._take = told  # type: ignore[method-assign]


def _receive(descriptor: int, sent: list[bytes]) -> None:
    with os.fdopen(descriptor, "rb") as stream:
        while head := stream.read(4):
            sent.append(stream.read(int.from_bytes(head, "big")))
