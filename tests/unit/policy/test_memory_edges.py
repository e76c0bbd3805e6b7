"""What a refusal out of memory says: a person must see which two bundles carry one name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_client.bundle import Counter, Digest
from device_client.errors import PolicyError
from device_client.policy.memory import Memory, check_memory
from device_client.policy.policy import AcceptancePolicy
from device_client.policy.rollback import HeldBundle, check_rollback_target
from tests.unit.policy.agreed import MODEL, NOW, agreed

HERE, OTHER = Digest.of(b"manifest"), Digest.of(b"other")


@pytest.mark.parametrize(
    ("memory", "where"),
    [
        (Memory(counter=Counter(0, 1), manifest=OTHER), "counter 0.1 of digits/ocr"),
        (Memory(versions={"1.0.0": OTHER}), "digits/ocr/1.0.0"),
    ],
)
def test_one_name_for_two_bundles_is_told_with_the_name_and_both(memory: Memory, where: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        check_memory(agreed(), memory)
    assert (refusal.value.where, refusal.value.expected, refusal.value.actual) == (where, OTHER, HERE)


def test_a_held_bundle_whose_name_now_means_another_is_told_with_both() -> None:
    named = agreed(counter=3, manifest=b"new")
    held = HeldBundle(named.path, HERE, Counter(0, 1), MODEL, named.audit, listed=named)
    with pytest.raises(PolicyError) as refusal:
        check_rollback_target(held, memory=Memory(), policy=AcceptancePolicy(), now=NOW)
    error = refusal.value
    assert (error.code, error.where) == ("equivocation", "digits/ocr/1.0.0")
    assert error.expected == f"digits/ocr/1.0.0 0.1 {HERE}"
    assert error.actual == f"digits/ocr/1.0.0 0.3 {Digest.of(b'new')}"


def test_an_alarm_about_a_held_bundle_names_it() -> None:
    release = agreed()
    held = HeldBundle(release.path, HERE, Counter(0, 1), MODEL, release.audit)
    (alarm,) = check_rollback_target(held, memory=Memory(), policy=AcceptancePolicy(), now=NOW)
    assert "digits/ocr/1.0.0" in alarm.detail
    expired = replace(held, listed=release)
    (alarm,) = check_rollback_target(expired, memory=Memory(), policy=AcceptancePolicy(), now=release.audit.variants[MODEL].expires)
    assert "2026-06-01T13:00:00Z" in alarm.detail
