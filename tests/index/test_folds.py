"""Folds: every image judges once, classes are spread evenly, and nothing that belongs together is torn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unsquare.errors import SourceError
from unsquare.index.folds import with_folds
from unsquare.index.table import ShapeIndex
from unsquare.index.text import strings
from unsquare.index.units import units_of

from .test_trainable import make_index


def folds_of(index: ShapeIndex, folds: int, seed: int = 0, copies=()) -> np.ndarray:
    """The fold that judges each image, from 1; 0 for those that none does."""
    held = np.stack([each.splits == "val" for each in with_folds(index, folds, seed, copies)])
    assert held.sum(axis=0).max() <= 1
    return np.where(held.any(axis=0), held.argmax(axis=0) + 1, 0)


@given(labels=st.lists(st.integers(0, 2), min_size=5, max_size=60), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_each_image_judges_once_and_classes_are_spread(labels: list[int], folds: int, seed: int) -> None:
    """The images of a class in any two folds differ by one at most, and so do all images of them by the classes."""
    index = make_index(labels)
    assume(len(set(labels)) > 1)
    try:
        found = folds_of(index, folds, seed)
    except SourceError:  # the only image of a class judges, so one class is left
        assert sorted(np.bincount(labels)[np.bincount(labels) > 0])[0] == 1
        return
    assert found.min() >= 1
    for label in set(labels):
        counts = np.bincount(found[index.labels == label], minlength=folds + 1)[1:]
        assert counts.max() - counts.min() <= 1
    counts = np.bincount(found, minlength=folds + 1)[1:]
    assert counts.max() - counts.min() <= 1


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), min_size=30, max_size=80),
    copies=st.lists(st.integers(0, 29), min_size=2, max_size=5, unique=True),
)
def test_groups_and_copies_are_judged_together(rows: list[tuple[int, int]], copies: list[int]) -> None:
    """Whatever they have in common."""
    groups = [f"patient {group}" if group else "" for _, group in rows]
    index = replace(make_index([label for label, _ in rows]), groups=strings(groups))
    units = units_of(index, [copies])
    if len(set(units)) < 3:
        return
    try:
        found = folds_of(index, 3, copies=[copies])
    except SourceError as error:
        assume("is left to train on" not in str(error))
        raise
    assert all(len(set(found[units == unit])) == 1 for unit in set(units))


def test_groups_are_spread_evenly(rng) -> None:
    """Sixty groups of one to ten images in five folds: each has a fifth of each class, to a tenth."""
    sizes = rng.integers(1, 11, 60)
    labels = np.repeat(rng.integers(0, 3, 60), sizes)
    index = replace(make_index(labels.tolist()), groups=strings([f"p{at}" for at in np.repeat(np.arange(60), sizes)]))
    found = folds_of(index, 5)
    for label in range(3):
        counts = np.bincount(found[labels == label], minlength=6)[1:]
        assert np.abs(counts / counts.sum() - 0.2).max() < 0.1


def test_splits_of_the_source_are_dealt_but_test_stays() -> None:
    """Rows of val, train and none are dealt; test is judged by every run."""
    index = make_index([0, 1] * 6, ["test", "val", "train", ""] * 3)
    one = with_folds(index, 3, 0)[0]
    assert ((one.splits == "test") == (index.splits == "test")).all()
    assert folds_of(index, 3)[index.splits != "test"].min() == 1


def test_the_seed_deals_and_names_decide() -> None:
    """The same seed deals the same folds, another seed others."""
    index = make_index([0, 1, 2] * 20)
    np.testing.assert_array_equal(folds_of(index, 4, 1), folds_of(index, 4, 1))
    assert (folds_of(index, 4, 1) != folds_of(index, 4, 2)).any()


def test_more_folds_than_images_are_refused() -> None:
    """A group counts as one."""
    index = replace(make_index([0, 1, 0, 1]), groups=strings(["p", "p", "q", ""]))
    with pytest.raises(
        SourceError, match=r"4 folds need at least as many images, .* but there are 3; give fewer --folds"
    ):
        with_folds(index, 4, 0)


def test_folds_that_leave_nothing_to_learn_or_judge_are_refused() -> None:
    """All of them before the first is trained, whichever it is."""
    torn = replace(make_index([0, 0, 1, 1]), groups=strings(["a", "a", "b", "b"]))
    with pytest.raises(SourceError, match=r"with fold 1 of 2 only the class '.*' is left to train on; give another"):
        with_folds(torn, 2, 0)
    few = make_index([-1] * 6)
    few = replace(few, task="multilabel", classes=("p",), targets=np.array([[1.0], [0], [0], [0], [0], [0]]))
    with pytest.raises(SourceError, match=r"no image to judge has any label|all images left to train"):
        with_folds(few, 3, 0)
    same = replace(few, task="regression", classes=("age",), targets=np.array([[1.0], [2], [2], [2], [2], [2]]))
    with pytest.raises(SourceError, match="all images left to train on have the same value"):
        with_folds(same, 3, 0)
