"""A held bundle runs again where time alone has passed, and never where somebody has spoken against it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import BundlePath, Counter, Digest
from device_client.errors import PolicyError
from device_client.policy.memory import Memory
from device_client.policy.policy import AcceptancePolicy
from device_client.policy.rollback import HeldBundle, check_rollback_target, choose_fallback
from device_client.trust.agreement import AgreedRelease
from device_client.trust.custom import VERDICTS
from tests.unit.policy.agreed import MODEL, NOW, agreed, audit, verdict

HERE, OTHER, BYTES = Digest.of(b"manifest"), Digest.of(b"other"), Digest.of(b"other bytes")
DEFAULT = AcceptancePolicy()
UNLISTED = HeldBundle(BundlePath("digits", "ocr", "1.0.0"), HERE, Counter(0, 1), MODEL, audit())
HELD = replace(UNLISTED, listed=agreed())
AFTER = Memory(counter=Counter(0, 2), manifest=OTHER, versions={"1.0.0": HERE, "2.0.0": OTHER}, seqs={HERE: 1, OTHER: 2})
EXPIRED = {MODEL: verdict(hours=-1)}


def listed(release: AgreedRelease) -> HeldBundle:
    return replace(UNLISTED, listed=release)


def told(held: HeldBundle, memory: Memory = AFTER, policy: AcceptancePolicy = DEFAULT) -> list[str]:
    return [alarm.code for alarm in check_rollback_target(held, memory=memory, policy=policy, now=NOW)]


ACCEPTED: dict[str, tuple[HeldBundle, Memory, list[str]]] = {
    "listed, with its verdict in force": (HELD, AFTER, []),
    "although a higher counter was committed": (HELD, replace(AFTER, counter=Counter(9, 9)), []),
    "at the floor": (HELD, replace(AFTER, floor=Counter(0, 1)), []),
    "listed with a newer entry": (listed(agreed(seq=7)), AFTER, []),
    "no longer listed": (UNLISTED, AFTER, ["entry_unlisted"]),
    "its verdict has expired": (listed(agreed(variants=EXPIRED)), AFTER, ["verdict_expired"]),
    "no longer listed, and its verdict has expired": (
        replace(UNLISTED, audit=audit(variants=EXPIRED)),
        AFTER,
        ["entry_unlisted", "verdict_expired"],
    ),
    "listed without its bytes": (listed(agreed(variants={BYTES: verdict()})), AFTER, ["entry_unlisted"]),
    "withdrawn and restored": (listed(agreed(seq=5)), replace(AFTER, withdrawn={HERE: 4}, withdrawn_variants={MODEL: 4}), []),
    "another bundle was withdrawn": (HELD, replace(AFTER, withdrawn={OTHER: 9}, withdrawn_variants={BYTES: 9}), []),
}


@pytest.mark.parametrize(("held", "memory", "alarms"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_held_bundle_may_run_again(held: HeldBundle, memory: Memory, alarms: list[str]) -> None:
    assert told(held, memory) == alarms


REFUSED: dict[str, tuple[HeldBundle, Memory, AcceptancePolicy, str]] = {
    "below the floor": (HELD, replace(AFTER, floor=Counter(0, 2)), DEFAULT, "below_floor"),
    "below the floor of another epoch": (HELD, replace(AFTER, floor=Counter(1, 0)), DEFAULT, "below_floor"),
    "its version is remembered as another bundle": (HELD, Memory(versions={"1.0.0": OTHER}), DEFAULT, "equivocation"),
    "its counter is remembered as another bundle": (HELD, Memory(counter=Counter(0, 1), manifest=OTHER), DEFAULT, "equivocation"),
    "both roles name other bytes for it now": (listed(agreed(manifest=b"x")), AFTER, DEFAULT, "equivocation"),
    "both roles name another counter for it now": (listed(agreed(counter=3)), AFTER, DEFAULT, "equivocation"),
    "what is listed is of another version": (listed(agreed(version="1.0.1")), AFTER, DEFAULT, "equivocation"),
    "an older entry than acted upon": (listed(agreed(seq=2)), Memory(seqs={HERE: 3}), DEFAULT, "seq_rollback"),
    "withdrawn": (HELD, replace(AFTER, withdrawn={HERE: 1}), DEFAULT, "withdrawn"),
    "withdrawn, and no longer listed": (UNLISTED, replace(AFTER, withdrawn={HERE: 1}), DEFAULT, "withdrawn"),
    "its bytes withdrawn in another bundle": (HELD, replace(AFTER, withdrawn_variants={MODEL: 3}), DEFAULT, "withdrawn"),
    "restored by an entry that does not list its bytes": (
        listed(agreed(seq=5, variants={BYTES: verdict()})),
        replace(AFTER, withdrawn={HERE: 4}, withdrawn_variants={MODEL: 4}),
        DEFAULT,
        "withdrawn",
    ),
    "withdrawn by the entry that is listed now": (listed(agreed(seq=2, status="withdrawn")), AFTER, DEFAULT, "withdrawn"),
    "withdrawn by an entry that does not list its bytes": (
        listed(agreed(seq=2, status="withdrawn", variants={BYTES: verdict()})),
        AFTER,
        DEFAULT,
        "withdrawn",
    ),
    "of an audit policy not accepted here": (HELD, AFTER, AcceptancePolicy(policies={"strict": 1}), "policy_not_accepted"),
    "of an audit policy not accepted here, unlisted": (UNLISTED, AFTER, AcceptancePolicy(policies={"x": 1}), "policy_not_accepted"),
    "its bytes judged under an audit policy not accepted here": (
        listed(agreed(policy="strict", variants={BYTES: verdict()})),
        AFTER,
        AcceptancePolicy(policies={"strict": 1}),
        "policy_not_accepted",
    ),
    "a verdict that turned": (listed(agreed(variants={MODEL: verdict("FAILED")})), AFTER, DEFAULT, "verdict_failed"),
    "waived": (listed(agreed(variants={MODEL: verdict("WAIVED")})), AFTER, DEFAULT, "verdict_waived"),
    "not deep enough": (HELD, AFTER, AcceptancePolicy(minimum_tier="standard"), "tier_not_accepted"),
    "never audited": (replace(UNLISTED, variant=BYTES), AFTER, DEFAULT, "variant_not_audited"),
}


@pytest.mark.parametrize(("held", "memory", "policy", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_held_bundle_may_not_run_again(held: HeldBundle, memory: Memory, policy: AcceptancePolicy, code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        told(held, memory, policy)
    assert caught.value.code == code


def test_a_verdict_is_an_alarm_from_the_second_it_expires() -> None:
    for hours, alarms in ((0.0, ["verdict_expired"]), (1 / 3600, [])):
        assert told(listed(agreed(variants={MODEL: verdict(hours=hours)}))) == alarms


def bundle(counter: int, *, good: bool = True) -> HeldBundle:
    version, manifest = f"{counter}.0.0", f"bundle {counter}".encode()
    word = verdict() if good else verdict("FAILED")
    release = agreed(version=version, counter=counter, manifest=manifest, variants={MODEL: word})
    return HeldBundle(release.path, release.manifest.digest, release.release.counter, MODEL, release.audit, release)


def fallback(*held: HeldBundle, running: HeldBundle | None = None, memory: Memory | None = None) -> HeldBundle | None:
    chosen = choose_fallback(
        held, running=None if running is None else running.manifest, memory=memory or Memory(), policy=DEFAULT, now=NOW
    )
    return None if chosen is None else chosen[0]


@given(st.permutations([bundle(counter) for counter in (1, 2, 3, 4)]))
def test_the_newest_held_bundle_that_may_run_is_chosen_in_whatever_order_they_lie(held: list[HeldBundle]) -> None:
    assert fallback(*held) == bundle(4)
    assert fallback(*held, running=bundle(4)) == bundle(3)
    withdrawn = Memory(withdrawn={bundle(3).manifest: 1})
    assert fallback(*held, running=bundle(4), memory=withdrawn) == bundle(2)
    assert fallback(*held, running=bundle(4), memory=replace(withdrawn, floor=Counter(0, 3))) is None


def test_there_is_no_fallback_where_nothing_held_may_run() -> None:
    assert fallback() is None
    assert fallback(bundle(1), running=bundle(1)) is None
    assert fallback(bundle(1, good=False), bundle(2, good=False)) is None
    assert fallback(bundle(1), bundle(2, good=False)) == bundle(1)


def test_the_alarms_of_the_chosen_bundle_come_with_it() -> None:
    chosen = choose_fallback([UNLISTED], running=OTHER, memory=AFTER, policy=DEFAULT, now=NOW)
    assert chosen is not None
    assert [alarm.code for alarm in chosen[1]] == ["entry_unlisted"]


@given(st.sampled_from(VERDICTS), st.integers(-5, 5), st.booleans())
def test_time_alone_never_takes_a_bundle_away(name: str, days: int, is_listed: bool) -> None:
    word = {MODEL: verdict(name)}
    held = replace(UNLISTED, audit=audit(variants=word), listed=agreed(variants=word) if is_listed else None)

    def outcome(now_days: int) -> str:
        try:
            check_rollback_target(held, memory=AFTER, policy=DEFAULT, now=NOW + timedelta(days=now_days))
        except PolicyError as refusal:
            return refusal.code
        return "accepted"

    assert outcome(days) == outcome(0)
