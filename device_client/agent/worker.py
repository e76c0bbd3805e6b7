"""The worker: one poll of every model, or only a look at probation and waiting reports; then it ends, and its memory is free again.

    python -m device_client.agent.worker poll DIR        prints one line (``outcome.py``) and exits 0

Started by the supervisor for each poll. Everything that is heavy is loaded here and nowhere else in the agent: TUF, cryptography,
HTTP; the runtime only in the self-test's child. A refusal is an outcome, not a failure of the worker: it exits otherwise only
when it could not say anything, and the supervisor then takes it as crashed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_client.agent.outcome import ANSWERED, BUSY, FAILED, MAX_SECONDS, UNREACHABLE, Outcome, worst
from device_client.errors import IntegrityError, SealiftError, StateError, TransportError, VerificationError

if TYPE_CHECKING:
    from device_client.install.folder import Device
    from device_client.install.poll import PollResult

_UNWELL = 500


def run(task: str, path: Path) -> Outcome:
    """Polls (``task`` is ``poll``), or looks after what is on probation and what waits (``tend``).

    Never raises for what the network or the disk does.
    """
    from device_client.install.folder import open_device

    try:
        device = open_device(path)
    except SealiftError as error:
        return Outcome(FAILED, (f"{error.code}: {error}",))
    found = _poll_all(device) if task == "poll" else _tend(device)
    return replace(found, **_left(device))


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
            retries.append(_whole(getattr(error, "retry_after_s", None)))
        else:
            kinds.append(ANSWERED)
            words.append(_words(result))
            asked.append(result.poll_s)
    return Outcome(worst(kinds), tuple(words), _least(asked), _most(retries))


def _tend(device: Device) -> Outcome:
    """Without a request for metadata: judges bundles on probation by what was counted since, and sends the reports that wait."""
    from device_client.install.http import HttpClient
    from device_client.install.ledger import Ledger
    from device_client.install.lock import exclusive
    from device_client.install.probation import watch
    from device_client.install.recovery import open_memory
    from device_client.install.refresh import remembered_time
    from device_client.install.report import send_reports
    from device_client.install.rollback import Holdings
    from device_client.install.store import open_store
    from device_client.limits import DEFAULT_LIMITS
    from device_client.trust.times import utc_now
    from device_client.trust.trusted_time import boot_time

    words, waiting = [], 0
    store = open_store(device.folder, limits=DEFAULT_LIMITS)
    try:
        for model in device.config.models:
            with exclusive(device.folder.lock), open_memory(device, model, now=utc_now(), at=boot_time()) as state:
                now = remembered_time(device, state, clock=utc_now, uptime=boot_time).now()
                ledger = Ledger(device, state, model, clock=lambda now=now: now)  # type: ignore[misc]
                verdict = watch(Holdings(device, state, store, model, DEFAULT_LIMITS), ledger, now=now, at=boot_time())
                if verdict is not None:
                    words.append(f"{model}: on probation: {verdict.value}")
                if model == device.config.models[-1]:
                    waiting = send_reports(state, device, HttpClient(device.config.server), now=now)
    except SealiftError as error:
        return Outcome(kind_of(error), (*words, f"{error.code}: {error}"))
    return Outcome(ANSWERED, (*words, f"reports: {waiting} still wait" if waiting else "reports: all taken"))


def _left(device: Device) -> dict[str, Any]:
    """What must be looked after before the next poll."""
    from device_client.install.state import open_state

    with contextlib.suppress(StateError), open_state(device.folder.state) as state:
        is_watching = any(state.probation(model) is not None for model in device.config.models)
        return {"reports_waiting": len(state.outbox()), "is_watching": is_watching}
    return {}


def _words(result: PollResult) -> str:
    running = "nothing installed" if result.deployment is None else f"{result.deployment.version} runs"
    standing = "" if result.standing == "run" else f", {result.standing}"
    return f"{result.model}: {result.result}, {running}{standing}"


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None or not 0 <= seconds <= MAX_SECONDS else int(seconds)


def _least(values: list[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: list[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


if __name__ == "__main__":
    main()
