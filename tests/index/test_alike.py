"""Fingerprints that differ in few bits are found, all of them and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.index import alike as module
from unsquare.index.alike import alike, duplicate_remarks, with_groups
from unsquare.index.holdout import with_validation
from unsquare.index.text import strings

from .test_trainable import make_index

ZERO = np.zeros(4, dtype=np.uint64)


def flipped(bits: list[int]) -> np.ndarray:
    """The fingerprint of zeros with some bits set."""
    found = ZERO.copy()
    for bit in bits:
        found[bit // 64] |= np.uint64(1) << np.uint64(bit % 64)
    return found


@settings(deadline=None)
@given(
    bits=st.lists(st.lists(st.integers(0, 255), max_size=24, unique=True), min_size=2, max_size=12),
    most=st.integers(0, 40),
    block=st.sampled_from([1, 7, 1 << 20]),
)
def test_all_near_pairs_are_found(bits: list[list[int]], most: int, block: int) -> None:
    """As by comparing each pair of fingerprints bit by bit; of equal ones each picture is paired with another."""
    prints = np.array([flipped(each) for each in bits])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = alike(make_index([0] * len(bits)), range(len(bits)), prints, most)
    sets = [frozenset(each) for each in bits]

    def is_near(one: frozenset[int], other: frozenset[int]) -> bool:
        differing = one ^ other
        return len(differing) <= most and sum(bit < 64 for bit in differing) <= most // 2

    for each in found:
        assert is_near(sets[each.first], sets[each.second])
        assert each.distance == len(sets[each.first] ^ sets[each.second])
    related = {frozenset((sets[each.first], sets[each.second])) for each in found}
    for one in set(sets):
        for other in set(sets) - {one}:
            assert (frozenset((one, other)) in related) == is_near(one, other)
        same = [row for row in range(len(sets)) if sets[row] == one]
        if len(same) > 1:
            paired = {row for each in found if each.distance == 0 for row in (each.first, each.second)}
            assert paired >= set(same)


def test_pairs_in_two_splits_come_first_then_two_labels() -> None:
    """Then the nearest; images without a split train."""
    index = make_index([0, 0, 0, 1, 0], ["train", "", "train", "train", "val"])
    prints = np.array([flipped([*range(64, 64 + number)]) for number in (0, 1, 2, 4, 6)])
    found = alike(index, range(5), prints, 4)
    assert [(each.first, each.second) for each in found] == [
        (3, 4),
        (2, 4),
        (2, 3),
        (1, 3),
        (0, 3),
        (0, 1),
        (1, 2),
        (0, 2),
    ]
    assert [each.in_two_splits for each in found] == [True, True, *[False] * 6]
    assert [each.with_two_labels for each in found] == [True, False, True, True, True, False, False, False]
    two_splits, two_labels = duplicate_remarks(index, found)
    assert two_splits.text == (
        "2 pairs of near-duplicates in two splits: '00003.jpg ~ 00004.jpg', '00002.jpg ~ 00004.jpg'."
    )
    assert (two_splits.important, two_labels.kind, two_labels.count) == (True, "near_duplicate_with_two_labels", 4)


def test_labels_and_values_differ_as_classes_do() -> None:
    """Images that have the same labels, or the same value, are alike in that."""
    prints = np.repeat(ZERO[None], 3, axis=0)
    index = make_index([-1] * 3)
    for task, targets in (("multilabel", [[1, 0], [1, 0], [1, 1]]), ("regression", [[1.5], [1.5], [2.0]])):
        targets = np.array(targets, dtype=float)
        names = tuple("ab"[: targets.shape[1]])
        found = alike(replace(index, task=task, classes=names, targets=targets), range(3), prints, 0)
        assert {(each.first, each.second): each.with_two_labels for each in found} == {(0, 1): False, (0, 2): True}


def test_every_copy_in_another_split_is_named() -> None:
    """Equal copies in val are each paired with what train has, be it equal or near."""
    index = make_index([0] * 6, ["train", "train", "val", "val", "val", "val"])
    prints = np.array([ZERO, ZERO, ZERO, ZERO, flipped([70]), flipped([70])])
    found = alike(index, range(6), prints, 4)
    assert {each.second for each in found if each.in_two_splits} == {2, 3, 4, 5}


def test_many_copies_make_few_pairs_and_pairs_are_bounded(monkeypatch) -> None:
    """A thousand equal pictures are 999 pairs; of very many near ones the first are kept."""
    prints = np.repeat(ZERO[None], 1000, axis=0)
    index = make_index([0] * 1000)
    assert len(alike(index, range(1000), prints, 32)) == 999
    monkeypatch.setattr(module, "MOST_PAIRS", 50)
    different = np.array([flipped([64 + row % 190, 64 + row // 190]) for row in range(100)])
    assert len(alike(index, range(100), different, 32)) == 50


def test_near_duplicates_are_held_out_together(rng) -> None:
    """They are groups where no split tears them apart; groups that share one become one, with their name."""
    index = replace(make_index([0] * 30), groups=strings(["p1", "p1", *[""] * 28]))
    pairs = alike(index, [1, 2, 10, 11], np.array([ZERO, ZERO, flipped([64]), flipped([64])]), 0)
    grouped = with_groups(index, pairs)
    assert grouped.groups[:3].tolist() == ["p1"] * 3
    assert grouped.groups[10] == grouped.groups[11] == "like 00010.jpg"
    assert (grouped.groups != "").sum() == 5
    for seed in range(20):
        splits = with_validation(grouped, 0.4, seed).splits
        assert splits[10] == splits[11]
        assert len(set(splits[:3])) == 1
    torn = replace(index, splits=strings(["train"] * 11 + ["val"] * 19))
    assert with_groups(torn, pairs).groups[10:12].tolist() == ["", ""]
