"""What a poll writes down about itself: its state before each step, its journal, its reports, and what failed for good.

Every method is one transaction, or says that it belongs into its caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import SealiftError, SelfTestError, VerificationError
from device_client.install.folder import Device
from device_client.install.machine import RESTING, Event, State, next_state
from device_client.install.report import Happening, queue_report
from device_client.install.state import Deployment, DeviceState, JournalEntry, Progress

FORGIVEN_AFTER = timedelta(days=1)
_FORGIVEN = (
    "selftest_memory",
    "selftest_timeout",
    "selftest_loop",
    "selftest_over_memory",
    "selftest_slow",
)  # causes that may lie in the moment, not in the model


class Ledger:
    """The book of one poll of one model. ``version`` and ``manifest`` are filled in as they become known."""

    def __init__(self, device: Device, state: DeviceState, model: ModelPath, *, clock: Callable[[], datetime]) -> None:
        self._device = device
        self._state = state
        self._model = model
        self._clock = clock
        self.at = State.IDLE
        self.version: str | None = None
        self.manifest: Digest | None = None

    def begin(self) -> None:
        """A poll begins; notes where an earlier one was interrupted, if one was."""
        before = self._state.progress(self._model)
        if before.state in RESTING:
            self.at = before.state
        else:
            at = f"at {before.state}"
            entry = JournalEntry(self._clock(), str(self._model), "interrupted", version=before.version, detail=at)
            with self._state.transaction():
                self._state.write_journal(entry)
        self.go(Event.POLL)

    def go(self, event: Event) -> None:
        """Moves to the next state, which is stored before it is acted upon."""
        with self._state.transaction():
            self.step(event, now=self._clock())

    def step(self, *events: Event, now: datetime) -> None:
        """Moves on, in the caller's transaction; from ``idle`` at once to where the model rests."""
        for event in events:
            self.at = next_state(self.at, event)
        if self.at is State.IDLE:
            self.rest(now)
        else:
            self._store(now)

    def rest(self, now: datetime) -> None:
        """Between two polls: watched, with nothing that may run, or idle. In the caller's transaction."""
        active = self._state.active(self._model)
        self.at = State.IDLE
        if active is not None and self._state.probation(self._model) is not None:
            self.at = next_state(self.at, Event.WATCH)
        elif active is None and self._state.held(self._model):
            self.at = next_state(self.at, Event.NOTHING_LEFT)
        self._store(now)

    def finish(self, *events: Event, event: str, now: datetime, detail: str | None = None) -> None:
        """The last steps of an activation or a commit, in the caller's transaction: told as ``event``, and at rest."""
        with self.resting_at(self.at):
            for each in events:
                self.at = next_state(self.at, each)
            self.note(event, now, detail=detail, is_new=True)
            if self.at is State.REPORT:
                self.at = next_state(self.at, Event.REPORTED)
            self.rest(now)

    @contextmanager
    def resting_at(self, state: State) -> Iterator[None]:
        """Begins at ``state``; back to where it was when the transaction around it is undone."""
        before, self.at = self.at, state
        try:
            yield
        except BaseException:
            self.at = before
            raise

    def about(self, deployment: Deployment) -> None:
        """What follows is about a bundle that is installed."""
        self.version, self.manifest = deployment.version, deployment.manifest

    def refuse(self, refusal: SealiftError) -> None:
        """Ends the poll: journal, report, and the memory of a failed self-test. Changes nothing else."""
        now = self._clock()
        event = "refused" if isinstance(refusal, VerificationError) else "failed"
        if refusal.code == "audit_entry_missing":
            event = "awaiting_audit"
        elif refusal.code.startswith("deferred_"):
            event = "deferred"
        with self._state.transaction():
            if isinstance(refusal, SelfTestError) and self.manifest is not None:
                until = now + FORGIVEN_AFTER if refusal.code in _FORGIVEN else None
                self._state.remember_bad(self._model, self.manifest, cause=refusal.code, until=until)
                self._state.forget_tries(self._model, self.manifest)
            self.note(event, now, code=refusal.code, detail=str(refusal))
            if self.at not in RESTING:
                self.at = next_state(next_state(self.at, Event.REFUSED), Event.REPORTED)
            self.rest(now)

    def note(
        self,
        event: str,
        now: datetime,
        *,
        code: str | None = None,
        detail: str | None = None,
        target: tuple[str, Digest] | None = None,
        is_new: bool = False,
    ) -> None:
        """Journal and outbox, in the caller's transaction. The same thing twice in a row is told to the server once.

        Args:
            event: a word of ``docs/http-api.md`` 4.5.
            now: trusted time.
            code: the reason.
            detail: a sentence for people.
            target: version and manifest that it is about, if not those of the poll.
            is_new: the caller knows that it was not told yet.
        """
        version = target[0] if target else self.version
        manifest = str(target[1]) if target else self._manifest_text()
        last = self._state.last_entry(self._model)
        is_repeated = last is not None and (last.event, last.code, last.version) == (event, code, version)
        self._state.write_journal(JournalEntry(now, str(self._model), event, version, code, detail))
        if is_new or not is_repeated:
            happening = Happening(event, self.at, code, detail, version, manifest)
            queue_report(self._state, self._device, self._model, happening, now=now)

    def _store(self, now: datetime) -> None:
        self._state.set_progress(self._model, Progress(self.at, self.version, self._manifest_text(), now))

    def _manifest_text(self) -> str | None:
        return None if self.manifest is None else str(self.manifest)
