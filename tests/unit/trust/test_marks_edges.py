"""Version marks: what advances, what is refused, and how two copies of one memory become one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from device_client.bundle.digest import Digest
from device_client.errors import TrustError
from device_client.trust.marks import Marks, VersionMark, advance, keyset_digest, merged
from device_client.trust.trusted_time import BootTime, TimeFloor

OLD_KEYS, NEW_KEYS = Digest.of(b"old keys"), Digest.of(b"new keys")
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AT = BootTime("boot", 100.0)


def _mark(role: str = "timestamp", version: int = 5, *, content: Digest = ONE, keys: Digest = OLD_KEYS) -> VersionMark:
    return VersionMark(role, version, content, keys)


def _floor(role: str = "root", *, minutes: int = 0, keys: Digest = OLD_KEYS) -> TimeFloor:
    return TimeFloor(role, keys, NOW + timedelta(minutes=minutes), "boot", 100.0)


BEFORE = Marks((_mark("snapshot", 7), _mark("timestamp", 5)), (_floor(),))


def test_a_higher_version_takes_the_place_of_the_mark_and_nothing_else_changes() -> None:
    after = advance(BEFORE, [_mark(version=6, content=TWO)])
    assert after == Marks((_mark("snapshot", 7), _mark(version=6, content=TWO)), BEFORE.times)


def test_the_same_version_with_the_same_content_changes_nothing() -> None:
    assert advance(BEFORE, [_mark()]) == BEFORE
    assert advance(BEFORE, []) == BEFORE


def test_marks_are_kept_in_one_order_whatever_the_order_seen() -> None:
    seen = [_mark("b", 1), _mark("a", 2), _mark("a", 1, keys=NEW_KEYS)]
    assert advance(Marks(), seen) == advance(Marks(), reversed(seen)) == Marks(tuple(sorted(seen)))


@pytest.mark.parametrize(
    ("seen", "code", "where"),
    [
        (_mark(version=4), "metadata_rollback", "timestamp"),
        (_mark(version=4, content=TWO), "metadata_rollback", "timestamp"),
        (_mark(content=TWO), "equivocation", "timestamp version 5"),
    ],
)
def test_what_contradicts_a_mark_is_refused_also_behind_others(seen: VersionMark, code: str, where: str) -> None:
    with pytest.raises(TrustError) as refusal:
        advance(BEFORE, [_mark("root", 1), seen])
    assert (refusal.value.code, refusal.value.where) == (code, where)


def test_a_role_contradicts_itself_within_one_refresh_too() -> None:
    with pytest.raises(TrustError) as refusal:
        advance(Marks(), [_mark(version=5), _mark(version=4)])
    assert refusal.value.code == "metadata_rollback"


def test_other_keys_and_other_roles_have_marks_of_their_own() -> None:
    after = advance(BEFORE, [_mark(version=1, keys=NEW_KEYS), _mark("snapshot-x", 1)])
    assert after.versions == tuple(sorted((*BEFORE.versions, _mark(version=1, keys=NEW_KEYS), _mark("snapshot-x", 1))))


def test_of_two_copies_the_higher_mark_of_each_role_stays_whichever_copy_is_old() -> None:
    one = Marks((_mark("a", 3), _mark("b", 1), _mark("only one", 1)))
    other = Marks((_mark("a", 2, content=TWO), _mark("b", 4, content=TWO), _mark("only other", 1)))
    both = (_mark("a", 3), _mark("b", 4, content=TWO), _mark("only one", 1), _mark("only other", 1))
    assert merged(one, other, at=AT).versions == merged(other, one, at=AT).versions == both
    assert merged(one, Marks(), at=AT) == merged(Marks(), one, at=AT) == one


def test_of_two_copies_with_one_version_the_firsts_content_stays() -> None:
    assert merged(Marks((_mark(),)), Marks((_mark(content=TWO),)), at=AT).versions == (_mark(),)
    assert merged(Marks((_mark(content=TWO),)), Marks((_mark(),)), at=AT).versions == (_mark(content=TWO),)


def test_marks_of_other_keys_are_not_merged_into_one() -> None:
    both = merged(Marks((_mark(version=9),)), Marks((_mark(version=2, keys=NEW_KEYS),)), at=AT)
    assert set(both.versions) == {_mark(version=9), _mark(version=2, keys=NEW_KEYS)}


def test_of_two_copies_the_floor_that_reads_later_stays() -> None:
    low, high, alone = _floor(), _floor(minutes=1), _floor("targets")
    both = tuple(sorted((high, alone)))
    assert merged(Marks((), (low,)), Marks((), (high, alone)), at=AT).times == both
    assert merged(Marks((), (high, alone)), Marks((), (low,)), at=AT).times == both
    # it proves less now, but this boot is older than that reading: what counts is what each reads at `at`
    later = TimeFloor("root", OLD_KEYS, NOW, "boot", 0.0)
    assert merged(Marks((), (low,)), Marks((), (later,)), at=AT).times == (later,)


def test_a_key_set_is_named_by_its_values_and_its_threshold_and_nothing_else() -> None:
    one, two = (CryptoSigner.generate_ed25519().public_key for _ in range(2))
    twin = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": one.keyval["public"].upper()})
    name = keyset_digest([one, two], threshold=2)
    assert name == keyset_digest([two, one], threshold=2) == keyset_digest([two, twin], threshold=2)
    assert (
        len({name, keyset_digest([one, two], threshold=1), keyset_digest([one], threshold=2), keyset_digest([], threshold=2)}) == 4
    )
