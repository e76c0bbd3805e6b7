"""What a worker prints is untrusted: an outcome or a ``ValueError``, never anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.agent.outcome import ANSWERED, FAILED, KINDS, MAX_BYTES, UNREACHABLE, Outcome, parse_outcome, worst

GOOD = {
    "schema": 1,
    "kind": "answered",
    "words": ["a"],
    "poll_s": 300,
    "retry_after_s": None,
    "reports_waiting": 0,
    "is_watching": False,
}


def test_an_outcome_comes_back_as_it_was_written() -> None:
    for outcome in (Outcome(ANSWERED, ("one", "two"), 300, 7, 2, is_watching=True), Outcome(FAILED)):
        assert parse_outcome(outcome.to_line()) == outcome


BROKEN = {
    "nothing": b"",
    "a traceback": b"Traceback (most recent call last):",
    "two objects": json.dumps(GOOD).encode() * 2,
    "too long": json.dumps(GOOD | {"words": ["x" * MAX_BYTES]}).encode(),
    "too deep": b"[" * 60000,
    "an unknown kind": json.dumps(GOOD | {"kind": "fine"}).encode(),
    "a kind that is no text": json.dumps(GOOD | {"kind": [1]}).encode(),
    "an unknown field": json.dumps(GOOD | {"then": "reboot"}).encode(),
    "a missing field": json.dumps({"schema": 1, "kind": "answered"}).encode(),
    "words that are no list": json.dumps(GOOD | {"words": "abc"}).encode(),
    "words that are no texts": json.dumps(GOOD | {"words": [1]}).encode(),
    "a negative interval": json.dumps(GOOD | {"poll_s": -1}).encode(),
    "an interval that is no integer": json.dumps(GOOD | {"poll_s": 1.5}).encode(),
    "an endless interval": json.dumps(GOOD | {"poll_s": float("inf")}).encode(),
    "a count for yes or no": json.dumps(GOOD | {"is_watching": 1}).encode(),
    "a boolean count": json.dumps(GOOD | {"reports_waiting": True}).encode(),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes|JSON|outcome|texts|count|yes or no"):
        parse_outcome(data)


@given(
    st.binary(max_size=500)
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.dictionaries(st.sampled_from(list(GOOD)), st.none() | st.integers() | st.text()),
    )
)
def test_no_bytes_raise_anything_but_a_value_error(data: bytes) -> None:
    try:
        parse_outcome(data)
    except ValueError:
        return


def test_words_reach_the_log_without_control_characters_and_bounded() -> None:
    (words,) = parse_outcome(json.dumps(GOOD | {"words": ["a\x1b[2J\nb" + "c" * 500]}).encode()).words
    assert words.startswith("a?[2J?b")
    assert len(words) == 200


def test_a_huge_interval_is_kept_small_enough_to_count_with() -> None:
    assert parse_outcome(json.dumps(GOOD | {"poll_s": 10**300}).encode()).poll_s == 10 * 365 * 86400


def test_the_worst_of_several_models_counts() -> None:
    assert worst([]) == ANSWERED
    assert worst([ANSWERED, UNREACHABLE, ANSWERED]) == UNREACHABLE
    assert worst(list(KINDS)) == FAILED
