"""The table of steps is complete, says what its document says, and allows nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from device_client.errors import StateError
from device_client.install.machine import RESTING, TRANSITIONS, Event, State, next_state

DOCUMENT = Path(__file__).parents[3] / "docs/device-states.md"


def test_the_document_shows_exactly_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \| `(\w+)` \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert [(State(a), Event(e), State(b)) for a, e, b in rows] == [(a, e, b) for (a, e), b in TRANSITIONS.items()]


def test_the_drawing_is_drawn_from_the_table() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): ([a-z ]+)$", DOCUMENT.read_text(), re.MULTILINE)
    assert [(State(a), Event(e), State(b)) for a, b, e in drawn] == [(a, e, b) for (a, e), b in TRANSITIONS.items()]


def test_every_state_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert all(f"`{state}`" in text for state in State)


def test_every_built_state_is_reached_and_left_and_leads_back_to_idle() -> None:
    reached = set(TRANSITIONS.values())
    left = {state for state, _ in TRANSITIONS}
    assert reached == left == set(State)
    for state in left:
        seen, todo = set(), [state]
        while todo:
            at = todo.pop()
            seen.add(at)
            todo += [to for (a, _), to in TRANSITIONS.items() if a == at and to not in seen]
        assert State.IDLE in seen


def test_every_state_that_works_can_be_refused() -> None:
    working = set(State) - set(RESTING) - {State.COMMIT, State.ROLLBACK, State.REPORT}
    assert all(next_state(state, Event.REFUSED) is State.REPORT for state in working)


@pytest.mark.parametrize("state", State)
def test_a_restart_leads_to_idle_and_an_unknown_step_nowhere(state: State) -> None:
    assert next_state(state, Event.RESTARTED) is State.IDLE
    for event in set(Event) - {Event.RESTARTED}:
        if (state, event) not in TRANSITIONS:
            with pytest.raises(StateError):
                next_state(state, event)
