"""The worker: one poll of every model, or only the reports that wait; then it ends, and its memory is free again.

    python -m device_client.agent.worker poll DIR        prints one line (``outcome.py``) and exits 0

Started by the supervisor for each poll. Everything that is heavy is loaded here and nowhere else in the agent: TUF, cryptography,
HTTP; the runtime only in the self-test's child. A refusal is an outcome, not a failure of the worker: it exits otherwise only
when it could not say anything, and the supervisor then takes it as crashed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from device_client.agent.outcome import ANSWERED, BUSY, FAILED, UNREACHABLE, Outcome, worst
from device_client.errors import IntegrityError, SealiftError, StateError, TransportError, VerificationError

if TYPE_CHECKING:
    from device_client.install.folder import Device
    from device_client.install.poll import PollResult

_UNWELL = 500


def run(task: str, path: Path) -> Outcome:
    """Polls (``task`` is ``poll``) or sends what waits (``reports``); never raises for what the network or the disk does."""
    from device_client.install.folder import open_device

    try:
        device = open_device(path)
    except SealiftError as error:
        return Outcome(FAILED, (f"{error.code}: {error}",))
    found = _poll_all(device) if task == "poll" else _send_reports(device)
    return Outcome(found.kind, found.words, found.poll_s, found.retry_after_s, _reports_waiting(device))


def kind_of(error: SealiftError) -> str:
    """What an error says about when to try again."""
    if isinstance(error, IntegrityError):  # bytes were changed on the way: like no way at all, and large ones cost the owner money
        return UNREACHABLE
    if isinstance(error, VerificationError):
        return ANSWERED  # rule 4 of the schedule
    if isinstance(error, TransportError):
        status = getattr(
            error, "status", _UNWELL
        )  # a refusal that was meant: the server is well, and asking sooner changes nothing
        return UNREACHABLE if status >= _UNWELL or status == 429 else ANSWERED
    if isinstance(error, StateError) and error.code in {"busy", "not_enrolled"}:
        return BUSY if error.code == "busy" else ANSWERED
    return FAILED


def main() -> None:
    """Prints the outcome; for the supervisor."""
    task, path = sys.argv[1:3]
    line = run(task, Path(path)).to_line()
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    os._exit(0)  # nothing is left to do, and tearing down an interpreter touches all its memory once more


def _poll_all(device: Device) -> Outcome:
    from device_client.install.poll import poll

    kinds, words, asked, retries = [], [], [], []
    for model in device.config.models:
        try:
            result = poll(device, model)
        except SealiftError as error:  # one model's refusal does not keep the others from their update
            kinds.append(kind_of(error))
            words.append(f"{model}: {error.code}: {error}")
            retries.append(getattr(error, "retry_after_s", None))
            asked.append(getattr(error, "poll_s", None))
        else:
            kinds.append(ANSWERED)
            words.append(_words(result))
            asked.append(result.poll_s)
    return Outcome(worst(kinds), tuple(words), _least(asked), _most(retries))


def _send_reports(device: Device) -> Outcome:
    from device_client.install.http import HttpClient
    from device_client.install.lock import exclusive
    from device_client.install.recovery import open_memory
    from device_client.install.refresh import remembered_time
    from device_client.install.report import send_reports
    from device_client.trust.times import utc_now
    from device_client.trust.trusted_time import boot_time

    first = device.config.models[0]
    try:
        with exclusive(device.folder.lock), open_memory(device, first, now=utc_now(), at=boot_time()) as state:
            time = remembered_time(device, state, clock=utc_now, uptime=boot_time)
            waiting = send_reports(state, device, HttpClient(device.config.server), now=time.now())
    except SealiftError as error:
        return Outcome(kind_of(error), (f"reports: {error.code}: {error}",))
    return Outcome(ANSWERED, (f"reports: {waiting} still wait" if waiting else "reports: all taken",))


def _reports_waiting(device: Device) -> int:
    from device_client.install.state import open_state

    with contextlib.suppress(StateError), open_state(device.folder.state) as state:
        return len(state.outbox())
    return 0


def _words(result: PollResult) -> str:
    running = "nothing installed" if result.deployment is None else f"{result.deployment.version} runs"
    standing = "" if result.standing == "run" else f", {result.standing}"
    return f"{result.model}: {result.result}, {running}{standing}"


def _least(values: list[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: list[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


if __name__ == "__main__":
    main()
