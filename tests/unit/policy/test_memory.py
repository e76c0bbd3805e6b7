"""What was seen before cannot be unseen: counters, floors, names, withdrawals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import Counter, Digest
from device_client.errors import SealiftError
from device_client.policy.memory import Memory, check_memory, check_variant_memory, is_withdrawn, raised_floor, with_running
from device_client.trust.agreement import AgreedRelease
from tests.unit.policy.agreed import MODEL, agreed

HERE = Digest.of(b"manifest")
OTHER = Digest.of(b"other")

ACCEPTED: dict[str, tuple[AgreedRelease, Memory]] = {
    "the first release ever": (agreed(), Memory()),
    "a higher counter": (agreed(counter=2, version="2"), Memory(counter=Counter(0, 1), manifest=OTHER, versions={"1": OTHER})),
    "the same bundle again": (agreed(), Memory(counter=Counter(0, 1), manifest=HERE, versions={"1.0.0": HERE})),
    "a counter at the floor": (agreed(counter=3), Memory(floor=Counter(0, 3))),
    "the audit entry acted upon": (agreed(seq=4), Memory(seqs={HERE: 4})),
    "restored by a higher seq": (agreed(seq=5), Memory(withdrawn={HERE: 4})),
    "another bundle was withdrawn": (agreed(), Memory(withdrawn={OTHER: 4})),
}
REFUSED: dict[str, tuple[AgreedRelease, Memory, str]] = {
    "a lower counter": (agreed(counter=1), Memory(counter=Counter(0, 2), manifest=OTHER), "counter_rollback"),
    "a lower epoch": (agreed(counter=9), Memory(counter=Counter(1, 0), manifest=OTHER), "counter_rollback"),
    "the counter of another bundle": (agreed(), Memory(counter=Counter(0, 1), manifest=OTHER), "equivocation"),
    "the version of another bundle": (agreed(counter=2), Memory(Counter(0, 1), OTHER, {"1.0.0": OTHER}), "equivocation"),
    "a counter below the floor": (agreed(counter=2), Memory(floor=Counter(0, 3)), "below_floor"),
    "an older audit entry": (agreed(seq=3), Memory(seqs={HERE: 4}), "seq_rollback"),
    "withdrawn": (agreed(seq=4), Memory(withdrawn={HERE: 4}), "withdrawn"),
    "withdrawn, with an older entry shown": (agreed(seq=3), Memory(withdrawn={HERE: 4}), "withdrawn"),
}


@pytest.mark.parametrize(("release", "memory"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_agrees_with_memory_is_accepted(release: AgreedRelease, memory: Memory) -> None:
    check_memory(release, memory)


@pytest.mark.parametrize(("release", "memory", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_contradicts_memory_is_refused(release: AgreedRelease, memory: Memory, code: str) -> None:
    with pytest.raises(SealiftError) as caught:
        check_memory(release, memory)
    assert caught.value.code == code


def test_withdrawn_bytes_are_refused_in_any_bundle_until_a_higher_seq() -> None:
    memory = Memory(withdrawn_variants={MODEL: 4})
    check_variant_memory(Digest.of(b"another model"), agreed(seq=1), memory)
    check_variant_memory(MODEL, agreed(seq=5), memory)
    with pytest.raises(SealiftError) as caught:
        check_variant_memory(MODEL, agreed(seq=4), memory)
    assert caught.value.code == "withdrawn"


WITHDRAWN: dict[str, tuple[Memory, bool]] = {
    "nothing is remembered": (Memory(), False),
    "the bundle was withdrawn": (Memory(withdrawn={HERE: 4}, seqs={HERE: 4}), True),
    "the bundle was withdrawn, and nothing else is known of it": (Memory(withdrawn={HERE: 4}), True),
    "the bundle was restored": (Memory(withdrawn={HERE: 4}, seqs={HERE: 5}), False),
    "its bytes were withdrawn in another bundle": (Memory(withdrawn_variants={MODEL: 4}, seqs={HERE: 2}), True),
    "its bytes were restored in this bundle": (Memory(withdrawn_variants={MODEL: 4}, seqs={HERE: 5}), False),
    "the bundle was restored before its bytes were withdrawn": (
        Memory(withdrawn={HERE: 4}, withdrawn_variants={MODEL: 6}, seqs={HERE: 5}),
        True,
    ),
    "another bundle and other bytes were withdrawn": (Memory(withdrawn={OTHER: 4}, withdrawn_variants={OTHER: 4}), False),
}


@pytest.mark.parametrize(("memory", "expected"), WITHDRAWN.values(), ids=WITHDRAWN.keys())
def test_a_running_bundle_is_withdrawn_with_its_manifest_or_its_bytes_until_restored(memory: Memory, expected: bool) -> None:
    assert is_withdrawn(HERE, MODEL, memory) is expected


def test_a_lower_counter_is_told_before_the_floor() -> None:
    with pytest.raises(SealiftError) as caught:
        check_memory(agreed(counter=1), Memory(counter=Counter(0, 3), manifest=OTHER, floor=Counter(0, 2)))
    assert caught.value.code == "counter_rollback"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_a_floor_is_the_highest_seen_whatever_the_order(seen: list[tuple[int, int]]) -> None:
    floor: Counter | None = None
    for epoch, n in seen:
        floor = raised_floor(floor, Counter(epoch, n))
    assert floor == Counter(*max(seen))


def test_what_runs_uncommitted_counts_as_the_newest_only_if_it_is() -> None:
    old, new = Digest.of(b"old"), Digest.of(b"new")
    empty = with_running(Memory(), counter=Counter(0, 3), manifest=new, version="3")
    assert (empty.counter, empty.manifest, empty.versions) == (Counter(0, 3), new, {"3": new})
    before = Memory(counter=Counter(0, 2), manifest=old, versions={"2": old}, floor=Counter(0, 1), seqs={old: 4})
    raised = with_running(before, counter=Counter(0, 3), manifest=new, version="3")
    assert (raised.counter, raised.manifest, raised.versions) == (Counter(0, 3), new, {"2": old, "3": new})
    assert (raised.floor, raised.seqs) == (before.floor, before.seqs)
    for counter in (Counter(0, 2), Counter(0, 1)):
        lower = with_running(before, counter=counter, manifest=new, version="x")
        assert (lower.counter, lower.manifest, lower.versions) == (Counter(0, 2), old, {"2": old, "x": new})
