"""Behind, and withheld: what one poll learns, and what it must not forget because others get a canary."""

from __future__ import annotations

from datetime import timedelta

import pytest

from device_client.bundle import Counter, Digest
from device_client.policy.lag import Lag, find_lag
from device_client.trust.agreement import AgreedRelease
from device_client.trust.custom import Rollout
from tests.unit.policy.agreed import NOW, agreed

DEVICE = Digest.of(b"device")
NEWEST = agreed(version="2.0.0", counter=2, manifest=b"new")
CANARY = agreed(version="2.0.0", counter=2, manifest=b"new", rollout=Rollout(None, 0))
LATER = agreed(version="2.0.0", counter=2, manifest=b"new", rollout=Rollout(NOW + timedelta(seconds=1), 100))
GONE = agreed(version="2.0.0", counter=2, manifest=b"new", status="withdrawn")
UNKNOWN, NO, HELD, OFFERED = Lag(None, None), Lag(False, False), Lag(True, True), Lag(True, False)

CASES: dict[str, tuple[AgreedRelease | None, int | None, str | None, bool, Lag]] = {
    "the newest runs": (NEWEST, 2, "2.0.0", False, NO),
    "the newest runs and the server is silent": (NEWEST, 2, None, False, NO),
    "something newer than the channel says runs": (NEWEST, 3, None, False, NO),
    "the newest runs and was withdrawn": (GONE, 2, None, False, NO),
    "an older one runs and the newest is offered": (NEWEST, 1, "2.0.0", False, OFFERED),
    "an older one runs and another is offered": (NEWEST, 1, "1.5.0", False, HELD),
    "an older one runs and nothing is offered": (NEWEST, 1, None, False, HELD),
    "nothing runs and nothing is offered": (NEWEST, None, None, False, HELD),
    "an intermediate release was installed": (NEWEST, 1, "1.5.0", True, HELD),
    "no newest release is known": (None, 1, None, False, UNKNOWN),
    "no newest release is known and nothing runs": (None, None, None, False, UNKNOWN),
    "the newest is a canary for others": (CANARY, 1, None, False, UNKNOWN),
    "the newest is a canary, and the server offers what runs": (CANARY, 1, "1.0.0", False, UNKNOWN),
    "the newest opens later": (LATER, 1, None, False, UNKNOWN),
    "the newest was withdrawn": (GONE, 1, None, False, UNKNOWN),
    "an install while no newest release is known": (None, 1, "1.0.0", True, NO),
    "an install while the newest is a canary for others": (CANARY, 1, "1.0.0", True, NO),
}


@pytest.mark.parametrize(("newest", "running", "offered", "activated", "expected"), CASES.values(), ids=CASES.keys())
def test_lag(newest: AgreedRelease | None, running: int | None, offered: str | None, activated: bool, expected: Lag) -> None:
    found = find_lag(
        newest,
        device=DEVICE,
        running=None if running is None else Counter(0, running),
        offered=offered,
        activated=activated,
        now_by_offline_roles=NOW,
    )
    assert found == expected
