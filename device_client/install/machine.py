"""The states of an installation and every step between them, one line each. Pure: takes a state, returns the next.

``poll.py`` stores the state that this returns before it acts upon it, so that a power cut leaves a record of what was
under way. ``docs/device-states.md`` shows this table; a test holds the two together. Between two polls a model rests in ``idle``,
``probation`` (the active bundle is watched) or ``safe`` (nothing on this device may run); a poll begins from any of them.
"""

from __future__ import annotations

import enum

from device_client.errors import StateError


class State(enum.StrEnum):
    """Where an installation stands; the words are those of the reports (``docs/http-api.md`` 4.5)."""

    IDLE = "idle"
    CHECK = "check"
    OFFERED = "offered"
    DOWNLOADING = "downloading"
    VERIFY = "verify"
    STAGE = "stage"
    SELFTEST = "selftest"
    READY = "ready"
    ACTIVATE = "activate"
    PROBATION = "probation"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    REPORT = "report"
    SAFE = "safe"


class Event(enum.StrEnum):
    """What moves it on."""

    POLL = "poll"
    WATCH = "watch"
    NOTHING_LEFT = "nothing left"
    NOTHING_NEW = "nothing new"
    OFFER = "offer"
    ACCEPTED = "accepted"
    DOWNLOADED = "downloaded"
    VERIFIED = "verified"
    STAGED = "staged"
    PASSED = "passed"
    ACTIVATING = "activating"
    ACTIVATED = "activated"
    OBSERVED_GOOD = "observed good"
    OBSERVED_BAD = "observed bad"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    REPORTED = "reported"
    RESTARTED = "restarted"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.POLL): State.CHECK,
    (State.CHECK, Event.NOTHING_NEW): State.IDLE,
    (State.CHECK, Event.OFFER): State.OFFERED,
    (State.CHECK, Event.REFUSED): State.REPORT,
    (State.OFFERED, Event.ACCEPTED): State.DOWNLOADING,
    (State.OFFERED, Event.REFUSED): State.REPORT,
    (State.DOWNLOADING, Event.DOWNLOADED): State.VERIFY,
    (State.DOWNLOADING, Event.REFUSED): State.REPORT,
    (State.VERIFY, Event.VERIFIED): State.STAGE,
    (State.VERIFY, Event.REFUSED): State.REPORT,
    (State.STAGE, Event.STAGED): State.SELFTEST,
    (State.STAGE, Event.REFUSED): State.REPORT,
    (State.SELFTEST, Event.PASSED): State.READY,
    (State.SELFTEST, Event.REFUSED): State.REPORT,
    (State.READY, Event.ACTIVATING): State.ACTIVATE,
    (State.READY, Event.REFUSED): State.REPORT,
    (State.ACTIVATE, Event.ACTIVATED): State.PROBATION,
    (State.ACTIVATE, Event.REFUSED): State.REPORT,
    (State.PROBATION, Event.POLL): State.CHECK,
    (State.PROBATION, Event.OBSERVED_GOOD): State.COMMIT,
    (State.PROBATION, Event.OBSERVED_BAD): State.ROLLBACK,
    (State.COMMIT, Event.COMMITTED): State.REPORT,
    (State.ROLLBACK, Event.ROLLED_BACK): State.REPORT,
    (State.ROLLBACK, Event.NOTHING_LEFT): State.SAFE,
    (State.REPORT, Event.REPORTED): State.IDLE,
    (State.IDLE, Event.WATCH): State.PROBATION,
    (State.IDLE, Event.NOTHING_LEFT): State.SAFE,
    (State.IDLE, Event.OBSERVED_BAD): State.ROLLBACK,
    (State.SAFE, Event.POLL): State.CHECK,
}
"""Every step there is, but for the restart: from any state a new process begins at ``idle``, since all that counts
(active bundle, marks, counters) changes in one transaction and never in between."""


RESTING = (State.IDLE, State.PROBATION, State.SAFE)
"""Where a model stands between two polls."""


def next_state(state: State, event: Event) -> State:
    """The state after ``event``.

    Raises:
        StateError: there is no such step (``illegal_transition``): a programming error, kept from doing harm.
    """
    if event is Event.RESTARTED:
        return State.IDLE
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise StateError("no such step", code="illegal_transition", where=f"{state} + {event}")
    return found
