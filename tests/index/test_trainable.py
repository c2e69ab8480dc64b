"""What can be trained on, and the split that is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError, SourceError
from unsquare.index import Problem, ShapeIndex, check_trainable, with_validation
from unsquare.index.text import strings
from unsquare.index.trainable import check_groups
from unsquare.index.units import rows_by_group, units_of


def make_index(labels: list[int], splits: list[str] | None = None, prefix: str = "") -> ShapeIndex:
    """An index of images with these labels and splits."""
    count = len(labels)
    return ShapeIndex(
        root="/pictures",
        classes=("cat", "dog", "owl"),
        keys=strings([f"{prefix}{i:05}.jpg" for i in range(count)]),
        sizes=np.full((count, 2), 8, dtype=np.int64),
        labels=np.array(labels, dtype=np.int32),
        splits=strings(splits or [""] * count),
        num_bytes=np.zeros(count, np.int64),
        modified_ns=np.zeros(count, np.int64),
    )


def test_a_whole_index_passes_as_it_is() -> None:
    """Two classes, all labeled, no problems: nothing to say."""
    index = make_index([0, 1, 0])
    assert check_trainable(index, skip_bad=False).keys is index.keys


def test_problems_stop_unless_they_may_be_skipped() -> None:
    """The error counts them, names the first few with reasons, and says what to do."""
    problems = tuple(Problem(key=f"{i}.jpg", reason="is empty") for i in range(5))
    index = replace(make_index([0, 1]), problems=problems)
    with pytest.raises(SourceError, match=r"5 files cannot be read: '0.jpg' is empty; .*; and 2 more.*--skip-bad"):
        check_trainable(index, skip_bad=False)
    with pytest.raises(SourceError, match=r"^1 file cannot be read"):
        check_trainable(replace(index, problems=problems[:1]), skip_bad=False)
    assert check_trainable(index, skip_bad=True).problems == ()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (make_index([]), "no images"),
        (make_index([1, 1]), "at least two classes, but all images are of 'dog'"),
        (make_index([-1, -1]), "No image has a label"),
        (make_index([0, -1, 1]), "1 of 3 images have no label, first '00001.jpg'"),
        (replace(make_index([0, 1]), root=""), "training needs the files"),
        (make_index([0, 1, 0], ["train", "val", "train"]), "all images of train are of 'cat'"),
    ],
)
def test_what_cannot_be_trained_on_says_why(index: ShapeIndex, message: str) -> None:
    """Each fault is one sentence."""
    with pytest.raises(SourceError, match=message):
        check_trainable(index, skip_bad=True)


@given(
    labels=st.lists(st.integers(0, 2), max_size=60),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_every_class_gives_its_part(labels: list[int], fraction: float, seed: int) -> None:
    """Each class of two or more holds out the part asked for, at least one and never all."""
    held = with_validation(make_index(labels), fraction, seed)
    assert set(held.splits) <= {"train", "val"}
    for label in set(labels):
        rows = held.labels == label
        count, num_held = rows.sum(), (held.splits[rows] == "val").sum()
        expected = 0 if count < 2 else min(count - 1, max(1, round(fraction * count)))
        assert num_held == expected


def test_a_new_file_moves_at_most_one_other() -> None:
    """Membership hangs on the names: adding a file changes at most one old file of its class."""
    labels = [0] * 40 + [1] * 40
    before = with_validation(make_index(labels), 0.25, 0).splits
    for extra in range(1, 5):
        after = with_validation(make_index(labels + [0] * extra), 0.25, 0).splits[: len(labels)]
        assert (before != after)[:40].sum() <= extra
        assert not (before != after)[40:].any()


@given(
    group_of=st.lists(st.integers(0, 6), min_size=2, max_size=40),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_copies_are_held_out_together(group_of: list[int], fraction: float, seed: int) -> None:
    """Of a picture that is there several times all or none validate, but where a class has no other picture."""
    index = make_index([0] * len(group_of))
    groups = [[row for row, group in enumerate(group_of) if group == one] for one in set(group_of)]
    held = with_validation(index, fraction, seed, [group for group in groups if len(group) > 1])
    assert set(held.splits) == {"train", "val"}
    if len(groups) > 1:
        assert all(len(set(held.splits[group])) == 1 for group in groups)


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=4, max_size=60),
    copies=st.lists(st.integers(0, 59), max_size=6, unique=True),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 100),
)
def test_no_group_is_torn(rows: list[tuple[int, int]], copies: list[int], fraction: float, seed: int) -> None:
    """Neither a group nor copies, whatever they have in common; and every class keeps something to train on."""
    copies = [row for row in copies if row < len(rows)]
    index = replace(
        make_index([label for label, _ in rows]),
        groups=strings([f"patient {group}" if group else "" for _, group in rows]),
    )
    held = with_validation(index, fraction, seed, [copies] if len(copies) > 1 else [])
    units = units_of(index, [copies] if len(copies) > 1 else [])
    for unit in set(units):
        assert len(set(held.splits[units == unit])) == 1
    for name, at in rows_by_group(index).items():
        assert len(set(units[at])) == 1, name
    for label in set(held.labels):
        assert "train" in held.splits[held.labels == label]


@given(labels=st.lists(st.integers(0, 2), min_size=2, max_size=60), fraction=st.floats(0.05, 0.6))
def test_groups_of_one_image_hold_out_each_classs_part(labels: list[int], fraction: float) -> None:
    """Then the numbers are those without groups."""
    index = make_index(labels)
    grouped = replace(index, groups=strings([f"p{row}" for row in range(len(labels))]))
    for label in set(labels):
        plain, drawn = (with_validation(one, fraction, 3).splits[index.labels == label] for one in (index, grouped))
        assert (plain == "val").sum() == (drawn == "val").sum()


def test_a_class_of_a_few_large_groups_is_judged() -> None:
    """Where one group is more than the part asked for, the nearest is held out; the others train."""
    index = replace(make_index([0] * 9 + [1] * 9), groups=strings([f"p{row // 3}" for row in range(18)]))
    held = with_validation(index, 0.1, 0)
    for label in (0, 1):
        assert (held.splits[held.labels == label] == "val").sum() == 3


def test_groups_are_drawn_by_their_names() -> None:
    """A picture that is added to a group does not move it."""
    groups = [f"p{row // 2}" for row in range(40)]
    index = replace(make_index([0, 1] * 20), groups=strings(groups))
    more = replace(make_index([0, 1] * 20 + [0]), groups=strings([*groups, "p3"]))
    one, other = with_validation(index, 0.3, 5), with_validation(more, 0.3, 5)
    assert set(one.groups[one.splits == "val"]) == set(other.groups[other.splits == "val"])


def test_a_group_in_two_splits_is_refused() -> None:
    """Images without a split train; the sentence names the group and two files, and what to do."""
    index = replace(make_index([0, 1, 0], ["", "train", "val"]), groups=strings(["p1", "p2", "p1"]))
    with pytest.raises(
        SourceError, match=r"'p1' has '00000\.jpg' in train and '00002\.jpg' in val; move them into one split, or leave"
    ):
        check_groups(index)
    check_groups(replace(index, groups=strings(["p1", "p2", "p3"])))
    check_groups(replace(index, splits=strings(["", "train", "train"])))


def test_the_seed_draws_another_part() -> None:
    """The same seed holds out the same files, another seed others."""
    index = make_index([0] * 50 + [1] * 50)
    first = with_validation(index, 0.2, 1).splits
    np.testing.assert_array_equal(first, with_validation(index, 0.2, 1).splits)
    assert (first != with_validation(index, 0.2, 2).splits).any()


def test_splits_of_the_source_stay() -> None:
    """A source with a validation split keeps it; test rows are never held out; blank rows train."""
    kept = with_validation(make_index([0, 1, 0, 1], ["train", "val", "", "test"]), 0.5, 0)
    assert kept.splits.tolist() == ["train", "val", "train", "test"]
    held = with_validation(make_index([0] * 4 + [1] * 4, ["test", "", "", ""] * 2), 0.5, 0)
    assert (held.splits == "test").sum() == 2
    assert (held.splits == "val").sum() == 4


def test_nothing_held_out_when_nothing_is_asked() -> None:
    """A part of 0 leaves all to training; a part of 1 is refused."""
    assert set(with_validation(make_index([0, 1]), 0, 0).splits) == {"train"}
    with pytest.raises(ConfigError, match=r"at least 0 and below 1, but is 1"):
        with_validation(make_index([0, 1]), 1, 0)
