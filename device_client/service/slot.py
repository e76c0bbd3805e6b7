"""One model of the service: the worker that runs it now, the one that will, and who waits for them.

The rules:

- A worker starts when somebody needs it, and is ready before it gets a request.
- When another bundle becomes active, its worker is started beside the running one and takes over once it is ready; the old one
  finishes what it has. No request is refused for a swap. If the new one does not load, the old one goes on.
- A worker that died is replaced, each time after a longer pause; who asks meanwhile waits, as long as its own deadline allows.
- A model that may not run any more has no worker: what was begun ends, everything after it is refused.

All threads; every decision under one lock, everything slow outside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import PolicyError, SealiftError, StateError, TransportError, VerificationError
from device_client.inference.model import Installed
from device_client.install.health import Health
from device_client.install.state import Deployment
from device_client.service.counts import HealthCounts
from device_client.service.protocol import Tensor
from device_client.service.worker_process import Answer, RefusedError, WorkerDiedError, WorkerProcess

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
GOOD_LIFE_S = 60.0
"""A worker that lived this long begins the pauses anew."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What a slot should run: the active bundle, or None, or the reason why it may not."""

    manifest: Digest | None
    refusal: SealiftError | None = None


@dataclass
class _Running:
    worker: WorkerProcess
    since: float
    used: float
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one request that the worker works on."""
    requests: int = 0
    is_retired: bool = False
    is_dead: bool = False


class Slot:
    """Workers of one model.

    Args:
        model: which one.
        find: what is active now; raises where nothing may run.
        start: makes a worker that is ready.
        counts: where health is counted.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        model: ModelPath,
        *,
        find: Callable[[], Installed],
        start: Callable[[Installed], WorkerProcess],
        counts: HealthCounts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self._find, self._start, self._counts, self._clock = find, start, counts, clock
        self._changed = threading.Condition()
        self._target = Target(None)
        self._current: _Running | None = None
        self._loader: threading.Thread | None = None
        self._attempts = 0  # loads that ended, well or not
        self._error: SealiftError | None = None  # how the last of them ended
        self._pause_s = 0.0
        self._not_before = 0.0
        self._is_closed = False

    @property
    def running(self) -> Deployment | None:
        """What the worker that gets the next request runs; None where no worker is up."""
        with self._changed:
            return None if self._current is None else self._current.worker.deployment

    @property
    def pid(self) -> int | None:
        """Process id of that worker."""
        with self._changed:
            return None if self._current is None else self._current.worker.pid

    def infer(self, tensors: Sequence[Tensor], *, timeout_s: float) -> tuple[Deployment, Answer]:
        """One inference by the worker that is, or becomes, ready.

        Args:
            tensors: the inputs; the worker checks them.
            timeout_s: longest wait for a worker, and then again longest time that it may take. Not a client's to choose: an
                impatient one would kill workers, and bring a good model into disrepute.

        Raises:
            RefusedError: by the worker: the inputs, or the runtime on these inputs.
            WorkerDiedError: the worker died of it.
            TransportError: no worker was ready or free in time (``worker_restarting``, ``worker_busy``).
            SealiftError: why this model cannot run.
        """
        deadline = self._clock() + timeout_s
        while True:
            with self._taken(deadline) as running:
                if running is None:  # it died while this request waited for its turn; the next one will do
                    continue
                return running.worker.deployment, self._ask(running, tensors, timeout_s)

    def aim(self, target: Target) -> None:
        """Says what should run. Nothing is started that nobody uses."""
        with self._changed:
            if target.manifest != self._target.manifest:  # what failed before says nothing about it
                self._error, self._pause_s, self._not_before = None, 0.0, 0.0
            self._target = target
            self._changed.notify_all()
        self.follow()

    def follow(self) -> None:
        """Replaces or ends a worker that is not what should run; called again and again, for what did not work at once."""
        with self._changed:
            current, wanted = self._current, self._target.manifest
            if current is None or current.worker.manifest == wanted:
                return
            if wanted is None:
                self._retire()
            elif self._clock() >= self._not_before:
                self._load()

    def end_if_unused(self, *, idle_s: float) -> bool:
        """Ends a worker that nobody used for ``idle_s`` seconds; True if it did."""
        with self._changed:
            current = self._current
            is_unused = current is not None and not current.requests and self._clock() - current.used >= idle_s
            if is_unused:
                self._retire()
            return is_unused

    def close(self, *, grace_s: float) -> None:
        """Ends the worker, after what it works on, at most ``grace_s`` seconds from now. Nothing starts any more."""
        deadline = self._clock() + grace_s
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            while self._current is not None and self._current.requests and (left := deadline - self._clock()) > 0:
                self._changed.wait(left)
            current, loader = self._current, self._loader
            self._current = None
        if current is not None:
            current.worker.kill()
        if loader is not None:
            loader.join(timeout=max(deadline - self._clock(), 0.1))

    # Requests.

    def _ask(self, running: _Running, tensors: Sequence[Tensor], timeout_s: float) -> Answer:
        manifest = running.worker.manifest
        try:
            answer = running.worker.infer(tensors, timeout_s=timeout_s)
        except RefusedError as error:
            if error.fault == "model":
                self._counts.add(self.model, manifest, Health(runs=1, failures=1))
            raise
        except WorkerDiedError as error:
            logger.warning("%s: %s", self.model, error)
            self._counts.add(self.model, manifest, Health(crashes=1))
            self._buried(running)
            raise
        self._counts.add(self.model, manifest, Health(runs=1, non_finite=0 if answer.finite else 1))
        return answer

    @contextmanager
    def _taken(self, deadline: float) -> Iterator[_Running | None]:
        """A worker whose turn this request has, or None where it died before."""
        running = self._claim(deadline)
        has_turn = False
        try:
            has_turn = running.turn.acquire(timeout=max(deadline - self._clock(), 0.0))
            if not has_turn:
                raise TransportError("other requests came first", code="worker_busy", where=str(self.model), hint="ask again later")
            if not running.is_dead and not running.worker.is_alive:  # it died of nothing that this request did
                self._counts.add(self.model, running.worker.manifest, Health(crashes=1))
                running.worker.kill()
                self._buried(running)
            yield None if running.is_dead else running
        finally:
            if has_turn:
                running.turn.release()
            self._released(running)

    def _claim(self, deadline: float) -> _Running:
        with self._changed:
            seen = self._attempts
            while True:
                self._check_allowed()
                if self._current is not None:
                    self._current.requests += 1
                    return self._current
                if self._error is not None and self._attempts > seen:
                    raise self._error
                now = self._clock()
                pause = self._not_before - now
                if now >= deadline or now + pause > deadline:
                    raise TransportError(
                        "no worker was ready in time",
                        code="worker_restarting",
                        where=str(self.model),
                        actual=str(self._error)[:300] if self._error else "a worker is starting",
                        hint="ask again later",
                    )
                if pause <= 0:
                    self._load()
                self._changed.wait(min(deadline - now, pause) if pause > 0 else deadline - now)

    def _check_allowed(self) -> None:
        if self._is_closed:
            raise StateError("the service is ending", code="service_ending", hint="ask again in a moment")
        if self._target.refusal is not None:
            raise self._target.refusal

    def _released(self, running: _Running) -> None:
        with self._changed:
            running.requests -= 1
            running.used = self._clock()
            is_last = running.is_retired and not running.requests
            self._changed.notify_all()
        if is_last:
            running.worker.kill()

    def _buried(self, running: _Running) -> None:
        with self._changed:
            running.is_dead = True
            if self._current is running:
                self._current = None
            if self._clock() - running.since >= GOOD_LIFE_S:
                self._pause_s = 0.0
            self._back_off()
            self._changed.notify_all()

    # Workers. Under the lock, but for the loader's own work.

    def _back_off(self) -> None:
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._not_before = self._clock() + self._pause_s

    def _retire(self) -> None:
        """The current worker gets no further request and ends after its last."""
        retired, self._current = self._current, None
        if retired is not None:
            retired.is_retired = True
            if not retired.requests:
                retired.worker.kill()

    def _load(self) -> None:
        if self._loader is None and not self._is_closed:
            self._loader = threading.Thread(target=self._load_one, name=f"load {self.model}", daemon=True)
            self._loader.start()

    def _load_one(self) -> None:
        """The loader's thread: one worker, from state and disk to ready, beside whatever runs."""
        worker, manifest = None, self._target.manifest
        error: SealiftError | None = StateError("the loader failed", code="worker_unavailable", where=str(self.model))
        try:
            installed = self._find()
            manifest = installed.deployment.manifest
            if (now_runs := self.running) is None or now_runs.manifest != manifest:
                worker = self._start(installed)
            error = None
        except SealiftError as caught:
            error = caught
            logger.warning("%s does not load: %s", self.model, error)
            if manifest is not None and _is_models_fault(error):
                self._counts.add(self.model, manifest, Health(crashes=1))
        finally:  # also of a fault of this software: nobody waits for a thread that is no more
            with self._changed:
                self._loader, self._error = None, error
                self._attempts += 1
                if error is not None:
                    self._back_off()
                elif worker is not None:
                    self._take_over(worker)
                self._changed.notify_all()

    def _take_over(self, worker: WorkerProcess) -> None:
        if self._is_closed or self._target.refusal is not None:
            worker.kill()
            return
        self._retire()
        now = self._clock()
        self._current = _Running(worker, since=now, used=now)
        kept = f"network: {worker.network}; privileges: {worker.privileges}; files: {worker.files}"
        logger.info("%s: %s runs in process %d; %s", self.model, worker.deployment.version, worker.pid, kept)


def _is_models_fault(error: SealiftError) -> bool:
    """Whether a load failed for what the bundle is; not for a disk, a database or a policy that says no."""
    return isinstance(error, (VerificationError, WorkerDiedError, RefusedError)) and not isinstance(error, PolicyError)
