"""What may be dropped from an outbox that nobody empties: only what a later report says again."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from device_client.install.outbox import KEPT_FOR_EVER, MAX_TERMINAL, MAX_WAITING, PAYLOAD_TYPE, TERMINAL, superfluous
from device_client.trust.dsse import sign_envelope

SIGNER = CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(32)))
EVENTS = (
    "installed",
    "current",
    "none",
    "refused",
    "failed",
    "rolled_back",
    "awaiting_audit",
    "withheld",
    "alarm",
    "activated",
    "deferred",
)
_KNOWN: dict[tuple[str, str, str | None], bytes] = {}


def envelope(event: str, *, model: str = "line/model", code: str | None = None) -> bytes:
    """A signed report with what counts here."""
    key = (event, model, code)
    if key not in _KNOWN:
        payload = json.dumps({"model": model, "event": event, "code": code}).encode()
        _KNOWN[key] = sign_envelope(payload, payload_type=PAYLOAD_TYPE, signers=[SIGNER])
    return _KNOWN[key]


def numbered(*envelopes: bytes) -> list[tuple[int, bytes]]:
    return list(enumerate(envelopes, start=1))


def test_up_to_the_bound_everything_is_kept() -> None:
    assert superfluous(numbered(*[envelope("none")] * MAX_WAITING)) == []


def test_beyond_it_the_newest_of_what_tells_of_the_way_stays() -> None:
    waiting = numbered(*[envelope("none")] * MAX_WAITING, envelope("awaiting_audit"), envelope("none", model="line/other"))
    assert superfluous(waiting) == list(range(1, MAX_WAITING))


@pytest.mark.parametrize("event", sorted(TERMINAL))
def test_terminal_reports_beyond_the_first_bound_all_stay(event: str) -> None:
    assert superfluous(numbered(*[envelope(event, code="same")] * MAX_TERMINAL)) == []


@pytest.mark.parametrize("event", ["refused", "failed", "alarm"])
def test_the_same_refusal_beyond_the_last_bound_is_kept_once_for_each_code(event: str) -> None:
    """A hostile server names a new version at each poll and takes no report: the disk must not fill up."""
    waiting = numbered(*[envelope(event, code="a")] * MAX_TERMINAL, envelope(event, code="b"), envelope("installed"))
    assert superfluous(waiting) == list(range(1, MAX_TERMINAL))


@pytest.mark.parametrize("event", sorted(KEPT_FOR_EVER))
def test_what_ran_here_is_never_dropped(event: str) -> None:
    assert superfluous(numbered(*[envelope(event, code="same")] * (MAX_TERMINAL + 50))) == []


def test_what_cannot_be_read_is_kept() -> None:
    assert superfluous(numbered(*[b"damaged"] * (MAX_TERMINAL + 50))) == []


@given(st.lists(st.builds(envelope, st.sampled_from(EVENTS), code=st.sampled_from([None, "a", "b"])), max_size=300))
def test_for_each_thing_said_the_newest_report_of_it_is_still_there(reports: list[bytes]) -> None:
    waiting = numbered(*reports)
    dropped = set(superfluous(waiting))
    kept = [data for counter, data in waiting if counter not in dropped]
    by_event = {
        name: [data for data in reports if data in {envelope(name, code=code) for code in (None, "a", "b")}] for name in EVENTS
    }
    for name, told in by_event.items():
        assert not told or told[-1] in kept
        assert name not in TERMINAL or all(data in kept for data in told)
