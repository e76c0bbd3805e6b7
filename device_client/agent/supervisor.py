"""The supervisor: stays in memory, knows nothing of models, and sees to it that what does know them is started in time.

One loop, one thread. It waits for signals and for the end of its children, on the boot clock; it starts a worker when the plan says
so, ends one that takes too long, keeps the inference service running, and tells the service manager that it lives. Every decision
about time is in ``schedule.py``. Standard library only, and little of that: this process stays while everything else comes and
goes (``docs/agent.md``, "Memory"). A child that crashes, hangs or prints rubbish is a failed poll and no more.

    Supervisor(Settings("/var/lib/sealift"), log=log, notifier=notifier).run()
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from device_client.agent import notify, schedule
from device_client.agent.agenda import load_plan, save_plan
from device_client.agent.child import Child, python_command
from device_client.agent.clock import Moment, read_boot_clock
from device_client.agent.log import EventLog
from device_client.agent.outcome import ANSWERED, FAILED, MAX_BYTES, Outcome, parse_outcome
from device_client.agent.schedule import Plan
from device_client.errors import SealiftError, StateError

LOCK_NAME = "agent.lock"
POLL_DEADLINE_S = 6 * 3600
GRACE_S = 10.0  # between asking a child to end and ending it
SLICE_S = 60.0  # poll(2) does not count sleep: after one, the boot clock is looked at this much later at most
_WORKER = "from device_client.agent.worker import main; main()"
_COMMAND = (
    "from device_client.commands import device; from device_client.console import run_main;"
    " sys.exit(run_main(device, prog_name='sealift device', args=sys.argv[1:]))"
)


@dataclass(frozen=True)
class Settings:
    """What the agent is told at its start; ``sealift device run`` makes it from ``device.toml``.

    Attributes:
        folder: the device's folder, absolute.
        serve: keep ``sealift device serve`` running.
        recover: run ``sealift device recover`` once before anything else.
        once: one poll if one is due, then end; for cron.
        poll_deadline_s: after so long a worker is ended, whatever it does.
    """

    folder: str
    serve: bool = False
    recover: bool = False
    once: bool = False
    poll_deadline_s: float = POLL_DEADLINE_S


class Supervisor:
    """The resident process.

    Args:
        settings: what it does.
        log: where events go.
        notifier: the service manager.
        clock: the boot clock.
        share: randomness in [0, 1).
        command: makes the command line of a child from a task (``poll``, ``tend``, ``serve`` or ``recover``) and the folder.
        slice_s: the longest wait before the clock is looked at again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: EventLog,
        notifier: notify.Notifier,
        clock: Callable[[], Moment] = read_boot_clock,
        share: Callable[[], float] | None = None,
        command: Callable[[str, str], list[str]] | None = None,
        slice_s: float = SLICE_S,
    ) -> None:
        self._settings = settings
        self._log = log
        self._notifier = notifier
        self._clock = clock
        self._share = share or _share
        self._command = command or command_of
        self._slice_s = slice_s
        self._environment = notify.clean_environment(os.environ)
        self._plan = Plan("", 0.0)
        self._worker: Child | None = None
        self._task = ""
        self._deadline = 0.0
        self._recovery: Child | None = None
        self._service: Child | None = None
        self._service_crashes = 0
        self._service_started = self._service_due = 0.0
        self._is_stopping = False
        self._is_asked = False  # for a poll now
        self._is_cannot_save_told = False
        self._status = 0

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT; returns the exit status.

        Raises:
            StateError: ``agent_running``, or ``state_unwritable`` when the lock cannot be made.
        """
        with _only_agent(self._settings.folder), _signals(self._stop_soon, self._poll_soon) as wakeup:
            now = self._clock()
            kept = load_plan(self._settings.folder)
            self._plan = schedule.resume(kept, now=now, share=self._share)
            if self._settings.once:
                if kept is None or kept.boot != now.boot:  # cron spreads by itself, or somebody wants to see a poll
                    self._plan = schedule.at_once(self._plan, now=now)
                elif not self._plan.is_poll_due(now):
                    self._log.write("not due", "the next poll comes later", in_s=round(self._plan.wait_s(now)))
                    return 0
            else:
                self._save()
                self._log.write("started", pid=os.getpid(), next_poll_in_s=round(self._plan.wait_s(now)))
            try:
                self._loop(wakeup)
            finally:
                self._end_children(wakeup)
        return self._status

    # The loop: each step looks at one thing, none waits.

    def _loop(self, wakeup: int) -> None:
        if self._settings.recover and not self._settings.once:
            self._recovery = self._start("recover")
        self._notifier.tell(notify.READY)
        while not self._is_stopping:
            self._tend_recovery()
            if self._recovery is None:
                self._tend_service()
                self._tend_worker()
                if self._worker is None and not self._is_stopping:
                    self._start_what_is_due()
            if self._notifier.watchdog_s is not None:
                self._notifier.tell(notify.WATCHDOG)
            if not self._is_stopping:
                _wait(wakeup, self._worker, seconds=self._pause_s())

    def _pause_s(self) -> float:
        now = self._clock()
        pauses = [self._slice_s]
        if self._notifier.watchdog_s is not None:
            pauses.append(self._notifier.watchdog_s / 2)
        if self._worker is not None or self._recovery is not None:
            pauses.append(self._deadline - now.seconds)
        else:
            pauses.append(self._plan.wait_s(now))
        if self._settings.serve and self._service is None and self._recovery is None:
            pauses.append(self._service_due - now.seconds)
        return max(0.0, min(pauses))

    def _tend_recovery(self) -> None:
        if self._recovery is None:
            return
        self._recovery.collect()
        status = self._recovery.ended()
        if status is None and self._clock().seconds >= self._deadline:
            self._recovery.send(signal.SIGKILL)
        if status is not None:
            said = self._recovery.output().decode("utf-8", "replace").strip()
            self._log.write("recovered" if status == 0 else "recovery failed", "; ".join(said.splitlines()), status=status)
            self._recovery = None

    # The worker.

    def _start_what_is_due(self) -> None:
        now = self._clock()
        if self._is_asked:
            self._is_asked = False
            self._plan = schedule.at_once(self._plan, now=now)
        if self._plan.is_poll_due(now):
            self._start_worker("poll")
        elif self._plan.is_tending_due(now):
            self._start_worker("tend")

    def _start_worker(self, task: str) -> None:
        before, now = self._plan, self._clock()
        if task == "poll":
            self._plan = schedule.begun(before, now=now, share=self._share)
            self._save()  # before the worker: what crashes the agent from here on is not met again at once
            self._plan = before
        self._task = task
        self._deadline = now.seconds + self._settings.poll_deadline_s
        self._worker = self._start(task)
        if self._worker is None:
            self._finish(Outcome(FAILED, ("the worker could not be started",)))

    def _tend_worker(self) -> None:
        if self._worker is None:
            return
        self._worker.collect()
        status = self._worker.ended()
        if status is None:
            if self._clock().seconds >= self._deadline:
                self._log.write("too long", f"the {self._task} is ended", after_s=round(self._settings.poll_deadline_s))
                self._worker.send(signal.SIGKILL)
            return
        self._worker.send(signal.SIGKILL)  # what it may have left behind in its group
        outcome = _outcome(self._worker.output(), status)
        self._worker = None
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        now = self._clock()
        judge = schedule.polled if self._task == "poll" else schedule.tended
        self._plan = judge(self._plan, outcome, now=now, share=self._share)
        self._save()
        for words in outcome.words:
            self._log.write(self._task, words)
        wait_s = round(self._plan.wait_s(now))
        self._log.write(
            "next", kind=outcome.kind, failures=self._plan.failures, reports_waiting=outcome.reports_waiting, in_s=wait_s
        )
        self._notifier.status(f"{'; '.join(outcome.words)[:200]}; next in {wait_s} s")
        if self._settings.once:
            self._status = 0 if outcome.kind == ANSWERED else 1
            self._is_stopping = True

    # The inference service.

    def _tend_service(self) -> None:
        if not self._settings.serve or self._settings.once:
            return
        now = self._clock().seconds
        if self._service is not None:
            status = self._service.ended()
            if status is None:
                return
            ran_s = now - self._service_started
            self._service_crashes, pause_s = schedule.restart_pause_s(self._service_crashes, ran_s=ran_s)
            self._log.write("service ended", status=status, ran_s=round(ran_s), again_in_s=round(pause_s))
            self._service.send(signal.SIGKILL)
            self._service, self._service_due = None, now + pause_s
        if now >= self._service_due:
            self._service_started = now
            self._service = self._start("serve")
            if self._service is None:
                self._service_crashes, pause_s = schedule.restart_pause_s(self._service_crashes, ran_s=0.0)
                self._service_due = now + pause_s

    # Starting and ending.

    def _start(self, task: str) -> Child | None:
        if task == "recover":
            self._deadline = self._clock().seconds + self._settings.poll_deadline_s
        bound = 0 if task == "serve" else MAX_BYTES  # the service speaks for itself
        try:
            child = Child(task, self._command(task, self._settings.folder), environment=self._environment, max_output_bytes=bound)
        except OSError as error:
            self._log.write("cannot start", task, error=error.strerror)
            return None
        self._log.write("begun", task, pid=child.pid)
        return child

    def _end_children(self, wakeup: int) -> None:
        self._notifier.tell(notify.STOPPING)
        left = [child for child in (self._worker, self._recovery, self._service) if child is not None]
        for child in left:
            child.send(signal.SIGTERM)
        end = self._clock().seconds + GRACE_S
        while left := [child for child in left if child.ended() is None]:
            now = self._clock().seconds
            if now >= end:
                for child in left:
                    self._log.write("killed", child.name, pid=child.pid)
                    child.send(signal.SIGKILL)
            _wait(wakeup, None, seconds=min(0.1, self._slice_s))
        if not self._settings.once:
            self._log.write("stopped")

    def _save(self) -> None:
        try:
            save_plan(self._settings.folder, self._plan)
        except OSError as error:
            if not self._is_cannot_save_told:
                self._log.write("cannot save", "the plan of the next poll is kept in memory only", error=error.strerror)
            self._is_cannot_save_told = True
        else:
            self._is_cannot_save_told = False

    # What signals do.

    def _stop_soon(self) -> None:
        self._is_stopping = True

    def _poll_soon(self) -> None:
        self._is_asked = True


def command_of(task: str, folder: str) -> list[str]:
    """The command line of a child."""
    if task in {"poll", "tend"}:
        return python_command(sys.path, _WORKER, task, folder)
    return python_command(sys.path, _COMMAND, task, "--dir", folder)


def main(arguments: Sequence[str]) -> int:
    """Runs the agent as ``sealift device run`` asks for it: ``DIR POLL_DEADLINE_S [--serve] [--recover] [--once] [--json]``."""
    folder, deadline_s, *flags = arguments
    settings = Settings(
        folder, serve="--serve" in flags, recover="--recover" in flags, once="--once" in flags, poll_deadline_s=float(deadline_s)
    )
    log = EventLog(as_json="--json" in flags)
    try:
        return Supervisor(settings, log=log, notifier=notify.Notifier(os.environ, pid=os.getpid())).run()
    except SealiftError as error:
        log.write("error", str(error), code=error.code, hint=error.hint)
        return error.exit_status


def _outcome(output: bytes, status: int) -> Outcome:
    """What a worker said, if it ended well and said it whole."""
    if status != 0:
        return Outcome(
            FAILED, (f"the worker ended by signal {-status}" if status < 0 else f"the worker failed with status {status}",)
        )
    try:
        return parse_outcome(output)
    except ValueError as error:
        return Outcome(FAILED, (f"the worker's answer is refused: {error}",))


def _wait(wakeup: int, worker: Child | None, *, seconds: float) -> None:
    """Until a signal, output of the worker, or the time."""
    waiting = select.poll()
    waiting.register(wakeup, select.POLLIN)
    output = None if worker is None else worker.output_descriptor
    if output is not None:
        waiting.register(output, select.POLLIN)
    waiting.poll(int(seconds * 1000) + 1)
    with contextlib.suppress(BlockingIOError):
        os.read(wakeup, 4096)


@contextlib.contextmanager
def _signals(stop: Callable[[], None], ask: Callable[[], None]) -> Iterator[int]:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handlers = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: ask,
        signal.SIGCHLD: lambda: None,  # only wakes the loop
    }
    before = {number: signal.signal(number, lambda *_, act=act: act()) for number, act in handlers.items()}
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def _only_agent(folder: str) -> Iterator[None]:
    """Holds the agent's own lock, which the kernel drops when the agent dies; the polls' lock is another."""
    path = os.path.join(folder, LOCK_NAME)  # noqa: PTH118
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise StateError("cannot open the agent's lock", code="state_unwritable", where=path, actual=e.strerror) from e
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(descriptor)
        raise StateError(
            "another agent is at work in this folder",
            code="agent_running",
            where=path,
            hint="send it SIGHUP for a poll now, or stop it first",
        ) from e
    try:
        yield
    finally:
        os.close(descriptor)


def _share() -> float:
    return int.from_bytes(os.urandom(7), "big") / 2**56
