"""A way says what is done with which steps, and survives a JSON file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.execution.strategy import PLAIN, RUNGS, Segment, Way


@st.composite
def ways(draw):
    """Ways of any segments."""
    stops = sorted(draw(st.sets(st.integers(1, 40), max_size=6)))
    segments = []
    for start, stop in zip([0, *stops], stops):
        how = draw(st.sampled_from(["keep", "recompute", "stream"]))
        segments.append(Segment(start, stop, how, draw(st.integers(1, 5000)) if how == "stream" else 0))
    return Way(tuple(segments), offload=draw(st.booleans()), bf16=draw(st.booleans()))


@given(ways())
def test_a_way_survives_a_json_file(way):
    """What is written is read back equal, and can be a key."""
    again = Way.from_dict(json.loads(json.dumps(way.to_dict())))
    assert again == way
    assert hash(again) == hash(way)


@given(ways())
def test_what_a_way_says_of_itself(way):
    """A way is plain without segments, and streams where one of them does."""
    assert way.is_plain == (len(way.segments) == 0)
    assert way.streams == any(segment.piece_side > 0 for segment in way.segments)


def test_the_plain_way():
    """Nothing is cut, and bf16 alone cuts nothing either."""
    assert Way.from_dict(PLAIN.to_dict()) == PLAIN
    assert PLAIN.is_plain
    assert not PLAIN.streams
    assert Way(bf16=True).is_plain
    assert RUNGS == ("plain", "bf16", "checkpoint", "offload", "stream")


@pytest.mark.parametrize(
    "values",
    [(2, 2, "keep"), (3, 2, "keep"), (-1, 2, "keep"), (0, 2, "fold"), (0, 2, "stream"), (0, 2, "recompute", 5)],
)
def test_segments_that_make_no_sense(values):
    """A segment has steps, is run in a known manner, and has a side of pieces where it has pieces."""
    with pytest.raises(AssertionError):
        Segment(*values)


@pytest.mark.parametrize("bounds", [[(1, 3)], [(0, 2), (3, 4)], [(0, 2), (1, 4)], [(2, 4), (0, 2)]])
def test_segments_follow_one_another(bounds):
    """From the first step on, without gaps, overlaps or another order."""
    with pytest.raises(AssertionError, match="follow one another"):
        Way(tuple(Segment(start, stop, "keep") for start, stop in bounds))
