"""What width and height alone tell, against neighbors searched one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.index import by_shape
from unsquare.index.by_shape import predict_by_shape, shape_only
from unsquare.index.scan import scan_source
from unsquare.index.table import ShapeIndex
from unsquare.index.text import strings


def make_index(sizes, labels, name: str = "") -> ShapeIndex:
    """Images of these shapes and labels."""
    count = len(labels)
    return ShapeIndex(
        root="/pictures",
        classes=("cat", "dog", "owl"),
        keys=strings([f"{name}{row:05}.jpg" for row in range(count)]),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        labels=np.array(labels, dtype=np.int32),
        splits=strings(["train"] * count),
        num_bytes=np.zeros(count, np.int64),
        modified_ns=np.zeros(count, np.int64),
    )


def vote(known: ShapeIndex, shape, number: int) -> int:
    """The class of one shape by the definition, a shape at a time."""
    by_size: dict[tuple[int, int], Counter] = {}
    for size, label in zip(known.sizes.tolist(), known.labels.tolist()):
        by_size.setdefault(tuple(size), Counter())[label] += 1
    near = sorted(by_size, key=lambda size: (np.square(np.log(size[0]) - np.log(shape[0])) + np.square(
        np.log(size[1]) - np.log(shape[1])), size))  # fmt: skip
    votes: Counter = Counter()
    for size in near:
        if votes.total() >= number:
            break
        votes += by_size[size]
    return min(votes, key=lambda label: (-votes[label], label))


pictures = st.lists(
    st.tuples(st.sampled_from([7, 11, 13, 29, 31]), st.sampled_from([5, 17, 19, 37]), st.integers(0, 2)),
    min_size=2,
    max_size=30,
)


@settings(deadline=None)
@given(known=pictures, asked=pictures, number=st.sampled_from([1, 3, 9]), block=st.sampled_from([1, 40, 1 << 22]))
def test_the_nearest_shapes_vote(known, asked, number: int, block: int) -> None:
    """Each image gets the class that a search one by one gives it, whatever the size of the blocks."""
    one, other = (make_index([each[:2] for each in part], [each[2] for each in part]) for part in (known, asked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_shape, "_BLOCK", block)
        found = predict_by_shape(one, other, (number,))[number]
    assert found.tolist() == [vote(one, size, number) for size in other.sizes.tolist()]


def test_shapes_that_go_with_classes_tell_them(rng) -> None:
    """Two groups of shapes are told apart; labels without structure are not; chance is the most frequent class."""
    sizes = np.concatenate([rng.integers(90, 110, (80, 2)), rng.integers(900, 1100, (120, 2))])
    labels = np.repeat([0, 1], [80, 120])
    known, asked = make_index(sizes[::2], labels[::2]), make_index(sizes[1::2], labels[1::2])
    found = shape_only(known, asked)
    assert found is not None
    assert (found.accuracy, found.mean_per_class_accuracy, found.chance) == (1.0, 1.0, 0.6)
    shuffled = rng.permutation(labels)
    found = shape_only(make_index(sizes[::2], shuffled[::2]), make_index(sizes[1::2], shuffled[1::2]))
    assert found is not None
    assert found.accuracy < 0.75


def test_judges_do_not_choose_the_number_of_neighbors(rng) -> None:
    """It hangs on the images to learn from alone, whoever is asked."""
    known = make_index(rng.integers(20, 60, (200, 2)), rng.integers(0, 3, 200))
    asked = [make_index(rng.integers(20, 60, (50, 2)), rng.integers(0, 3, 50)) for _ in range(6)]
    assert len({shape_only(known, each).neighbors for each in asked}) == 1


def test_without_a_choice_there_is_no_figure() -> None:
    """One class, or nobody to judge."""
    one = make_index([(8, 8), (9, 9)], [1, 1])
    two = make_index([(8, 8), (9, 9)], [1, 2])
    assert shape_only(one, two) is None
    assert shape_only(two, two.take([])) is None
    assert shape_only(two, two) is not None


def test_large_sets_are_sampled(monkeypatch, rng) -> None:
    """By the names of the images, so that the same ones are taken each time."""
    monkeypatch.setattr(by_shape, "MOST_ASKED", 40)
    monkeypatch.setattr(by_shape, "MOST_KNOWN", 60)
    known = make_index(rng.integers(20, 60, (200, 2)), rng.integers(0, 3, 200))
    order = rng.permutation(200)
    assert shape_only(known, known).num_asked == 40
    assert shape_only(known, known) == shape_only(known.take(order), known.take(order))


def test_shapes_of_museum_photographs_tell_their_medium(shared_data) -> None:
    """On MAMe they are right ten times as often as the most frequent class of training."""
    index = scan_source(shared_data / "mame" / "MAMe_dataset.csv")
    found = shape_only(index.of_split("train"), index.of_split("test"))
    assert found is not None
    assert found.accuracy > 0.25
    assert found.chance < 0.05
