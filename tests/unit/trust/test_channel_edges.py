"""The channel document as a closed schema, and the exact moment from which its word counts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from device_client.bundle.counter import Counter
from device_client.limits import Limits
from device_client.trust.channel import Channel, backed_floor, check_latest, parse_channel
from tests.unit.policy.agreed import agreed
from tests.unit.trust.edited import Place, code_of, edited, with_a_stranger, without_one_field

DOCUMENT: dict[str, Any] = {"schema": 1, "latest": "1.0.0", "counter": [0, 3], "floor": [0, 2]}
CHANNEL = Channel("1.0.0", Counter(0, 3), Counter(0, 2))


def _parse(document: object, **changes: Any) -> Channel:
    return parse_channel(json.dumps(document).encode(), **changes)


def test_a_channel_is_written_as_documented_and_read_back() -> None:
    assert json.loads(CHANNEL.to_bytes()) == DOCUMENT
    assert parse_channel(CHANNEL.to_bytes()) == CHANNEL
    assert CHANNEL.to_bytes() == json.dumps(DOCUMENT, sort_keys=True, separators=(",", ":")).encode()


def test_a_floor_may_be_the_newest_release_itself() -> None:
    assert _parse(edited(DOCUMENT, ("floor",), [0, 3])).floor == Counter(0, 3)


def test_a_channel_is_a_closed_schema() -> None:
    assert {code_of(lambda value=value: _parse(value)) for value in with_a_stranger(DOCUMENT)} == {"field_unknown"}
    assert {code_of(lambda value=value: _parse(value)) for value in without_one_field(DOCUMENT)} == {"field_missing"}


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("schema",), 2, "schema_unknown"),
        (("schema",), 0, "schema_unknown"),
        (("latest",), "../1", "name_syntax"),
        (("latest",), 1, "name_syntax"),
        (("counter",), 3, "counter_syntax"),
        (("floor",), [0], "counter_syntax"),
        (("floor",), [0, 4], "floor_above_counter"),
        (("floor",), [1, 0], "floor_above_counter"),
    ],
)
def test_a_channel_with_one_wrong_field_is_refused(place: Place, value: object, code: str) -> None:
    assert code_of(lambda: _parse(edited(DOCUMENT, place, value))) == code


def test_a_channel_beyond_its_limits_is_refused() -> None:
    data = CHANNEL.to_bytes()
    assert parse_channel(data, limits=Limits(max_channel_bytes=len(data))) == CHANNEL
    assert code_of(lambda: parse_channel(data, limits=Limits(max_channel_bytes=len(data) - 1))) == "too_large"
    assert code_of(lambda: parse_channel(data, limits=Limits(max_json_depth=1))) == "too_deep"


def test_the_newest_release_is_the_one_of_that_name_with_that_counter() -> None:
    check_latest(CHANNEL, agreed(version="1.0.0", counter=3))
    for other in (agreed(version="1.0.1", counter=3), agreed(version="1.0.0", counter=2), agreed(version="1.0.0", counter=4)):
        assert code_of(lambda other=other: check_latest(CHANNEL, other)) == "channel_mismatch"


def test_a_floor_counts_from_a_full_release_at_the_floor_on() -> None:
    below, at, above = (agreed(counter=counter) for counter in (1, 2, 3))
    assert backed_floor(CHANNEL, []) is None
    assert backed_floor(CHANNEL, [below]) is None
    assert backed_floor(CHANNEL, [below, at]) == backed_floor(CHANNEL, [above]) == Counter(0, 2)


def test_a_release_for_some_devices_only_backs_no_floor() -> None:
    release = agreed(counter=3)
    partial = replace(release, release=replace(release.release, rollout=replace(release.release.rollout, max_percent=99)))
    assert backed_floor(CHANNEL, [partial]) is None
