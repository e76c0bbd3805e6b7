"""When to poll next. Pure: takes what happened, the time and a source of randomness, returns the next plan.

The rules, each against something that befell a fleet:
    1. The server's interval counts, between a minute and a day: neither a broken nor a hostile server can have a device
       hammer it, or sleep for ever.
    2. Every wait is jittered, and the first after a boot is a random share of the interval: power comes back to a whole
       street at once.
    3. After failures the pause is drawn from a range that doubles up to a cap ("full jitter"): a server that comes back
       meets its fleet spread out.
    4. A refused release is not a failure: the server answered, and a corrected one must not wait. Bytes that were changed on the
       way are one: whoever changes them could as well let none through.
    5. ``Retry-After`` only lengthens a pause, and at most to an hour.
    6. Between two polls somebody looks after what cannot wait for the next one: a bundle on probation, reports that were not taken.
    7. The plan for a worker that never ends is made before it is started, so that a crash of everything is no storm.
Times are seconds of the boot clock (``clock.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from device_client.agent.clock import Moment
from device_client.agent.outcome import ANSWERED, BUSY, Outcome

MIN_INTERVAL_S = 60
MAX_INTERVAL_S = 24 * 3600
DEFAULT_INTERVAL_S = 300
JITTER = 0.1  # of the interval, to both sides
FIRST_SPREAD_S = 900  # a device that is on for an hour a day must get to its poll
BACKOFF_BASE_S = 60
BACKOFF_CAP_S = 2 * 3600
MIN_PAUSE_S = 10
BUSY_BASE_S = 20
MAX_RETRY_AFTER_S = 3600
MAX_FAILURES = 64
WATCH_BASE_S = 60.0  # the first looks at a bundle on probation are so far apart, later ones a fifth more each
WATCH_GROWTH = 1.2
WATCH_CAP_S = 600.0
RESTART_BASE_S = 1.0
RESTART_CAP_S = 300.0
STEADY_S = 60.0  # a service that ran for so long did not fail at its start

Share = Callable[[], float]
"""A random number in [0, 1)."""


@dataclass(frozen=True)
class Plan:
    """What is to be done when; kept over restarts of the agent (``agenda.py``).

    Attributes:
        boot: the boot whose clock ``poll_at`` and ``tend_at`` are of.
        poll_at: when to poll.
        tend_at: when to look only after probation and waiting reports; None if there are none.
        interval_s: the server's last word, within its bounds.
        failures: polls in a row that failed.
        busy: polls in a row that found the lock held.
        tend_failures: looks in a row after which reports still waited or a bundle was still on probation.
    """

    boot: str
    poll_at: float
    tend_at: float | None = None
    interval_s: int = DEFAULT_INTERVAL_S
    failures: int = 0
    busy: int = 0
    tend_failures: int = 0

    def wait_s(self, now: Moment) -> float:
        """Seconds until something is due."""
        return max(0.0, self._first() - now.seconds)

    def is_poll_due(self, now: Moment) -> bool:
        """Whether it is time to poll."""
        return self.poll_at <= now.seconds

    def is_tending_due(self, now: Moment) -> bool:
        """Whether it is time to look after the rest, and a poll, which does that too, is not due."""
        return self.tend_at is not None and self.tend_at <= now.seconds and not self.is_poll_due(now)

    def _first(self) -> float:
        return self.poll_at if self.tend_at is None else min(self.poll_at, self.tend_at)


def resume(kept: Plan | None, *, now: Moment, share: Share) -> Plan:
    """The plan at the start of the agent.

    Args:
        kept: what an earlier agent left; None if nothing, or nothing readable.
        now: the boot clock.
        share: randomness.
    """
    if kept is None:
        return Plan(now.boot, now.seconds + share() * DEFAULT_INTERVAL_S)
    kept = replace(kept, interval_s=clamped(kept.interval_s), failures=min(kept.failures, MAX_FAILURES))
    longest = max(kept.interval_s * (1 + JITTER), BACKOFF_CAP_S + MAX_RETRY_AFTER_S)
    if kept.boot == now.boot and kept.poll_at <= now.seconds + longest:
        return kept
    return replace(kept, boot=now.boot, poll_at=now.seconds + share() * min(kept.interval_s, FIRST_SPREAD_S), tend_at=None)


def begun(plan: Plan, *, now: Moment, share: Share) -> Plan:
    """What holds if the worker that is about to start, and the agent with it, are never heard of again."""
    return replace(
        plan,
        boot=now.boot,
        poll_at=now.seconds + _backoff(plan.failures + 1, share),
        tend_at=None,
        failures=min(plan.failures + 1, MAX_FAILURES),
    )


def polled(plan: Plan, outcome: Outcome, *, now: Moment, share: Share) -> Plan:
    """The plan after a poll.

    Args:
        plan: as it was before the poll, not what ``begun`` made of it.
        outcome: how the poll ended.
        now: the boot clock.
        share: randomness.
    """
    if outcome.kind == ANSWERED:
        interval = plan.interval_s if outcome.poll_s is None else clamped(outcome.poll_s)
        pause = _jittered(interval, share)
        done = replace(plan, interval_s=interval, failures=0, busy=0)
    elif outcome.kind == BUSY:
        busy = min(plan.busy + 1, MAX_FAILURES)
        pause = max(MIN_PAUSE_S, share() * min(BUSY_BASE_S * 2**busy, plan.interval_s))
        done = replace(plan, busy=busy)
    else:
        failures = min(plan.failures + 1, MAX_FAILURES)
        pause = _backoff(failures, share)
        done = replace(plan, failures=failures, busy=0)
    if outcome.retry_after_s is not None:  # on top of it, so that those who were told the same do not return together
        pause += min(outcome.retry_after_s, MAX_RETRY_AFTER_S)
    done = replace(done, boot=now.boot, poll_at=now.seconds + pause)
    return _with_tending(done, outcome, now=now, share=share)


def tended(plan: Plan, outcome: Outcome, *, now: Moment, share: Share) -> Plan:
    """The plan after a look at probation and reports; when to poll stays as it was."""
    return _with_tending(plan, outcome, now=now, share=share)


def at_once(plan: Plan, *, now: Moment) -> Plan:
    """The plan after somebody asked for a poll now."""
    return replace(plan, boot=now.boot, poll_at=now.seconds)


def restart_pause_s(crashes: int, *, ran_s: float) -> tuple[int, float]:
    """How long to wait before a service that ended is started again.

    Args:
        crashes: ends in a row, each soon after the start, before this one.
        ran_s: for how long it ran this time.

    Returns:
        The new number of ends in a row, and the pause in seconds.
    """
    crashes = 1 if ran_s >= STEADY_S else min(crashes + 1, MAX_FAILURES)
    return crashes, min(RESTART_CAP_S, RESTART_BASE_S * 2 ** (crashes - 1))


def clamped(interval_s: int) -> int:
    """An interval within what a device takes."""
    return min(max(interval_s, MIN_INTERVAL_S), MAX_INTERVAL_S)


def _with_tending(plan: Plan, outcome: Outcome, *, now: Moment, share: Share) -> Plan:
    if not outcome.reports_waiting and not outcome.is_watching:
        return replace(plan, tend_at=None, tend_failures=0)
    looks = min(plan.tend_failures + 1, MAX_FAILURES)
    pauses = [_backoff(looks, share)] if outcome.reports_waiting else []
    if outcome.is_watching:
        pauses.append(min(WATCH_CAP_S, WATCH_BASE_S * WATCH_GROWTH ** (looks - 1)))
    at = now.seconds + min(pauses)
    return replace(plan, tend_failures=looks, tend_at=at if at < plan.poll_at else None)


def _jittered(interval_s: int, share: Share) -> float:
    return min(max(interval_s * (1 - JITTER + 2 * JITTER * share()), MIN_INTERVAL_S), MAX_INTERVAL_S)


def _backoff(failures: int, share: Share) -> float:
    return max(float(MIN_PAUSE_S), share() * min(float(BACKOFF_CAP_S), BACKOFF_BASE_S * 2.0**failures))
