"""``parse_channel``: what is accepted is written back and read again as the same channel."""

from __future__ import annotations

import random
from collections.abc import Iterator

from device_client.bundle.counter import Counter
from device_client.bundle.strict_json import canonical_json
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.channel import Channel, parse_channel
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.target import accepted, check_strict, promise

MAX_BYTES = 8192
WORDS = (b'"schema"', b'"latest"', b'"counter"', b'"floor"', b"[0,0]", b"[0,1]", b"2147483647", b"2147483648", b"channel")


def fuzz_one(data: bytes) -> None:
    """See the module."""
    check_strict(data, max_bytes=DEFAULT_LIMITS.max_channel_bytes)
    channel = accepted(lambda: parse_channel(data))
    if channel is None:
        return
    promise(parse_channel(channel.to_bytes()) == channel, "written back, it is another channel")
    promise(channel.floor <= channel.counter, "a floor above the counter")
    promise("/" not in channel.latest and ".." not in channel.latest, "a version that climbs")


def seeds() -> Iterator[bytes]:
    """Good ones, and one of each defect."""
    yield Channel("1.0.0", Counter(0, 1), Counter(0, 0)).to_bytes()
    yield Channel("v2", Counter(2**31 - 1, 2**31 - 1), Counter(2**31 - 1, 2**31 - 1)).to_bytes()
    good = {"schema": 1, "latest": "1.0.0", "counter": [0, 2], "floor": [0, 1]}
    for change in (
        {"schema": 2}, {"floor": [0, 3]}, {"latest": "channel"}, {"latest": "../1"}, {"counter": [0, True]}, {"counter": [0]},
        {"more": 1}, {"latest": None},
    ):  # fmt: skip
        yield canonical_json({**good, **change})
    yield b'{"schema":1,"schema":1,"latest":"1","counter":[0,1],"floor":[0,0]}'


def mutate(data: bytes, rng: random.Random) -> bytes:
    """JSON changes."""
    return mutate_json(data, rng)
