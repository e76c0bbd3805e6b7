"""Who is judged, which records train a shadow, what a record is called."""

from __future__ import annotations

import hashlib

import numpy as np

from audits.data import check_data
from audits.membership.draws import draw_judged, permute_within_classes, record_names, shadow_masks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 3))
Y = RNG.integers(0, 5, 600)
MEMBER = RNG.random(600) < 0.3 + 0.1 * Y
DATA = check_data({"x": X, "y": Y, "member": MEMBER}, where="test")


def test_every_class_has_the_same_ratio_of_members_to_heldouts() -> None:
    judged = draw_judged(DATA, minimum=2, maximum=10**6, seed=0)
    ratios = [judged.member[DATA.y[judged.rows] == label].mean() for label in range(5)]
    assert max(ratios) - min(ratios) < 0.02
    assert (judged.member == DATA.member[judged.rows]).all()
    assert len(set(judged.rows.tolist())) == len(judged.rows) > 300


def test_a_class_with_one_side_missing_is_named_and_not_judged() -> None:
    member = MEMBER | (Y == 2)
    judged = draw_judged(check_data({"x": X, "y": Y, "member": member}, where="test"), minimum=2, maximum=10**6, seed=0)
    assert judged.thin == ((2, int((Y == 2).sum()), 0),)
    assert not (Y[judged.rows] == 2).any()


def test_masks_are_balanced_independent_and_repeatable() -> None:
    masks = shadow_masks(Y, count=30, share=0.5, seed=3)
    for label in range(5):
        assert len({int(mask[label == Y].sum()) for mask in masks}) == 1
    overlaps = [float((masks[i] & masks[j]).mean()) for i in range(30) for j in range(i)]
    assert abs(np.mean(overlaps) - 0.25) < 0.01
    assert np.std(overlaps) > 0.003  # complementary pairs would show as overlaps of 0
    assert min(overlaps) > 0.2
    np.testing.assert_array_equal(masks, shadow_masks(Y, count=30, share=0.5, seed=3))
    np.testing.assert_array_equal(masks[:4], shadow_masks(Y, count=4, share=0.5, seed=3))


def test_a_permuted_membership_keeps_the_counts_and_forgets_the_records() -> None:
    permuted = permute_within_classes(MEMBER, Y, rng=np.random.default_rng(1))
    for label in range(5):
        assert permuted[label == Y].sum() == MEMBER[label == Y].sum()
    assert 0.3 < (permuted == MEMBER).mean() < 0.7


def test_a_name_needs_all_the_data_to_be_tied_to_a_record() -> None:
    rows = np.arange(10)
    names = record_names(DATA, rows, seed=7)
    assert names == record_names(DATA, rows, seed=7)
    assert len(set(names)) == 10
    assert not set(names) & set(record_names(DATA, rows, seed=8))
    other = check_data({"x": X, "y": Y, "member": ~MEMBER}, where="test")
    assert not set(names) & set(record_names(other, rows, seed=7))
    for salt in (b"", b"7", str(DATA.digest).encode(), bytes.fromhex(str(DATA.digest).removeprefix("sha256:"))):
        plain = hashlib.sha256(salt + DATA.x[0].tobytes() + DATA.y[0].tobytes()).hexdigest()
        assert plain[: len(names[0])] != names[0]
